"""Networks of configured models: built, and started from the weights of another."""

import importlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tagging.base.errors import UserError
from tagging.data.parameters import PARAMS_NAME, parse
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.learning.model import SAVED_EPOCH, Model

NETWORKS = Path(__file__).parents[1] / "networks"


def build_network(
    model: Model, spec: InputSpec, classes: int, name: str, file: Path = Path(PARAMS_NAME)
) -> TaggingNetwork:
    """Build the network of an entry of a params.yaml.

    Args:
        model: the entry.
        spec: the input of the network.
        classes: their number.
        name: of the entry, for errors.
        file: that has the entry, for errors.

    Raises:
        UserError: as `instantiate`.
    """
    return instantiate(model, spec, classes, f"{model.section}.{name}", file)


def instantiate(
    model: Model, spec: InputSpec, classes: int, key: str, file: Path
) -> TaggingNetwork:
    """Build a network, its parameters drawn from PyTorch's global generator.

    Args:
        model: the architecture and its settings.
        spec: the input of the network.
        classes: their number.
        key: the dotted key of the model in `file`, for errors.
        file: that has the model, for errors.

    Raises:
        UserError: if there is no such architecture, or it does not fit the settings or the input.
    """
    architectures = sorted(path.stem for path in NETWORKS.glob("*.py"))
    if model.architecture not in architectures:
        raise UserError(
            f"{file}: {key}.architecture must be one of {', '.join(architectures)}, got "
            f"{model.architecture!r}"
        )
    module = importlib.import_module(f"tagging.networks.{model.architecture}")
    settings = parse(module.Settings, model.network, f"{key}.network", file)
    try:
        network = module.Network(settings, spec, model.embedding_size or classes)
    except UserError as error:
        raise UserError(f"{file}: {key}: {error}") from None
    network.embeds_by_output = model.embedding_size is not None
    if spec.any_length and not network.supports_variable_length:
        raise UserError(
            f"{file}: {key}: clips must all have {spec.frames} frames for {model.architecture}, "
            "but some have fewer; leave them out (prepare), or remove the model"
        )
    return network


def load_pretrained(network: TaggingNetwork, path: Path, freeze: bool = False) -> None:
    """Replace the weights of a network by those of a file, except for its classifier layers.

    Args:
        network: of the same architecture, or one that adapts the weights of the file.
        path: of a trained network, or of published weights.
        freeze: whether training leaves the loaded layers unchanged, in evaluation mode.

    Raises:
        UserError: if the file is missing, damaged, or of another network.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error})") from None
    last = {name: value for name, value in tensors.items() if not name.startswith(SAVED_EPOCH)}
    try:
        source = network.adapt_weights(last)
        _copy(_without_classifier(network, source), _without_classifier(network, _state(network)))
    except UserError as error:
        raise UserError(f"{path} is of another network: {error}") from None
    if freeze:
        network.freeze()


def _state(network: nn.Module) -> dict[str, torch.Tensor]:
    return dict(network.state_dict())


def _without_classifier(
    network: TaggingNetwork, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not network.is_classifier(name)}


def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into those of a network: all of them, or none."""
    for name in {**target, **source}:
        if name not in target:
            raise UserError(f"it has weights {name}, the network has none")
        if name not in source:
            raise UserError(f"it has no weights {name}")
        if source[name].shape != target[name].shape:
            raise UserError(
                f"its weights {name} must have the shape {[*target[name].shape]}, got "
                f"{[*source[name].shape]}"
            )
    for name in target:
        target[name].copy_(source[name])
