"""Published weights: their addresses, inputs and outputs, and their conversion to our networks.

Weights are never unpickled: `.pt` files are read as tensors alone (PyTorch's `weights_only`), `.h5`
files with h5py. `convert_weights` returns the `state_dict` of the network of that architecture.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tagging.base.errors import UserError
from tagging.sources.transfer import file_sha256


class Published(NamedTuple):
    """Published weights, and the meaning of their inputs and outputs."""

    architecture: str  # the file of tagging/networks
    network: dict[str, Any]  # the network's settings
    address: str
    sha256: str | None  # None: the file was never downloaded or run here
    licence: str
    preset: str  # of tagging/features/log_mel.py: the features of the training
    labels: str | tuple[str, ...]  # "audioset" (class_labels_indices.csv), or names
    parameters: int  # in the file, with the means and variances of batch normalization
    score: float | None  # as published
    score_description: str  # the metric and data of the score, and its source
    window: int | None = None  # frames of the windows whose outputs are averaged; None: no windows
    frames: int | None = None  # of the input; None: those of ten seconds
    features: dict[str, Any] | None = None  # settings that differ from the preset's
    activation: Literal["sigmoid"] = "sigmoid"  # of the published scores
    note: str = ""

    @property
    def verified(self) -> bool:
        """Whether the file has a known SHA-256 and was run here."""
        return self.sha256 is not None


_EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
_MUSICNN = (
    "https://raw.githubusercontent.com/Quint-e/musicnn_keras/master/musicnn_keras/keras_checkpoints"
)
ALLOW_UNVERIFIED = "TAGGING_ALLOW_UNVERIFIED"
_UNTRIED = "never downloaded here: layout and size are those of mn04_as, its outputs are untested"
_COPY = "the hash is that of a copy in another repository: the release was not available to compare"

_MAGNATAGATUNE = (
    "guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast",
    "piano", "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male",
    "singing", "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman",
    "male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice",
    "new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice", "weird",
    "country", "metal", "female voice", "choral",
)  # fmt: skip
_MILLION_SONGS = (
    "rock", "pop", "alternative", "indie", "electronic", "female vocalists", "dance", "00s",
    "alternative rock", "jazz", "beautiful", "metal", "chillout", "male vocalists", "classic rock",
    "soul", "indie rock", "Mellow", "electronica", "80s", "folk", "90s", "chill", "instrumental",
    "punk", "oldies", "blues", "hard rock", "ambient", "acoustic", "experimental",
    "female vocalist", "guitar", "Hip-Hop", "70s", "party", "country", "easy listening", "sexy",
    "catchy", "funk", "electro", "heavy metal", "Progressive rock", "60s", "rnb", "indie pop",
    "sad", "House", "happy",
)  # fmt: skip


def _efficientat(
    width: float, score: float, parameters: int, sha256: str | None = None
) -> Published:
    """Describe a MobileNetV3 of EfficientAT's release, whose name has the width and the mAP."""
    name = f"mn{width * 10:02.0f}_as_mAP_{score * 1000:.0f}.pt"
    return Published(
        architecture="mobilenet",
        network={"width": width, "dropout": 0.2},
        address=f"{_EFFICIENTAT}/{name}",
        sha256=sha256,
        licence="MIT",
        preset="efficientat",
        labels="audioset",
        parameters=parameters,
        score=score,
        score_description="mAP on AudioSet's evaluation set (EfficientAT's README)",
        note=_COPY if sha256 else _UNTRIED,
    )


def _musicnn(file: str, sha256: str, labels: tuple[str, ...]) -> Published:
    """Describe a musicnn with 64 middle channels, written by Keras."""
    return Published(
        architecture="musicnn",
        network={
            "filters": 51, "middle": 64, "hidden": 200, "dropout": 0.5, "timbral": 7,
            "temporal": [128, 64, 32], "middle_frames": 7, "normalize": "channels", "eps": 1e-3,
        },
        address=f"{_MUSICNN}/{file}",
        sha256=sha256,
        licence="ISC",
        preset="musicnn",
        labels=labels,
        parameters=792_079,
        score=None,
        score_description="ROC AUC and PR AUC are in the paper, arXiv 1909.06654",
        window=187,
        note="the hash is that of a mirror's copy: the repository was not available to compare",
    )  # fmt: skip


