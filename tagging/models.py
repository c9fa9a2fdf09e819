"""Configured models: from `models.<name>` of params.yaml, or a file of weights, to a network."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tagging.batches import as_input
from tagging.errors import UserError
from tagging.files import whole_file
from tagging.labels import Label
from tagging.parameters import Section, parse, read_models

ARCHITECTURES = Path(__file__).parent / "architectures"


class Model(Section):
    """One entry of `models`: an architecture, its settings, and what it trains otherwise."""

    architecture: str = Field(
        description="the name of a file in tagging/architectures, without its .py"
    )
    network: dict[str, Any] = Field(description="a mapping of the architecture's settings")
    train: dict[str, Any] = Field({}, description="a mapping of what replaces entries of train")


class Shape(NamedTuple):
    """What a network is made for: clips of `seconds` frames, tagged with these labels."""

    seconds: int
    labels: list[Label]


def load_model(name: str) -> Model:
    """Read the entry `models.<name>` of params.yaml.

    Raises:
        UserError: if there is none, or it is not as it should be.
    """
    models = read_models()
    if name not in models:
        there = ", ".join(models)
        raise UserError(f"params.yaml: models.{name} is missing; the models there: {there}")
    return parse(Model, models[name], f"models.{name}")


def build(model: Model, shape: Shape, name: str) -> nn.Module:
    """Build the network of a model, its parameters drawn from PyTorch's random generator.

    Raises:
        UserError: naming the setting of `models.<name>` that the architecture does not take.
    """
    if not (ARCHITECTURES / f"{model.architecture}.py").is_file():
        there = ", ".join(sorted(file.stem for file in ARCHITECTURES.glob("*.py")))
        raise UserError(
            f"params.yaml: models.{name}.architecture is {model.architecture!r}; it takes {there}"
        )
    architecture = importlib.import_module(f"tagging.architectures.{model.architecture}")
    settings = parse(architecture.Settings, model.network, f"models.{name}.network")
    try:
        return architecture.Network(settings, shape.seconds, len(shape.labels))
    except ValueError as error:
        raise UserError(f"models.{name}: {error}") from None


def save_network(
    path: Path, weights: Mapping[str, torch.Tensor], model: Model, shape: Shape
) -> None:
    """Write weights and, in the metadata, all that is needed to rebuild the network."""
    # One metadata key: safetensors does not keep the order of several, and bytes must not vary.
    description = {
        "architecture": model.architecture,
        "network": model.network,
        "seconds": shape.seconds,
        "labels": [label._asdict() for label in shape.labels],
    }
    with whole_file(path) as partial:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, partial, {"model": json.dumps(description)})


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, Shape]:
    """Rebuild a trained network from its file alone, ready to score clips.

    Raises:
        UserError: if the file is damaged or is no network's.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            description = json.loads(file.metadata()["model"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no trained network ({error}); train it again") from None
    shape = Shape(description["seconds"], [Label(**label) for label in description["labels"]])
    model = Model(architecture=description["architecture"], network=description["network"])
    network = build(model, shape, path.stem).to(device)
    network.load_state_dict(weights)
    return network.eval(), shape


@torch.inference_mode()
def score(network: nn.Module, embeddings: torch.Tensor, batch_size: int = 1024) -> torch.Tensor:
    """Return the network's outputs for all clips: float32 (clips, labels).

    Args:
        network: as `load_network` gives it; put into evaluation mode.
        embeddings: uint8 (clips, seconds, 128), on the network's device.
        batch_size: clips at a time; beyond rounding, the result does not depend on it.
    """
    network.eval()
    return torch.cat([network(as_input(batch)) for batch in embeddings.split(batch_size)])
