"""A task's clips: features in one memory-mapped file, and an index of labels and splits.

`data/clips.safetensors` holds, of n clips,

    ids         uint8  (n, characters)  UTF-8, zero after the end
    labels      uint8  (n, classes)     1 where the clip has the label
    recordings  int32  (n,)             where clips are windows: the recording of each
    fold<k>/train, fold<k>/val, fold<k>/test    int32: the places of these clips, for each fold

and `data/features/<name>/` of each feature

    values.npy  (n, channels, frames, bins)  as stored: AudioSet's bytes stay bytes; 0 after the end
    frames.npy  uint32 (n,)                  each clip's number of frames, 1 or more
    spec.json                                how values become a network's input, and of what

A run is a list of places: nothing is copied for it.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tagging.base.errors import UserError
from tagging.base.files import report_full_disk, commit_file, atomic_write, write_text
from tagging.data.classes import Class
from tagging.data.spec import InputSpec

INDEX = Path("data/clips.safetensors")
FEATURES = Path("data/features")
SPLITS = ("train", "val", "test")


class Fold(NamedTuple):
    """Places of the clips that train, validate and test: int32 each; `val` may be empty."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


class Index(NamedTuple):
    """What there is to know of a task's clips but their features.

    `ids` are bytes (n,), `labels` uint8 (n, classes), `classes` those of the columns, in
    their order. `recordings`, where clips are windows of recordings, is the number of each one's,
    int32 (n,).
    """

    ids: np.ndarray
    labels: np.ndarray
    classes: list[Class]
    folds: list[Fold]
    recordings: np.ndarray | None = None


class Features(NamedTuple):
    """One feature of all clips.

    `values` is memory-mapped, (n, channels, frames, bins); `frames` int64 (n,); `spec` what
    networks see of it; `settings` what computes it of a waveform.
    """

    values: np.ndarray
    frames: np.ndarray
    spec: InputSpec
    settings: dict[str, Any]


def write_json(path: Path, content: Any) -> None:
    """Write JSON as people and `git diff` read it: indented, keys in the order given."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_index(index: Index, path: Path = INDEX) -> None:
    """Write the index, whole or not at all."""
    # One metadata key: safetensors does not keep the order of several, and bytes must not vary.
    metadata = {"classes": json.dumps([of._asdict() for of in index.classes])}
    tensors = {
        "ids": index.ids.view(np.uint8).reshape(len(index.ids), -1),
        "labels": np.ascontiguousarray(index.labels),
    }
    if index.recordings is not None:
        tensors["recordings"] = index.recordings
    for number, fold in enumerate(index.folds):
        for split, places in fold._asdict().items():
            tensors[f"fold{number}/{split}"] = places.astype(np.int32)
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata)


def read_index(path: Path = INDEX) -> Index:
    """Read what `write_index` wrote.

    Raises:
        UserError: if the file is missing or damaged.
    """
    with _readable(path), safe_open(path, framework="numpy") as file:
        classes = [Class(**of) for of in json.loads((file.metadata() or {})["classes"])]
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        folds = sum(name.endswith("/train") for name in tensors)
        ids = tensors["ids"]
        return Index(
            ids.view(f"S{ids.shape[1]}").ravel(),
            tensors["labels"],
            classes,
            [Fold(*(tensors[f"fold{k}/{split}"] for split in SPLITS)) for k in range(folds)],
            tensors.get("recordings"),
        )


@contextmanager
def write_features(
    name: str, values: tuple[tuple[int, ...], Any], spec: InputSpec, settings: dict[str, Any]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give arrays to fill: values of this shape and type, memory-mapped, and frames; whole or not.

    Args:
        name: of the feature.
        values: their shape, (n, channels, frames, bins), and dtype.
        spec: what networks see of them.
        settings: what computes the feature of a waveform, to be kept with the weights.
    """
    folder = FEATURES / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "values.npy"
    partial = path.with_name("values.npy.partial")
    shape, dtype = values
    frames = np.full(shape[0], spec.frames, np.uint32)
    try:
        with report_full_disk(path):
            mapped = open_memmap(partial, "w+", dtype, shape)
            _reserve(partial)
            yield mapped, frames
            mapped.flush()
            del mapped
            commit_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    with atomic_write(folder / "frames.npy") as whole, whole.open("wb") as file:
        np.save(file, frames)
    any_length = bool((frames < spec.frames).any())
    described = spec._replace(any_length=any_length)._asdict()
    write_json(folder / "spec.json", {"input": described, "features": settings})


def _reserve(path: Path) -> None:
    """Take the disk space now: a mapped file that finds the disk full kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def read_features(name: str) -> Features:
    """Read what `write_features` wrote; values stay on disk until they are used.

    Raises:
        UserError: if a file is missing or damaged.
    """
    folder = FEATURES / name
    with _readable(folder):
        description = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        return Features(
            np.load(folder / "values.npy", mmap_mode="r"),
            np.load(folder / "frames.npy").astype(np.int64),
            InputSpec(**description["input"]),
            description["features"],
        )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove it and run dvc checkout or dvc repro"
        ) from None