PUBLISHED: dict[str, Published] = {
    "mn01_as": _efficientat(0.1, 0.298, 126_359),
    "mn02_as": _efficientat(0.2, 0.378, 329_687),
    "mn04_as": _efficientat(
        0.4, 0.432, 993_439, "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c"
    ),
    "mn05_as": _efficientat(0.5, 0.443, 1_443_591),
    "mn10_as": _efficientat(1.0, 0.471, 4_901_231),
    "mn20_as": _efficientat(2.0, 0.478, 17_958_087),
    "mn30_as": _efficientat(3.0, 0.482, 39_159_567),
    "mn40_as": _efficientat(4.0, 0.484, 68_524_903),
    "musicnn_mtt": _musicnn(
        "MTT_musicnn.h5",
        "1a66a2e58e862e894c088bd7789b05874becf994f275c54d9575dab83fab4ebe",
        _MAGNATAGATUNE,
    ),
    "musicnn_msd": _musicnn(
        "MSD_musicnn.h5",
        "412a832c8527a813e084ba6f2cc7d068ecbbf1b68bda8c1de2e7de0d1f5fe7d1",
        _MILLION_SONGS,
    ),
    "ast_as": Published(
        architecture="ast",
        # For shorter clips its authors cut the position embeddings as well.
        network={"distillation": True, "positions": "cut"},
        address="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/main/"
        "model.safetensors",
        sha256=None,
        licence="BSD-3-Clause",
        preset="ast",
        labels="audioset",
        parameters=86_594_063,
        score=0.459,
        score_description="mAP on AudioSet's evaluation set (arXiv 2104.01778)",
        frames=1024,
        note="never downloaded here: the layout is that of transformers, its outputs are untested",
    ),
}

_COUNTER = "num_batches_tracked"
# Patterns of EfficientAT's names, and ours. Its kernels are (bins, frames): they are transposed.
_MOBILENET_NAMES = (
    (r"\.block\.", ".layers."),
    (r"conc_se_layers\.0\.fc1", "squeeze"),
    (r"conc_se_layers\.0\.fc2", "excite"),
    (r"^classifier\.2\.", "hidden.0."),
    (r"^classifier\.5\.", "classify."),
    (r"^(features\..+)\.0\.(\w+)$", r"\1.conv.\2"),
    (r"^(features\..+)\.1\.(\w+)$", r"\1.norm.\2"),
)
# Our layers and Keras's.
_MUSICNN_LAYERS = {
    "norm": "batch_normalization",
    "front.0.conv": "conv2d",
    "front.0.norm": "batch_normalization_1",
    "front.1.conv": "conv2d_1",
    "front.1.norm": "batch_normalization_2",
    "front.2.conv": "conv2d_2",
    "front.2.norm": "batch_normalization_3",
    "front.3.conv": "conv2d_3",
    "front.3.norm": "batch_normalization_4",
    "front.4.conv": "conv2d_4",
    "front.4.norm": "batch_normalization_5",
    "adapt.conv": "midend_conv1",
    "adapt.norm": "bn_midend_conv1",
    "residual_1.conv": "midend_conv2",
    "residual_1.norm": "bn_midend_conv2",
    "residual_2.conv": "midend_conv3",
    "residual_2.norm": "bn_midend_conv3",
    "penultimate.0": "bn_flatpool",
    "penultimate.2": "dense",
    "penultimate.4": "bn_dense",
    "classify": "dense_1",
}
_KERAS_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Patterns of the names in transformers' files of AST, and ours.
_AST_NAMES = (
    (r"^audio_spectrogram_transformer\.", ""),
    (r"^encoder\.layer\.", "layers."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.output\.dense", "self_attn.out_proj"),
    (r"intermediate\.dense", "linear1"),
    (r"output\.dense", "linear2"),
    (r"^layernorm", "norm"),
    (r"^classifier\.layernorm", "classify.0"),
    (r"^classifier\.dense", "classify.1"),
    (r"^embeddings\.patch_embeddings\.projection", "project"),
)
_AST_PROJECTIONS = ("query", "key", "value")  # one tensor here


def find_published(name: str) -> Published:
    """Return the entry of published weights.

    Raises:
        UserError: if the name is unknown.
    """
    if name not in PUBLISHED:
        raise UserError(
            f"the name of published weights must be one of {', '.join(PUBLISHED)}, got {name!r}"
        )
    return PUBLISHED[name]


def require_verified(name: str) -> None:
    """Refuse weights without a known SHA-256, unless TAGGING_ALLOW_UNVERIFIED names them.

    Raises:
        UserError: if the name is unknown, or the weights are refused.
    """
    allowed = os.environ.get(ALLOW_UNVERIFIED, "").split(",")
    if not find_published(name).verified and name not in map(str.strip, allowed):
        raise UserError(
            f"{name} cannot be checked: the SHA-256 of its file is not known, and it was never run "
            f"here; set {ALLOW_UNVERIFIED}={name} to use it nevertheless"
        )


def convert_weights(name: str, path: Path) -> dict[str, torch.Tensor]:
    """Convert a published file to the `state_dict` of our network.

    Args:
        name: the name of the published weights.
        path: the published file.

    Returns:
        float32 tensors, and int64 zeros where batch normalization counts batches.

    Raises:
        UserError: if the name is unknown, the weights must not be used unchecked, or the file is
            another or damaged.
        OSError: if the file cannot be opened.
    """
    require_verified(name)
    published = find_published(name)
    sha256 = file_sha256(path)
    if published.sha256 not in (None, sha256):
        raise UserError(
            f"{path} must have the SHA-256 {published.sha256} of {name}, got {sha256}; fetch it "
            f"again from {published.address}"
        )
    read, rename = _FORMATS[published.architecture]
    tensors = read(path)
    parameters = sum(values.size for key, values in tensors.items() if not key.endswith(_COUNTER))
    if parameters != published.parameters:
        raise UserError(
            f"{path} must have the {published.parameters} parameters of {name}, got {parameters}; "
            f"fetch it again from {published.address}"
        )
    try:
        renamed = rename(tensors)
    except KeyError as error:
        raise UserError(
            f"{path} must have the tensors of {name}, but lacks {error}; fetch it again from "
            f"{published.address}"
        ) from None
    state = {
        key: torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        for key, values in renamed.items()
        if not key.endswith(_COUNTER)
    }
    norms = [key.removesuffix("running_var") for key in state if key.endswith("running_var")]
    return state | {f"{norm}{_COUNTER}": torch.tensor(0) for norm in norms}


def convert_ast(tensors: dict[str, np.ndarray], bin_patches: int = 12) -> dict[str, np.ndarray]:
    """Rename the weights of transformers' `ASTForAudioClassification` as in our network.

    Args:
        tensors: by the names of its files, with a distillation token.
        bin_patches: the number of patches over the bins; 12 over 128 bins.

    Raises:
        KeyError: naming a missing tensor.
    """
    named = {}
    for key, values in tensors.items():
        for pattern, ours in _AST_NAMES:
            key = re.sub(pattern, ours, key)
        named[key] = values
    state = {key: values for key, values in named.items() if not re.search("attention|embed", key)}
    for key in named:
        if match := re.fullmatch(r"(layers\.\d+)\.norm1\.(\w+)", key):
            layer, kind = match.groups()
            attention = f"{layer}.attention.attention"
            state[f"{layer}.self_attn.in_proj_{kind}"] = np.concatenate(
                [named[f"{attention}.{projection}.{kind}"] for projection in _AST_PROJECTIONS]
            )
    positions = named["embeddings.position_embeddings"][0]  # (2 + patches, width)
    tokens = [named[f"embeddings.{kind}_token"][0] for kind in ("cls", "distillation")]
    grid = positions[2:].reshape(bin_patches, -1, positions.shape[1])  # (bins, frames, width)
    return state | {
        "project.weight": named["project.weight"].swapaxes(2, 3),
        "tokens": np.concatenate(tokens) + positions[:2],
        "positions": grid.swapaxes(0, 1),
    }


def _read_pytorch(path: Path) -> dict[str, np.ndarray]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file fails anywhere in the reader
        raise UserError(
            f"{path} must be a PyTorch file that loads with weights_only, but is damaged or has "
            "other objects than tensors, which are not unpickled"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in state.items()
    ):
        raise UserError(f"{path} must have the state_dict of a network")
    return {key: tensor.detach().float().numpy() for key, tensor in state.items()}


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    """Return the weights by layer and kind, such as conv2d/kernel."""
    tensors = {}

    def read(name: str, item: h5py.Dataset | h5py.Group) -> None:
        # Keras appends numbers to repeated names of layers and of kinds.
        match = re.fullmatch(r"model_weights/(\w+)/\1/([a-z_]+?)(?:_\d+)?:0", name)
        if match and isinstance(item, h5py.Dataset):
            tensors[f"{match[1]}/{match[2]}"] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(read)
    except Exception:  # a damaged file fails anywhere in the reader
        raise UserError(f"{path} must be an HDF5 file of Keras, or is damaged") from None
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path} must be a safetensors file, but is damaged or another ({error})"
        ) from None


