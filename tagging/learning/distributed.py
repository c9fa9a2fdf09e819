"""Training in several processes, started by PyTorch's `torchrun`: each has a part of every batch.

Without `torchrun` there is one process, whose part is the whole batch. Random numbers are drawn for
the whole batch, alike in all processes, and the loss is that of the whole batch: except for
rounding, weights are those of one process. Two things differ: batch normalization uses the
statistics of a process's own part (those of the first process are saved), and dropout drops other
units.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tagging.base.errors import UserError
from tagging.layers.base import TaggingNetwork
from tagging.learning.device import pick_device
from tagging.learning.losses import Loss

MIN_CLIPS = 2  # in a batch, for batch normalization


def join(device_name: str) -> None:
    """Connect to the other processes if `torchrun` started this one: on a GPU each, or on CPUs.

    Raises:
        UserError: if there are too few GPUs, or the device is neither a CUDA GPU nor a CPU.
    """
    if not distributed.is_torchelastic_launched():
        return
    device = pick_device(device_name)
    if device.type == "cuda":
        rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if rank >= gpus:
            raise UserError(
                f"torchrun starts more processes than GPUs: use --nproc-per-node={gpus}"
            )
        torch.cuda.set_device(rank)
    elif device.type != "cpu":
        raise UserError(
            f"params.yaml: runtime.device must be cuda or cpu with torchrun, got {device.type}"
        )
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(distributed.destroy_process_group)


def world_size() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process. Process 0 writes all files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Return whether this process writes the files."""
    return rank() == 0


@contextmanager
def first_before_others() -> Iterator[None]:
    """Let the first process run a block before all others run it."""
    if not is_first():
        distributed.barrier()
    yield
    if world_size() > 1 and is_first():
        distributed.barrier()


def owned_rows(batch_size: int) -> slice:
    """Return the rows of a batch whose outputs this process contributes; maybe none."""
    return slice(rank() * batch_size // world_size(), (rank() + 1) * batch_size // world_size())


def computed_rows(batch_size: int) -> slice:
    """Return the rows that this process computes: those it owns, but `MIN_CLIPS` or more."""
    owned = owned_rows(batch_size)
    start = min(owned.start, batch_size - MIN_CLIPS)
    return slice(start, max(owned.stop, start + MIN_CLIPS))


def wrap(network: TaggingNetwork, loss: Loss) -> TaggingNetwork:
    """Return the network that computes the outputs of a batch in all processes together.

    Raises:
        UserError: if there are several processes and the loss compares embeddings.
    """
    if world_size() == 1:
        return network
    if loss.compares_embeddings:
        raise UserError(
            f"params.yaml: train.loss must be a loss of classes with torchrun, got {loss.name}"
        )
    return GlobalBatchDDP(network)


class GlobalBatchDDP(TaggingNetwork):
    """Computes the outputs of some rows of a batch and receives the others from other processes.

    Gradients are those of the whole batch.
    """

    def __init__(self, network: TaggingNetwork) -> None:
        super().__init__()
        self._network = DistributedDataParallel(network)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the outputs of all clips, (batch, classes); only computed rows of `x` are read."""
        owned, computed = owned_rows(len(x)), computed_rows(len(x))
        own = self._network(x[computed], None if frames is None else frames[computed])
        # Under autocast, outputs are bfloat16.
        own = own[owned.start - computed.start : owned.stop - computed.start].float()
        outputs = own.new_zeros(len(x), own.shape[1])
        outputs[owned] = own.detach()
        distributed.all_reduce(outputs)
        # DistributedDataParallel averages the gradients of the processes; the sum is needed.
        own.register_hook(lambda gradient: gradient * world_size())
        return torch.cat([outputs[: owned.start], own, outputs[owned.stop :]])
