"""Configured models: from `models.<name>` of params.yaml, or a file of weights, to a network."""

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from pydantic import AfterValidator, Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.base.files import atomic_write
from tagging.data.batches import Batch, Clips
from tagging.data.classes import Class
from tagging.data.spec import InputSpec
from tagging.learning.thresholds import Thresholds
from tagging.parameters import Float, Int, Section, parse, read_entries, read_models

NETWORKS = Path(__file__).parents[1] / "networks"
CHECKPOINT = "checkpoint "  # weights after an epoch are called so, with its number
CLIPS_AT_A_TIME = 256  # with more, what layers give no longer stays in a core's cache

Distance = Literal["cosine", "euclidean"]
# The distances stand for no probabilities: the network's embedding is what it says.
Activation = Literal["sigmoid", "softmax", "none", "cosine", "euclidean"]


def _all_different(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("a seed comes twice")
    return values


Seed = Annotated[Int, Field(ge=0)]


class Model(Section):
    """One entry of `models`: an architecture, its settings, and what it trains otherwise."""

    architecture: str = Field(description="the name of a file in tagging/networks, without its .py")
    network: dict[str, Any] = Field({}, description="a mapping of the architecture's settings")
    features: str | None = Field(None, description="the name of a feature, if not task.features")
    weights: str | None = Field(
        None,
        description="the name of a file of data/weights, as the stage weights writes it, to begin "
        "with but for its last layer; or null",
    )
    seeds: Annotated[list[Seed], AfterValidator(_all_different)] = Field(
        [0], description="a list of whole numbers of 0 or more, each once: a run each", min_length=1
    )
    train: dict[str, Any] = Field({}, description="a mapping of what replaces entries of train")
    distance: Distance = Field(
        "cosine",
        description="cosine or euclidean: how embeddings are compared (task.kind similarity)",
    )
    embedding: Int | None = Field(
        None,
        description="a whole number of 1 or more: the width of a last layer that is the embedding, "
        "in place of the classes; or null: the embedding is the network's last hidden layer",
        ge=1,
    )


class Student(Model):
    """One entry of `students`: a model that learns from what a teacher, trained before, says."""

    teacher: str = Field(description="the name of an entry of ensembles")
    label_weight: Float | None = Field(
        None,
        description="a number from 0 to 1: what the labels count beside the teacher's "
        "probabilities; or nothing, with enhance",
        ge=0,
        le=1,
    )
    enhance: Literal["mean"] | Annotated[Float, Field(ge=0, le=100)] | None = Field(
        None,
        description="mean, or a percentile from 0 to 100: labels that the ontology says may be "
        "missing are added where the teacher's score is above this one of the clips with the label",
    )
    ontology: str | None = Field(None, description="the path of AudioSet's ontology (with enhance)")
    backbone: Literal["trained", "frozen"] | None = Field(
        None,
        description="trained or frozen: it begins with the weights of its teacher, then a model, "
        "but for the last layer, and goes on to train them or not (task.kind similarity)",
    )


class ModelSpec(NamedTuple):
    """What a network is made for: its input, its classes, and how its outputs are read.

    `activation` turns outputs into probabilities (none: they are such already; cosine, euclidean:
    not outputs are asked for but embeddings); `features` are the settings that compute the input of
    a waveform.
    """

    spec: InputSpec
    classes: list[Class]
    activation: Activation
    features: dict[str, Any]


MODEL_SPEC = TypeAdapter(ModelSpec)  # a file's may be anything


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


def build(model: Model, spec: InputSpec, classes: int, name: str) -> nn.Module:
    """Build the network of a model, its parameters drawn from PyTorch's random generator.

    Args:
        model: the entry.
        spec: the network's input.
        classes: how many it tells apart.
        name: of the entry, for errors.

    Raises:
        UserError: naming the setting of `models.<name>` that the architecture does not take.
    """
    there = sorted(file.stem for file in NETWORKS.glob("*.py"))
    if model.architecture not in there:
        raise UserError(
            f"params.yaml: models.{name}.architecture is {model.architecture!r}; it takes "
            f"{', '.join(there)}"
        )
    architecture = importlib.import_module(f"tagging.networks.{model.architecture}")
    settings = parse(architecture.Settings, model.network, f"models.{name}.network")
    try:
        network = architecture.Network(settings, spec, model.embedding or classes)
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from None
    if model.embedding:
        network.embed = network.forward
    # Networks take clips of any length unless they say otherwise.
    if spec.any_length and not getattr(network, "any_length", True):
        raise UserError(
            f"models.{name}: {model.architecture} takes clips of one length only, but some have "
            f"fewer than {spec.frames} frames; leave these out (prepare), or remove the model"
        )
    return network


def load_pretrained(network: nn.Module, path: Path, frozen: bool = False) -> None:
    """Give a network the weights of a file, but for its last layer.

    The file is a trained network's, or what the network's own `adapted` takes, such as an image
    model's. The last layer is what is called `classify`, unless the network says so in `last`. With
    `frozen` training leaves the weights, and batch statistics, as they are.

    Raises:
        UserError: if the file is missing, damaged, or of another network.
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file ({error})") from None
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(CHECKPOINT)}
    try:
        if hasattr(network, "adapted"):
            given = network.adapted(given)
        _copy(_without_last(network, given), _without_last(network, network.state_dict()))
    except UserError as error:
        raise UserError(f"{path} is of another network: {error}") from None
    if frozen:
        for parameter in _without_last(network, dict(network.named_parameters())).values():
            parameter.requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = 0.0


def _without_last(
    network: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    last = set(getattr(network, "last", ("classify",)))
    return {name: tensor for name, tensor in tensors.items() if not last & {*name.split(".")}}


def _copy(given: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Copy what is given into tensors of a network: all of them, or nothing."""
    for name in {**own, **given}:
        if name not in own:
            raise UserError(f"its weights {name} are of no part that the network has")
        if name not in given:
            raise UserError(f"it has no weights {name}")
        if given[name].shape != own[name].shape:
            raise UserError(
                f"its weights {name} have the shape {[*given[name].shape]}; the network takes "
                f"{[*own[name].shape]}"
            )
    for name in own:
        own[name].copy_(given[name])


def activation_of(network: nn.Module, trained_with: Activation) -> Activation:
    """Return what turns a network's outputs into probabilities: its loss says, or it itself."""
    return getattr(network, "activation", trained_with)


def save_network(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    model: Model,
    shape: ModelSpec,
    checkpoints: Mapping[int, Mapping[str, torch.Tensor]] | None = None,
    about: Mapping[str, Any] | None = None,
    thresholds: Thresholds | None = None,
) -> None:
    """Write weights and, in the metadata, all that it takes to score a new clip with them.

    Args:
        path: file to write.
        weights: what the training kept.
        model: what the network was built from.
        shape: what it was made for.
        checkpoints: weights after single epochs, by the number of the epoch.
        about: where published weights are from.
        thresholds: from which probability on each class is sure; None where nothing validates.
    """
    checkpoints = checkpoints or {}
    # One metadata key: safetensors does not keep the order of several, and bytes must not vary.
    description = {
        "architecture": model.architecture,
        "network": model.network,
        "input": shape.spec._asdict(),
        "features": shape.features,
        "activation": shape.activation,
        "classes": [of._asdict() for of in shape.classes],
        "checkpoints": list(checkpoints),
        **({"embedding": model.embedding} if model.embedding else {}),
        **({"published": about} if about else {}),
        **(thresholds.described([of.name for of in shape.classes]) if thresholds else {}),
    }
    named = {**weights}
    for epoch, of_epoch in checkpoints.items():
        named |= {f"{_checkpoint(epoch)}{name}": tensor for name, tensor in of_epoch.items()}
    with atomic_write(path) as partial:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in named.items()}
        save_file(tensors, partial, {"model": json.dumps(description)})


