"""Several YoutubeAudioClassifiers trained at once, on the same batches.

A step of one such network is mostly overhead: its arrays are a few kilobytes. Here K networks, each
with a learning rate, loss and head of its own, share a step: batches, operations and the optimizer
are paid once. Each is the same function as `architectures/yac.py`, up to rounding, and can be
turned back into it.

Arrays have the models first and the batch innermost: (K, channels, height, width, batch).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from tagging.architectures.yac import Network
from tagging.conv_block import EPS, Geometry, conv_block
from tagging.losses import LOSSES

MOMENTUM = 0.1  # of PyTorch's running statistics
BETAS, ADAM_EPS = (0.9, 0.999), 1e-8  # of PyTorch's Adam


def _blocks(network: Network) -> dict[str, Geometry]:
    """Return the names of the network's conv blocks, and the geometry of their convolutions."""
    return {
        name: Geometry(
            *((size, size) if isinstance(size, int) else tuple(size)
              for size in (part[0].stride, part[0].dilation, part[0].padding))
        )
        for name, part in network.named_modules()
        if isinstance(part, nn.Sequential) and isinstance(part[0], nn.Conv2d)
    }  # fmt: skip


class YacStack:
    """K networks as one array of parameters, with their gradients computed together.

    Attributes:
        flat: float32 (K, 3213), every network's parameters in a row; `parameters` are views of it.
        running: the running means and variances by their names, float32 (K, channels).
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        first = networks[0]
        self._pool = first.inter_max[0]
        self._geometry = _blocks(first)
        softmax = [network.head == "softmax" for network in networks]
        self._softmax = torch.tensor(softmax).view(-1, 1, 1) if any(softmax) else None
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
        """Return each network's state, as `Network.load_state_dict(.., strict=False)` takes it.

        Only the counts of batches seen are missing, which nothing reads.
        """
        named = {name: p.detach() for name, p in self.parameters.items()} | self.running
        return [
            {name: tensor[k].clone() for name, tensor in named.items()}
            for k in range(len(self.flat))
        ]

    def forward(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """Return the networks' outputs, float32 (K, batch, labels).

        Args:
            x: embeddings in [0, 1), float32 (batch, 10, 128).
            training: whether to normalize by the batch and update the running statistics.
        """
        block = lambda name, h: self._block(name, h, training)  # noqa: E731
        innermost = x.permute(1, 2, 0).contiguous()  # (10, 128, batch)
        h = block("intra_init", innermost.view(1, 10, 16, 8, -1))  # (K, 5, 16, 8, batch)
        intra = block("intra_stride", h) + block("intra_wide", h)
        intra = intra + block("intra_tall.1", block("intra_tall.0", h))  # (K, 2, 8, 4, batch)
        h = block("inter_conv.1", block("inter_conv.0", innermost.view(1, 1, 10, 128, -1)))
        pooled = self._pool(x.unsqueeze(1)).permute(1, 2, 3, 0).unsqueeze(0)  # (1, 1, 6, 41, batch)
        h = h + block("inter_max.1", pooled)  # (K, 8, 6, 41, batch)
        inter = block("inter_down.1", block("inter_down.0", h)).transpose(2, 3)
        h = self._norm(intra + inter, training).flatten(1, 3)  # (K, 64, batch)
        weight, bias = self.parameters["linear.weight"], self.parameters["linear.bias"]
        scores = torch.baddbmm(bias.unsqueeze(2), weight, h).transpose(1, 2)  # (K, batch, labels)
        if self._softmax is not None:
            scores = torch.where(self._softmax, scores.softmax(2), scores)
        return scores

    def _block(self, name: str, x: torch.Tensor, training: bool) -> torch.Tensor:
        parameters = [
            self.parameters[f"{name}.{part}"]
            for part in ("0.weight", "0.bias", "1.weight", "1.bias")
        ]
        norm, geometry = f"{name}.1", self._geometry[name]
        if not training:
            return conv_block(x, *parameters, geometry, self._statistics(norm))[0]
        y, mean, var = conv_block(x, *parameters, geometry)
        self._update(norm, mean, var, y.shape[2] * y.shape[3] * y.shape[4])
        return y

    def _norm(self, x: torch.Tensor, training: bool) -> torch.Tensor:
        """Batch normalization without convolution: K models are K times the channels."""
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
        running_var.lerp_(var * (count / (count - 1)), MOMENTUM)  # the unbiased one, as PyTorch


class StackedAdam:
    """Adam (Kingma and Ba, 2014, arXiv 1412.6980) with a learning rate for each row."""

    def __init__(self, flat: torch.Tensor, lrs: Sequence[float]) -> None:
        self.flat = flat
        self.lrs = torch.tensor(lrs).unsqueeze(1)
        self.mean, self.square = torch.zeros_like(flat), torch.zeros_like(flat)
        self.steps = 0

    @torch.no_grad()
    def step(self, gradient: torch.Tensor) -> None:
        """Update the parameters; `gradient` is float32 (K, parameters)."""
        self.steps += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = (1 - BETAS[1] ** self.steps) ** 0.5
        denominator = self.square.sqrt().div_(scale).add_(ADAM_EPS)
        rates = self.lrs / (1 - BETAS[0] ** self.steps)
        self.flat.sub_((self.mean * rates).div_(denominator))


class StackTrainer:
    """Steps of K networks with their own losses and learning rates, on the same batches."""

    def __init__(
        self, networks: Sequence[Network], losses: Sequence[str], lrs: Sequence[float]
    ) -> None:
        self.stack = YacStack(networks)
        self.optimizer = StackedAdam(self.stack.flat, lrs)
        self._rows = {
            name: torch.tensor([k for k, loss in enumerate(losses) if loss == name])
            for name in dict.fromkeys(losses)
        }

    def step(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Make one step; return each network's loss before it, float32 (K,).

        Args:
            x: as `YacStack.forward` takes it.
            labels: float32 (batch, labels), 0 or 1.
        """
        outputs = self.stack.forward(x, training=True)
        losses = torch.empty(len(outputs))
        parts = []
        for name, rows in self._rows.items():
            part = torch.vmap(LOSSES[name], in_dims=(0, None))(outputs[rows], labels)
            losses[rows] = part.detach()
            parts.append(part.sum())
        # Networks share nothing: the gradient of the sum is each one's own gradient.
        parameters = list(self.stack.parameters.values())
        gradients = torch.autograd.grad(sum(parts), parameters, materialize_grads=True)
        self.optimizer.step(torch.cat([g.flatten(1) for g in gradients], dim=1))
        return losses

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the next step depends on but the count of steps."""
        return {
            "flat": self.stack.flat,
            "mean": self.optimizer.mean,
            "square": self.optimizer.square,
        } | self.stack.running

    def load(self, state: dict[str, torch.Tensor], steps: int) -> None:
        """Go on from what `state` returned after so many steps."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self.optimizer.steps = steps
