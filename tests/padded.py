"""What the tests of several networks ask alike: of maps, of clips that are padded, of gradients."""

from types import ModuleType

import torch
from torch import nn
from torch.nn import functional

from tagging.data.spec import InputSpec
from tagging.parameters import parse

EMBEDDINGS = InputSpec(1, 10, 128)


def clips(number: int, spec: InputSpec = EMBEDDINGS, frames: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (number, spec.channels, frames or spec.frames, spec.bins)
    return torch.randn(shape, generator=generator)


def build(
    module: ModuleType, settings: dict, spec: InputSpec = EMBEDDINGS, labels: int = 10, **others
) -> nn.Module:
    """Return a module's network, without dropout unless it is asked for."""
    torch.manual_seed(0)
    given = parse(module.Settings, {"dropout": 0.0} | settings | others, "network")
    return module.Network(given, spec, labels)


def shapes(network: nn.Module, x: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape, without the batch, of the tensor that each module gives, or gives first."""
    found = {}

    def note(name, out):
        first = out[0] if isinstance(out, tuple) else out
        if isinstance(first, torch.Tensor):
            found[name] = tuple(first.shape[1:])

    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: note(name, out))
    network(x)
    return found


def practised(network: nn.Module, spec: InputSpec) -> nn.Module:
    """Let batch normalization see clips, so that it is not the identity when it evaluates."""
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(clips(8, spec) * 2 + 1)
    return network.eval()


def silenced(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return clips with zeros after so many frames, as batches are padded."""
    for clip, length in zip(x, lengths, strict=True):
        clip[:, length:] = 0
    return x


def assert_padding_changes_no_answer(
    network: nn.Module, x: torch.Tensor, lengths: torch.Tensor
) -> None:
    """Hold clips of these lengths, padded together, against each clip alone."""
    together = silenced(x, lengths)
    with torch.inference_mode():
        alone = torch.cat(
            [
                network(clip[None, :, :length])
                for clip, length in zip(together, lengths, strict=True)
            ]
        )
        torch.testing.assert_close(network(together, lengths), alone)
        longer = functional.pad(together, (0, 0, 0, 6))
        torch.testing.assert_close(network(longer, lengths), alone)
        # The test could fail: without the lengths, padding does change the answers.
        assert not torch.allclose(network(longer), alone, atol=1e-3)


def assert_gradients_reach_every_parameter(
    network: nn.Module, x: torch.Tensor, lengths: torch.Tensor
) -> None:
    """Train on clips of these lengths, in float64, and look at each parameter's gradient."""
    network = network.double()
    network(silenced(x.double(), lengths), lengths).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-9, name