def _convert_mobilenet(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    state = {}
    for key, values in tensors.items():
        for pattern, ours in _MOBILENET_NAMES:
            key = re.sub(pattern, ours, key)
        state[key] = values.swapaxes(2, 3) if values.ndim == 4 else values
    return state


def _convert_musicnn(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    state = {}
    for layer, published in _MUSICNN_LAYERS.items():
        for kind, ours in _KERAS_NAMES.items():
            if (values := tensors.get(f"{published}/{kind}")) is None:
                continue
            if published == "bn_flatpool" or (published == "dense" and kind == "kernel"):
                # Keras alternates maxima and means of channels; ours are all maxima, all means.
                values = values.reshape(-1, 2, *values.shape[1:]).swapaxes(0, 1)
                values = values.reshape(-1, *values.shape[2:])
            if kind == "kernel":
                values = values.transpose()  # (out, in) or (out, 1, width, frames)
                if published.startswith("midend"):
                    values = values[:, 0]  # (out, in, frames): its width is our channels
                elif values.ndim == 4:
                    values = values.swapaxes(2, 3)  # (out, in, frames, bins)
            state[f"{layer}.{ours}"] = values
    return state


_Values = dict[str, np.ndarray]
# The reader of an architecture's files, and the conversion to our names.
_FORMATS: dict[str, tuple[Callable[[Path], _Values], Callable[[_Values], _Values]]] = {
    "mobilenet": (_read_pytorch, _convert_mobilenet),
    "musicnn": (_read_keras, _convert_musicnn),
    "ast": (_read_safetensors, convert_ast),
}
