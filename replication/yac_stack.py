"""Several YoutubeAudioClassifiers, trained at once on the same batches.

The arrays of one network are a few kilobytes, so most of a step is overhead. Here K networks, each
with its own learning rate, loss and head, share the batches, the operations and the optimizer of a
step. Each computes the same function as `tagging/networks/yac.py`, up to rounding, and can be
converted back to it.

Arrays have the models first and the batch innermost: (K, channels, height, width, batch), on the
device of the networks. A step changes its state in place, so that a CUDA graph can replay it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from replication.conv_block import EPS, Geometry, conv_block
from replication.replay import Replayed
from replication.study import LOSSES
from tagging.data.spec import InputSpec
from tagging.networks.yac import Network

MOMENTUM = 0.1  # default of PyTorch's running statistics
BETAS, ADAM_EPS = (0.9, 0.999), 1e-8  # defaults of PyTorch's Adam
CLIP, POOLED = (10, 128), (6, 41)  # frames x bins of a clip, before and after max pooling

ConvBlock = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # as `conv_block`


def features(embeddings: torch.Tensor, pool_width: int = 8) -> torch.Tensor:
    """Return the embeddings of clips, and after them the same after the network's max pooling.

    Neither depends on the weights, so both are computed once and not in every step.

    Args:
        embeddings: (clips, 10, 128), of any type.
        pool_width: the kernel of the max pooling, in bins: 6, 7 or 8 give the same shape.

    Returns:
        (clips, 1526), of the same type.
    """
    pooled = functional.max_pool2d(
        embeddings.unsqueeze(1).to(torch.get_default_dtype()), (2, pool_width), (2, 3), (1, 0)
    )
    return torch.cat([embeddings.flatten(1), pooled.flatten(1).to(embeddings.dtype)], dim=1)


def _blocks(network: Network) -> dict[str, Geometry]:
    """Return the geometry of each convolution block of the network, by name."""
    return {
        name: Geometry(
            *((size, size) if isinstance(size, int) else tuple(size)
              for size in (part[0].stride, part[0].dilation, part[0].padding))
        )
        for name, part in network.named_modules()
        if isinstance(part, nn.Sequential) and isinstance(part[0], nn.Conv2d)
    }  # fmt: skip


class YacStack:
    """K networks as one array of parameters, with one backward pass for all.

    Args:
        networks: the networks, of equal shapes.
        block: computes a convolution block.

    Attributes:
        flat: float32 (K, 3213), the parameters of each network; `parameters` are views of it.
        running: the running means and variances by name, float32 (K, channels).
    """

    def __init__(self, networks: Sequence[Network], block: ConvBlock = conv_block) -> None:
        first = networks[0]
        self._conv_block = block
        self._geometry = _blocks(first)
        softmax = torch.tensor([network.head == "softmax" for network in networks])
        device = first.linear.weight.device
        self._softmax = softmax.to(device).view(-1, 1, 1) if softmax.any() else None
        shapes = {name: p.shape for name, p in first.named_parameters()}
        states = [network.state_dict() for network in networks]
        self.flat = torch.stack(
            [torch.cat([state[name].flatten() for name in shapes]) for state in states]
        )
        self.running = {
            name: torch.stack([state[name] for state in states])
            for name in states[0]
            if name.rsplit(".", 1)[-1] in ("running_mean", "running_var")
        }
        self.parameters = {}
        begin = 0
        for name, shape in shapes.items():
            view = self.flat[:, begin : begin + shape.numel()].view(len(networks), *shape)
            self.parameters[name] = view.detach().requires_grad_()
            begin += shape.numel()

    def states(self) -> list[dict[str, torch.Tensor]]:
        """Return the state of each network, for `Network.load_state_dict(.., strict=False)`.

        It lacks the counts of batches (`num_batches_tracked`), which nothing reads.
        """
        named = {name: p.detach() for name, p in self.parameters.items()} | self.running
        return [
            {name: tensor[k].clone() for name, tensor in named.items()}
            for k in range(len(self.flat))
        ]

    def forward(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """Return the outputs of the networks, float32 (K, batch, labels).

        Args:
            x: `features` in [0, 1), float32 (batch, 1526).
            training: whether to normalize by the batch and to update the running statistics.
        """
        block = lambda name, h: self._block(name, h, training)  # noqa: E731
        clip, pooled = x.t().contiguous().split([math.prod(CLIP), math.prod(POOLED)])
        h = block("intra_init", clip.view(1, 10, 16, 8, -1))  # (K, 5, 16, 8, batch)
        intra = block("intra_stride", h) + block("intra_wide", h)
        intra = intra + block("intra_tall.1", block("intra_tall.0", h))  # (K, 2, 8, 4, batch)
        h = block("inter_conv.1", block("inter_conv.0", clip.view(1, 1, *CLIP, -1)))
        h = h + block("inter_max.1", pooled.view(1, 1, *POOLED, -1))  # (K, 8, 6, 41, batch)
        inter = block("inter_down.1", block("inter_down.0", h)).transpose(2, 3)
        h = self._norm(intra + inter, training).flatten(1, 3)  # (K, 64, batch)
        weight, bias = self.parameters["linear.weight"], self.parameters["linear.bias"]
        scores = torch.baddbmm(bias.unsqueeze(2), weight, h).transpose(1, 2)  # (K, batch, labels)
        if self._softmax is not None:
            scores = torch.where(self._softmax, scores.softmax(2), scores)
        return scores

    def _block(self, name: str, x: torch.Tensor, training: bool) -> torch.Tensor:
        """Apply a convolution block, with the statistics of the batch or the running ones."""
        parameters = [
            self.parameters[f"{name}.{part}"]
            for part in ("0.weight", "0.bias", "1.weight", "1.bias")
        ]
        norm, geometry = f"{name}.1", self._geometry[name]
        if not training:
            return self._conv_block(x, *parameters, geometry, self._statistics(norm))[0]
        y, mean, var = self._conv_block(x, *parameters, geometry)
        self._update(norm, mean, var, y.shape[2] * y.shape[3] * y.shape[4])
        return y

    def _norm(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """Apply the batch normalization before the linear layer, with K times the channels."""
        models, channels = x.shape[:2]
        weight, bias = (self.parameters[f"norm.{part}"].flatten() for part in ("weight", "bias"))
        rows = x.reshape(1, models * channels, -1)
        if training:
            var, mean = torch.var_mean(rows.detach(), dim=(0, 2), correction=0)
            self._update("norm", mean.view(models, -1), var.view(models, -1), rows.shape[2])
            y = functional.batch_norm(rows, None, None, weight, bias, training=True, eps=EPS)
        else:
            mean, var = (part.flatten() for part in self._statistics("norm"))
            y = functional.batch_norm(rows, mean, var, weight, bias, eps=EPS)
        return y.view(x.shape)

    def _statistics(self, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.running[f"{norm}.running_mean"], self.running[f"{norm}.running_var"]

    @torch.no_grad()
    def _update(self, norm: str, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
        running_mean, running_var = self._statistics(norm)
        running_mean.lerp_(mean, MOMENTUM)
        running_var.lerp_(var * (count / (count - 1)), MOMENTUM)  # unbiased, as PyTorch


class StackedAdam:
    """Adam (Kingma and Ba, 2014, arXiv 1412.6980) with a learning rate for each row.

    Args:
        flat: float32 (K, parameters), updated in place.
        lrs: a learning rate for each row.
    """

    def __init__(self, flat: torch.Tensor, lrs: Sequence[float]) -> None:
        self.flat = flat
        self.lrs = torch.tensor(lrs, device=flat.device).unsqueeze(1)
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        # In single precision 1 - 0.999 would lose four digits.
        self._betas = torch.tensor(BETAS, dtype=torch.float64, device=flat.device)
        self.steps = torch.zeros((), dtype=torch.float64, device=flat.device)

    @torch.no_grad()
    def step(self, gradient: torch.Tensor) -> None:
        """Update the parameters; `gradient` is float32 (K, parameters)."""
        self.steps += 1
        mean_correction, square_correction = 1 - self._betas**self.steps
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        denominator = self.square.sqrt().div_(square_correction.sqrt()).add_(ADAM_EPS)
        self.flat.sub_((self.mean * (self.lrs / mean_correction)).div_(denominator))


class StackTrainer:
    """Trains K networks, each with its own loss and learning rate, on the same batches.

    Args:
        networks: the networks, of equal shapes.
        losses: the name of each network's loss.
        lrs: the learning rate of each network.
        block: computes a convolution block.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        losses: Sequence[str],
        lrs: Sequence[float],
        block: ConvBlock = conv_block,
    ) -> None:
        self.stack = YacStack(networks, block)
        self.optimizer = StackedAdam(self.stack.flat, lrs)
        # The losses of neighbours with the same loss function are computed together.
        self._losses = [(LOSSES[name], len(list(same))) for name, same in groupby(losses)]

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Make one step; return the loss of each network before it, float32 (K,).

        Args:
            x: `features` in [0, 1), float32 (batch, 1526).
            labels: float32 (batch, labels), 0 or 1.
        """
        outputs = self.stack.forward(x, training=True)
        parts = outputs.split([number for _, number in self._losses])
        losses = torch.cat(
            [
                torch.vmap(loss, in_dims=(0, None))(part, labels)
                for (loss, _), part in zip(self._losses, parts, strict=True)
            ]
        )
        # Networks share no parameter: the gradient of the sum has the gradient of each.
        parameters = list(self.stack.parameters.values())
        gradients = torch.autograd.grad(losses.sum(), parameters, materialize_grads=True)
        self.optimizer.step(torch.cat([g.flatten(1) for g in gradients], dim=1))
        return losses.detach()

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that the next step depends on."""
        return {
            "flat": self.stack.flat,
            "mean": self.optimizer.mean,
            "square": self.optimizer.square,
            "steps": self.optimizer.steps,
        } | self.stack.running

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a state that `state` returned."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


