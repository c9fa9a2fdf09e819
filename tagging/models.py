"""Configured models: from `models.<name>` of params.yaml, or a file of weights, to a network."""

import importlib
import json
from collections.abc import Mapping
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tagging.batches import Clips, as_input
from tagging.dataset import Split
from tagging.errors import UserError
from tagging.files import whole_file
from tagging.labels import Label
from tagging.parameters import Float, Section, parse, read_entries, read_models

ARCHITECTURES = Path(__file__).parent / "architectures"


class Model(Section):
    """One entry of `models`: an architecture, its settings, and what it trains otherwise."""

    architecture: str = Field(
        description="the name of a file in tagging/architectures, without its .py"
    )
    network: dict[str, Any] = Field(description="a mapping of the architecture's settings")
    train: dict[str, Any] = Field({}, description="a mapping of what replaces entries of train")


class Student(Model):
    """One entry of `students`: a model that learns what an ensemble says."""

    teacher: str = Field(description="the name of an entry of ensembles")
    label_weight: Float = Field(
        description="a number from 0 to 1: what the labels count beside the teacher", ge=0, le=1
    )


class Shape(NamedTuple):
    """What a network is made for: clips of `seconds` frames, or up to so many, and their labels."""

    seconds: int
    labels: list[Label]
    any_length: bool = False


def shape_of(split: Split) -> Shape:
    """Return what a network for the clips of a split is made for."""
    seconds = split.embeddings.shape[1]
    return Shape(seconds, split.names, bool((split.frames < seconds).any()))


def load_model(name: str) -> Model:
    """Read the entry `models.<name>` or `students.<name>` of params.yaml.

    Raises:
        UserError: if there is none, or it is not as it should be.
    """
    models, students = read_models(), read_entries("students")
    if name not in models | students:
        there = ", ".join(models | students)
        raise UserError(f"params.yaml: models.{name} is missing; the models there: {there}")
    if name in students:
        return parse(Student, students[name], f"students.{name}")
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
    # Networks take clips of any length unless they say otherwise.
    if shape.any_length and not getattr(architecture.Network, "any_length", True):
        raise UserError(
            f"models.{name}: {model.architecture} takes clips of one length only; "
            f"set prepare.seconds to {shape.seconds}, or remove the model"
        )
    settings = parse(architecture.Settings, model.network, f"models.{name}.network")
    try:
        return architecture.Network(settings, shape.seconds, len(shape.labels))
    except ValueError as error:
        raise UserError(f"models.{name}: {error}") from None


def save_network(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    model: Model,
    shape: Shape,
    checkpoints: Mapping[int, Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Write weights and, in the metadata, all that is needed to rebuild the network.

    Args:
        path: file to write.
        weights: what the training kept.
        model: what the network was built from.
        shape: likewise.
        checkpoints: weights after single epochs, by the number of the epoch.
    """
    checkpoints = checkpoints or {}
    # One metadata key: safetensors does not keep the order of several, and bytes must not vary.
    description = {
        "architecture": model.architecture,
        "network": model.network,
        "seconds": shape.seconds,
        "any_length": shape.any_length,
        "labels": [label._asdict() for label in shape.labels],
        "checkpoints": list(checkpoints),
    }
    named = {**weights}
    for epoch, of_epoch in checkpoints.items():
        named |= {f"{_checkpoint(epoch)}{name}": tensor for name, tensor in of_epoch.items()}
    with whole_file(path) as partial:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in named.items()}
        save_file(tensors, partial, {"model": json.dumps(description)})


def _checkpoint(epoch: int) -> str:
    return f"checkpoint {epoch}/"


class Trained(NamedTuple):
    """A trained network as its file has it, ready to score clips, and other weights for it."""

    network: nn.Module
    shape: Shape
    checkpoints: dict[int, dict[str, torch.Tensor]]


def load_network(path: Path, device: torch.device) -> Trained:
    """Rebuild a trained network from its file alone.

    Raises:
        UserError: if the file is damaged or is no network's.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            description = json.loads(file.metadata()["model"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"{path} is no trained network ({error}); train it again") from None
    checkpoints = {
        epoch: {
            name.removeprefix(_checkpoint(epoch)): weights.pop(name)
            for name in list(weights)
            if name.startswith(_checkpoint(epoch))
        }
        for epoch in description["checkpoints"]
    }
    labels = [Label(**label) for label in description["labels"]]
    shape = Shape(description["seconds"], labels, description["any_length"])
    model = Model(architecture=description["architecture"], network=description["network"])
    network = build(model, shape, path.stem).to(device)
    network.load_state_dict(weights)
    return Trained(network.eval(), shape, checkpoints)


@torch.inference_mode()
def score(
    network: nn.Module,
    embeddings: torch.Tensor,
    frames: torch.Tensor | None = None,
    batch_size: int = 256,
) -> torch.Tensor:
    """Return the network's outputs for all clips: float32 (clips, labels).

    Args:
        network: as `load_network` gives it; put into evaluation mode.
        embeddings: uint8 (clips, seconds, 128), on the network's device.
        frames: int64 (clips,), each clip's number of frames; None where no clip is padded.
        batch_size: clips at a time; beyond rounding, the result does not depend on it. With more
            than the default, what layers give no longer stays in a core's cache.
    """
    network.eval()
    pieces = embeddings.split(batch_size)
    lengths = repeat(None, len(pieces)) if frames is None else frames.split(batch_size)
    return torch.cat([network(as_input(x), n) for x, n in zip(pieces, lengths, strict=True)])


def answers(network: nn.Module, clips: Clips) -> np.ndarray:
    """Return the network's outputs for all clips, as `score`, in NumPy: float32 (clips, labels)."""
    return score(network, clips.embeddings, clips.frames).cpu().numpy()
