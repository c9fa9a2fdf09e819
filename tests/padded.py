"""Assertions that tests of several networks share: on shapes, padded clips and gradients."""

from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tagging.data.parameters import parse
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork

EMBEDDINGS = InputSpec(1, 10, 128)


def clips(number: int, spec: InputSpec = EMBEDDINGS, frames: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (number, spec.channels, frames or spec.frames, spec.bins)
    return torch.randn(shape, generator=generator)


def build(
    module: ModuleType,
    settings: dict,
    spec: InputSpec = EMBEDDINGS,
    labels: int = 10,
    **overrides: Any,
) -> TaggingNetwork:
    """Return the network of a module, without dropout by default."""
    torch.manual_seed(0)
    checked = parse(module.Settings, {"dropout": 0.0} | settings | overrides, "network")
    return module.Network(checked, spec, labels)


def output_shapes(network: nn.Module, x: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape, without the batch, of the (first) output of each module."""
    shapes = {}

    def record(name, out):
        first = out[0] if isinstance(out, tuple) else out
        if isinstance(first, torch.Tensor):
            shapes[name] = tuple(first.shape[1:])

    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: record(name, out))
    network(x)
    return shapes


def with_batch_statistics(network: nn.Module, spec: InputSpec) -> nn.Module:
    """Update the batch statistics, so that normalization is no identity in evaluation."""
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(clips(8, spec) * 2 + 1)
    return network.eval()


def zero_padding(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Set clips to zero after their lengths, in place, as in padded batches."""
    for clip, length in zip(x, lengths, strict=True):
        clip[:, length:] = 0
    return x


def assert_padding_has_no_effect(
    network: nn.Module, x: torch.Tensor, lengths: torch.Tensor
) -> None:
    """Compare the outputs of a padded batch with those of each clip alone."""
    padded = zero_padding(x, lengths)
    with torch.inference_mode():
        alone = torch.cat(
            [network(clip[None, :, :length]) for clip, length in zip(padded, lengths, strict=True)]
        )
        torch.testing.assert_close(network(padded, lengths), alone)
        longer = functional.pad(padded, (0, 0, 0, 6))
        torch.testing.assert_close(network(longer, lengths), alone)
        # The test can fail: without the lengths, padding does change the outputs.
        assert not torch.allclose(network(longer), alone, atol=1e-3)


def assert_gradients_reach_every_parameter(
    network: nn.Module, x: torch.Tensor, lengths: torch.Tensor
) -> None:
    """Check the gradient of each parameter, in float64, for clips of these lengths."""
    network = network.double()
    network(zero_padding(x.double(), lengths), lengths).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-9, name