class EpochLoop:
    """Runs epochs of a `StackTrainer` on clips that are on its device.

    Args:
        trainer: the trainer of the networks.
        x: `features` of all clips, uint8 (clips, 1526).
        labels: uint8 (clips, labels).
        spec: scales bytes to a network's input.
    """

    def __init__(
        self, trainer: StackTrainer, x: torch.Tensor, labels: torch.Tensor, spec: InputSpec
    ) -> None:
        self._trainer, self._x, self._labels, self._spec = trainer, x, labels, spec
        self._order = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._offsets = torch.arange(len(x), device=x.device)
        self._begin = torch.zeros(1, dtype=torch.long, device=x.device)  # of the batch
        networks = len(trainer.stack.flat)
        self._total = torch.zeros(networks, dtype=torch.float64, device=x.device)
        self._steps: dict[int, Replayed] = {}  # by batch size

    def run(self, batches: Sequence[np.ndarray]) -> np.ndarray:
        """Make a step with each batch of clip positions; return mean losses, float64 (K,)."""
        order = torch.from_numpy(np.concatenate(batches))
        self._order[: len(order)] = order.to(self._order.device)
        self._begin.zero_()
        self._total.zero_()
        for size in map(len, batches):
            if size not in self._steps:
                self._steps[size] = Replayed(partial(self._step, size), self._x.device)
            self._steps[size]()
        return (self._total / len(order)).cpu().numpy()

    def _step(self, size: int) -> None:
        positions = self._order[self._begin + self._offsets[:size]]
        x = self._spec.as_input(self._x[positions])
        losses = self._trainer.step(x, self._labels[positions].float())
        self._total.add_(losses, alpha=size)
        self._begin += size
