"""Published weights: where they are, what they take and answer, and their tensors under our names.

Weights are never unpickled: `.pt` files are read as tensors alone (PyTorch's `weights_only`), `.h5`
files with h5py; `.safetensors` are nothing else. What `convert` returns is what the network of that
architecture loads.
"""

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
    """Weights that somebody published, and all that a reader of their answers needs."""

    architecture: str  # the file of tagging/networks whose network takes them
    network: dict[str, Any]  # that network's settings
    address: str
    sha256: str | None  # None: nobody here has had the file, see `note`
    licence: str
    preset: str  # the features they were trained on: a preset of tagging/features/log_mel.py
    labels: str | tuple[str, ...]  # "audioset", the order of class_labels_indices.csv, or names
    numbers: int  # how many the file holds: weights, and batch normalization's means and variances
    score: float | None  # as published ..
    score_of: str  # .. which metric, of what and where it is printed
    window: int | None = None  # frames of the windows whose answers are averaged; None: one answer
    frames: int | None = None  # of the input, where these are not those of ten seconds
    features: dict[str, Any] | None = None  # settings that differ from the preset's
    activation: Literal["sigmoid"] = "sigmoid"  # what turns logits into the published scores
    note: str = ""


_EFFICIENTAT = "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1"
_MUSICNN = (
    "https://raw.githubusercontent.com/Quint-e/musicnn_keras/master/musicnn_keras/keras_checkpoints"
)
_UNTRIED = "never downloaded here: layout and size are those of mn04_as, its answers are untested"
_COPY = "the hash is of a copy in another repository: the release could not be reached to compare"

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


def _efficientat(width: float, score: float, numbers: int, sha256: str | None = None) -> Published:
    """Describe a MobileNetV3 of EfficientAT's release: its name there has the width and the mAP."""
    name = f"mn{width * 10:02.0f}_as_mAP_{score * 1000:.0f}.pt"
    return Published(
        architecture="mobilenet",
        network={"width": width, "dropout": 0.2},
        address=f"{_EFFICIENTAT}/{name}",
        sha256=sha256,
        licence="MIT",
        preset="efficientat",
        labels="audioset",
        numbers=numbers,
        score=score,
        score_of="mAP on AudioSet's evaluation set (EfficientAT's README and the file's name)",
        note=_COPY if sha256 else _UNTRIED,
    )


def _musicnn(file: str, sha256: str, labels: tuple[str, ...]) -> Published:
    """Describe a musicnn of 64 channels in the middle, as Keras wrote it."""
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
        numbers=792_079,
        score=None,
        score_of="ROC AUC and PR AUC are in the paper, arXiv 1909.06654",
        window=187,
        note="the hash is of a mirror's copy: the repository could not be reached to compare",
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
        # To shorter clips its authors cut the positions as well.
        network={"distillation": True, "positions": "cut"},
        address="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/main/"
        "model.safetensors",
        sha256=None,
        licence="BSD-3-Clause",
        preset="ast",
        labels="audioset",
        numbers=86_594_063,
        score=0.459,
        score_of="mAP on AudioSet's evaluation set (arXiv 2104.01778 and the repository's name)",
        frames=1024,
        note="never downloaded here: the layout is that which transformers writes, its answers are "
        "untested",
    ),
}

_COUNTER = "num_batches_tracked"
# EfficientAT's names, as patterns, and ours. Its images are (bins, frames), so kernels are turned.
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
# The names that transformers has in files of its AST, as patterns, and ours.
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
_AST_JOINED = ("query", "key", "value")  # which are in one here


