"""One training in several processes, started by PyTorch's `torchrun`: each has a part of a batch.

Started without it there is one process, and nothing here does anything. Batches, mixup's partners
and augmentation are drawn for the whole batch, alike in all processes, and the loss is the whole
batch's: but for rounding, weights are those of one process. What differs: batch normalization takes
the statistics of a process's own part (the first process's are kept), and dropout drops other
units.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tagging.base.errors import UserError
from tagging.data.batches import Batch, Clips
from tagging.learning.device import pick_device

LEAST = 2  # clips that a network takes at once: batch normalization needs two


def join(device_name: str) -> None:
    """Meet the other processes, if `torchrun` started this one: on a GPU each, or on CPUs.

    Raises:
        UserError: if there is no GPU for each, or the device is neither a CUDA GPU nor a CPU.
    """
    if not distributed.is_torchelastic_launched():
        return
    device = pick_device(device_name)
    if device.type == "cuda":
        own, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= there:
            raise UserError(f"torchrun starts more processes than GPUs; --nproc-per-node {there}")
        torch.cuda.set_device(own)
    elif device.type != "cpu":
        raise UserError(f"params.yaml: run.device is {device.type}; torchrun takes cuda or cpu")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(distributed.destroy_process_group)


def size() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process. Number 0 is the one that writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


@contextmanager
def first_alone() -> Iterator[None]:
    """Have the first process do something before all others do it."""
    if rank() > 0:
        distributed.barrier()
    yield
    if size() > 1 and rank() == 0:
        distributed.barrier()


def read(
    clips: Clips, chosen: np.ndarray, rate: float, alpha: float, mixing: np.random.Generator
) -> Batch:
    """Return a batch; of several processes, each reads its part and what that is mixed with.

    Other clips of the batch are zero.

    Args:
        clips: to train on.
        chosen: the batch's places among them, int64 (batch,).
        rate: of `mix`, as is `alpha`.
        mixing: what `mix` will draw from; nothing is drawn here.
    """
    if size() == 1:
        return clips.batch(chosen)
    rows = np.arange(*_taken(len(chosen)))
    if rate > 0:
        ahead = deepcopy(mixing)
        mixed = ahead.random(len(chosen)) < rate
        ahead.beta(alpha, alpha, len(chosen))
        partners = ahead.permutation(len(chosen))
        rows = np.union1d(rows, partners[rows][mixed[rows]])
    own = clips.batch(chosen[rows])
    x = own.x.new_zeros(len(chosen), *own.x.shape[1:])
    x[torch.from_numpy(rows).to(x.device)] = own.x
    targets = clips.labels if clips.targets is None else clips.targets
    labels = torch.from_numpy(targets[chosen]).float().to(clips.device)
    frames = clips.frames if clips.frames is None else clips.frames[chosen]
    return Batch(x, labels, frames if frames is None else torch.from_numpy(frames).to(clips.device))


def divided(network: nn.Module) -> nn.Module:
    """Return what computes the network's outputs for a batch in all processes together."""
    return network if size() == 1 else GlobalBatchDDP(network)


class GlobalBatchDDP(nn.Module):
    """A network that computes its part of a batch's outputs, and takes those of other processes.

    Gradients are those of the whole batch.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = DistributedDataParallel(network)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
        """Return the outputs for all clips, as the network does: (batch, classes)."""
        start, stop = _part(len(x))
        first, last = _taken(len(x))
        own = self._network(x[first:last], None if frames is None else frames[first:last])
        own = own[start - first : stop - first].float()  # which autocast does not leave them
        outputs = own.new_zeros(len(x), own.shape[1])
        outputs[start:stop] = own.detach()
        distributed.all_reduce(outputs)
        # DistributedDataParallel takes the mean of the processes' gradients; theirs add up.
        own.register_hook(lambda gradient: gradient * size())
        return torch.cat([outputs[:start], own, outputs[stop:]])


def _part(batch: int) -> tuple[int, int]:
    """Return from where to where this process's part of a batch goes; it may be empty."""
    return rank() * batch // size(), (rank() + 1) * batch // size()


def _taken(batch: int) -> tuple[int, int]:
    """Return what of a batch this process computes: its part, or `LEAST` clips if that is less."""
    start, stop = _part(batch)
    first = min(start, batch - LEAST)
    return first, max(stop, first + LEAST)
