"""The file of a trained network: its weights, and in the metadata all that scoring needs."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tagging.base.errors import UserError
from tagging.base.files import atomic_write
from tagging.layers.base import TaggingNetwork
from tagging.learning.calibration import Calibration
from tagging.learning.factory import instantiate
from tagging.learning.model import SAVED_EPOCH, Model, ModelSpec
from tagging.learning.thresholds import Confidence

FORMAT = 1  # version of the metadata and the tensors' names
Description = dict[str, Any]
State = dict[str, torch.Tensor]
MODEL_SPEC, CALIBRATION = TypeAdapter(ModelSpec), TypeAdapter(Calibration)


class Decision(NamedTuple):
    """How outputs become probabilities and confident labels.

    `thresholds` are the probabilities from which on a class is confident: float32 (classes,), NaN
    where there is none. `calibration` is None where outputs are not calibrated.
    """

    thresholds: np.ndarray
    calibration: Calibration | None


class TrainedModel(NamedTuple):
    """A trained network in evaluation mode, and the weights of its saved epochs.

    `clips` is the decision for clips, which may be windows of recordings; `recordings` that for
    the mean probabilities of a recording's windows, if the network was trained on windows.
    """

    network: TaggingNetwork
    model_spec: ModelSpec
    saved_epochs: dict[int, dict[str, torch.Tensor]]
    target_precision: float | None
    clips: Decision
    recordings: Decision | None = None


def save_network(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    model: Model,
    model_spec: ModelSpec,
    saved_epochs: Mapping[int, Mapping[str, torch.Tensor]] | None = None,
    origin: Mapping[str, Any] | None = None,
    confidence: Confidence | None = None,
) -> None:
    """Write the file of a trained network atomically.

    Args:
        path: file to write.
        weights: of the network.
        model: the entry that the network was built from.
        model_spec: its input, classes and outputs.
        saved_epochs: weights after single epochs, by the number of the epoch.
        origin: where published weights come from.
        confidence: thresholds and calibration; None without validation.
    """
    saved_epochs = saved_epochs or {}
    # One metadata key: safetensors does not keep the order of several, and bytes must not vary.
    description = {
        "format": FORMAT,
        "architecture": model.architecture,
        "network": model.network,
        "input": model_spec.spec._asdict(),
        "features": model_spec.features,
        "activation": model_spec.activation,
        "classes": [label._asdict() for label in model_spec.classes],
        "saved_epochs": list(saved_epochs),
        **({"embedding_size": model.embedding_size} if model.embedding_size else {}),
        **({"published": origin} if origin else {}),
        **(confidence.describe([label.name for label in model_spec.classes]) if confidence else {}),
    }
    tensors = dict(weights)
    for epoch, epoch_weights in saved_epochs.items():
        tensors |= {f"{_prefix(epoch)}{name}": value for name, value in epoch_weights.items()}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as partial:
        save_file(tensors, partial, {"model": json.dumps(description)})


def _prefix(epoch: int) -> str:
    return f"{SAVED_EPOCH}{epoch}/"


def load_network(
    path: Path, device: torch.device, convert: Callable[[Description, State], State] | None = None
) -> TrainedModel:
    """Rebuild a trained network from its file alone.

    Args:
        path: of the file.
        device: for the tensors.
        convert: returns the network's state dict from the description and the tensors of a file
            that may have another layout.

    Raises:
        UserError: if the file is missing, damaged, of another format, or of an architecture that
            this version does not have.
    """
    description, tensors = _read(path, device)
    try:
        model_spec = MODEL_SPEC.validate_python(
            {"spec": description["input"]}
            | {key: description[key] for key in ("classes", "activation", "features")}
        )
        model = Model(
            architecture=description["architecture"],
            network=description["network"],
            embedding_size=description.get("embedding_size"),
        )
        saved_epochs = {
            epoch: _pop_epoch(tensors, epoch) for epoch in list(description["saved_epochs"])
        }
        names = [label.name for label in model_spec.classes]
        recordings = description.get("recordings")
        decisions = (
            _read_decision(description, names),
            _read_decision(recordings, names) if recordings else None,
        )
        network = instantiate(model, model_spec.spec, len(names), "model", path).to(device)
        network.load_state_dict(convert(description, tensors) if convert else tensors)
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _not_a_network(path, error) from None
    return TrainedModel(
        network.eval(),
        model_spec,
        saved_epochs,
        description.get("target_precision"),
        *decisions,
    )


def _read_decision(description: Mapping[str, Any], names: list[str]) -> Decision:
    by_name = description.get("thresholds", {})
    thresholds = [by_name.get(name, {}).get("threshold") for name in names]
    calibration = description.get("calibration")
    if calibration is not None:
        calibration = CALIBRATION.validate_python(calibration)
        if calibration.offsets is not None and len(calibration.offsets) != len(names):
            raise ValueError(f"{len(calibration.offsets)} offsets of {len(names)} classes")
    return Decision(np.array(thresholds, np.float32), calibration)


def _read(path: Path, device: torch.device) -> tuple[Description, State]:
    """Read the description and all tensors."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            description = json.loads(file.metadata()["model"])
            version = description.get("format")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _not_a_network(path, error) from None
    if version != FORMAT:
        raise UserError(
            f"{path} must be a trained network of format {FORMAT}, got "
            f"{'one without a format' if version is None else f'format {version!r}'}; train it "
            "anew, or use the version of this project that wrote it"
        )
    return description, tensors


def _pop_epoch(tensors: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
    prefix = _prefix(epoch)
    return {
        name.removeprefix(prefix): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(prefix)
    }


def _not_a_network(path: Path, error: Exception) -> UserError:
    problem = shorten(str(error), 160, placeholder=" ..")
    return UserError(
        f"{path} must be a trained network, as the stages train and weights write it, but is not: "
        f"{problem}"
    )
