"""The prepared splits: one safetensors file each, whose metadata name the labels.

Tensors of a split of n clips:

    embeddings  uint8  (n, seconds, 128)  VGGish embeddings as AudioSet quantized them
    frames      uint8  (n,)               seconds of the clip, 1 or more; 0 fills what is after them
    labels      uint8  (n, labels)        1 where the clip has the label
    video_ids   uint8  (n, 11)            ASCII
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tagging.errors import UserError
from tagging.files import whole_file
from tagging.labels import Label

PREPARED = Path("data/prepared")
SPLITS = ("train", "val", "test")
TENSORS = ("embeddings", "frames", "labels", "video_ids")


class Split(NamedTuple):
    """The clips of one split and the labels they are tagged with (the columns of `labels`)."""

    embeddings: np.ndarray
    frames: np.ndarray
    labels: np.ndarray
    video_ids: np.ndarray
    names: list[Label]


def split_path(split: str, folder: Path = PREPARED) -> Path:
    """Return where the split `train`, `val` or `test` lies."""
    return folder / f"{split}.safetensors"


def write_split(path: Path, split: Split) -> None:
    """Write a split, whole or not at all."""
    # One metadata key: safetensors does not keep the order of several, and bytes must not vary.
    metadata = {"labels": json.dumps([label._asdict() for label in split.names])}
    # In C order: safetensors writes an array's memory as it lies, whatever its strides.
    tensors = {name: np.ascontiguousarray(getattr(split, name)) for name in TENSORS}
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata)


def read_split(path: Path) -> Split:
    """Read what `write_split` wrote.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            names = [Label(**label) for label in json.loads((file.metadata() or {})["labels"])]
            tensors = [file.get_tensor(name) for name in TENSORS]
    except (SafetensorError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove it and run dvc checkout or dvc repro"
        ) from None
    return Split(*tensors, names)