def find(name: str) -> Published:
    """Return the table's entry.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in PUBLISHED:
        raise UserError(
            f"there are no published weights {name!r}; the names are {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[name]


def convert(name: str, path: Path) -> dict[str, torch.Tensor]:
    """Read the published file `path` as the state of our network: what `load_state_dict` takes.

    Returns:
        float32 tensors, and int64 zeros where batch normalization counts batches.

    Raises:
        UserError: if there are no weights `name`, or the file is not theirs or is damaged.
        OSError: if the file cannot be opened.
    """
    published = find(name)
    sha256 = file_sha256(path)
    if published.sha256 not in (None, sha256):
        raise UserError(
            f"{path} has the SHA-256 {sha256}; {name} takes {published.sha256}: fetch it again "
            f"from {published.address}"
        )
    read, rename = _FORMATS[published.architecture]
    found = read(path)
    numbers = sum(values.size for key, values in found.items() if not key.endswith(_COUNTER))
    if numbers != published.numbers:
        raise UserError(
            f"{path} holds {numbers} numbers; it takes the {published.numbers} of {name}, from "
            f"{published.address}"
        )
    try:
        renamed = rename(found)
    except KeyError as error:
        raise UserError(
            f"{path} has no weights {error}; it takes those of {name}, from {published.address}"
        ) from None
    state = {
        key: torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        for key, values in renamed.items()
        if not key.endswith(_COUNTER)
    }
    counted = [key.removesuffix("running_var") for key in state if key.endswith("running_var")]
    return state | {f"{key}{_COUNTER}": torch.tensor(0) for key in counted}


def as_ast(found: dict[str, np.ndarray], across: int = 12) -> dict[str, np.ndarray]:
    """Return the weights of transformers' `ASTForAudioClassification` by the names of our network.

    Args:
        found: by the names of its files, with a distillation token.
        across: its patches over the bins, as many as the network's; 12 over 128 bins.

    Raises:
        KeyError: of a name that is not there.
    """
    named = {}
    for key, values in found.items():
        for pattern, ours in _AST_NAMES:
            key = re.sub(pattern, ours, key)
        named[key] = values
    state = {key: values for key, values in named.items() if not re.search("attention|embed", key)}
    for key in named:
        if at := re.fullmatch(r"(layers\.\d+)\.norm1\.(\w+)", key):
            layer, kind = at.groups()
            state[f"{layer}.self_attn.in_proj_{kind}"] = np.concatenate(
                [named[f"{layer}.attention.attention.{of}.{kind}"] for of in _AST_JOINED]
            )
    positions = named["embeddings.position_embeddings"][0]  # (2 + patches, width)
    tokens = [named[f"embeddings.{kind}_token"][0] for kind in ("cls", "distillation")]
    grid = positions[2:].reshape(across, -1, positions.shape[1])  # (bins, frames, width)
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
            f"{path} is damaged, or holds more than tensors: it takes a PyTorch file that loads "
            "with weights_only, others are not unpickled"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in state.items()
    ):
        raise UserError(f"{path} holds no tensors by name; it takes a network's state")
    return {key: tensor.detach().float().numpy() for key, tensor in state.items()}


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    """Return the weights by layer and kind, such as conv2d/kernel."""
    found = {}

    def read(name: str, item: h5py.Dataset | h5py.Group) -> None:
        # Keras numbers names that were taken when the network was built, the kinds' too.
        at = re.fullmatch(r"model_weights/(\w+)/\1/([a-z_]+?)(?:_\d+)?:0", name)
        if at and isinstance(item, h5py.Dataset):
            found[f"{at[1]}/{at[2]}"] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(read)
    except Exception:  # a damaged file fails anywhere in the reader
        raise UserError(f"{path} is damaged or no HDF5 file; it takes one of Keras") from None
    return found


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no safetensors file ({error})") from None


def _as_mobilenet(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    state = {}
    for key, values in found.items():
        for pattern, ours in _MOBILENET_NAMES:
            key = re.sub(pattern, ours, key)
        state[key] = values.swapaxes(2, 3) if values.ndim == 4 else values
    return state


def _as_musicnn(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    state = {}
    for layer, published in _MUSICNN_LAYERS.items():
        for kind, ours in _KERAS_NAMES.items():
            if (values := found.get(f"{published}/{kind}")) is None:
                continue
            if published == "bn_flatpool" or (published == "dense" and kind == "kernel"):
                # Maximum and mean of a channel lie side by side; ours are all maxima, all means.
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
# How the files of an architecture are read, and how their names become ours.
_FORMATS: dict[str, tuple[Callable[[Path], _Values], Callable[[_Values], _Values]]] = {
    "mobilenet": (_read_pytorch, _as_mobilenet),
    "musicnn": (_read_keras, _as_musicnn),
    "ast": (_read_safetensors, as_ast),
}