def _checkpoint(epoch: int) -> str:
    return f"{CHECKPOINT}{epoch}/"


class Trained(NamedTuple):
    """A trained network as its file has it, ready to score clips, and other weights for it.

    `thresholds` are the probabilities from which on a class is sure, with the precision `promised`:
    float32 (classes,), NaN where there is none.
    """

    network: nn.Module
    shape: ModelSpec
    checkpoints: dict[int, dict[str, torch.Tensor]]
    thresholds: np.ndarray
    promised: float | None


def load_network(path: Path, device: torch.device) -> Trained:
    """Rebuild a trained network from its file alone.

    Raises:
        UserError: if the file is missing, damaged, no network's, or of a network that is not here.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            description = json.loads(file.metadata()["model"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        epochs = list(description["checkpoints"])
        told = {key: description[key] for key in ("classes", "activation", "features")}
        shape = MODEL_SPEC.validate_python({"spec": description["input"], **told})
        model = Model(
            architecture=description["architecture"],
            network=description["network"],
            embedding=description.get("embedding"),
        )
        of_labels = description.get("thresholds", {})
        thresholds = [of_labels.get(of.name, {}).get("threshold") for of in shape.classes]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except (
        OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError,
    ) as error:  # fmt: skip
        raise _no_network(path, error) from None
    checkpoints = {
        epoch: {
            name.removeprefix(_checkpoint(epoch)): weights.pop(name)
            for name in list(weights)
            if name.startswith(_checkpoint(epoch))
        }
        for epoch in epochs
    }
    try:
        network = build(model, shape.spec, len(shape.classes), path.stem).to(device)
    except UserError as error:
        raise _no_network(path, error) from None
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # of names and shapes
        raise _no_network(path, error) from None
    return Trained(
        network.eval(),
        shape,
        checkpoints,
        np.array(thresholds, np.float32),
        description.get("promised"),
    )


def _no_network(path: Path, error: Exception) -> UserError:
    problem = shorten(str(error), 160, placeholder=" ..")
    return UserError(
        f"{path} is no trained network ({problem}); it takes a file as training or the stage "
        "weights writes it"
    )


def compute_outputs(network: nn.Module, batch: Batch, activation: Activation) -> torch.Tensor:
    """Return a network's outputs, (batch, classes), or embeddings, (batch, width).

    Embeddings to be compared by the cosine are of length 1.
    """
    if activation not in get_args(Distance):
        return network(batch.x, batch.frames)
    embeddings = network.embed(batch.x, batch.frames)
    return functional.normalize(embeddings) if activation == "cosine" else embeddings


@torch.inference_mode()
def score(network: nn.Module, clips: Clips, activation: Activation = "none") -> torch.Tensor:
    """Return the network's outputs for all clips: float32 (clips, classes), on their device.

    Where `activation` is a distance, they are embeddings, (clips, width).

    Beyond rounding, a clip's do not depend on which others are scored with it.
    """
    network.eval()
    places = np.arange(len(clips.places))
    pieces = np.split(places, range(CLIPS_AT_A_TIME, len(places), CLIPS_AT_A_TIME))
    batches = (clips.batch(piece) for piece in pieces)
    return torch.cat([compute_outputs(network, batch, activation) for batch in batches])


def log_odds(outputs: torch.Tensor, activation: Activation) -> np.ndarray:
    """Return log(p / (1 - p)) of the probabilities that outputs stand for: float32, finite.

    Whatever a network's outputs are, those of all models can then be averaged and compared. A
    probability of 0 or 1 is taken for one halfway to the next that float32 has.

    Args:
        outputs: (clips, classes).
        activation: sigmoid (log odds they are), softmax, or none (probabilities); embeddings
            (cosine, euclidean) are none and stay as they are.
    """
    if activation in ("sigmoid", *get_args(Distance)):
        return outputs.float().cpu().numpy()
    found = torch.empty(outputs.shape)
    # Piece by piece: float64 of two million clips by 527 classes takes 9 GB.
    for piece, into in zip(
        outputs.split(CLIPS_AT_A_TIME), found.split(CLIPS_AT_A_TIME), strict=True
    ):
        into.copy_(_log_odds(piece.cpu().double(), activation))
    return found.numpy()


def _log_odds(exact: torch.Tensor, activation: Activation) -> torch.Tensor:
    limits = torch.finfo(torch.float32)
    if activation == "none":
        return exact.clamp(limits.tiny * limits.eps / 2, 1 - limits.eps / 4).logit()
    # Of the highest output against the sum of all others, as 1 - p may round to 0; for others p is
    # a half at most.
    log_p = exact.log_softmax(1)
    top = exact.argmax(1, keepdim=True)
    others = exact.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    found = log_p - torch.log(-torch.expm1(log_p))
    return found.scatter(1, top, exact.gather(1, top) - others).clamp(limits.min, limits.max)


def answer(trained: Trained, clips: Clips) -> np.ndarray:
    """Return a trained model's log odds, or embeddings, of all clips: float32 (clips, classes)."""
    activation = trained.shape.activation
    return log_odds(score(trained.network, clips, activation), activation)
