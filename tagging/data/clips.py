"""A task's clips: features in one memory-mapped file, and an index of labels and splits.

`data/clips.safetensors` holds, for n clips,

    ids         uint8  (n, characters)  UTF-8, zero after the end
    labels      uint8  (n, classes)     1 where the clip has the label
    recordings  int32  (n,)             where clips are windows: the number of each one's recording
    fold<k>/train, fold<k>/val, fold<k>/test    int32: the indices of these clips, for each fold

and `data/features/<name>/` holds, for each feature,

    values.npy  (n, channels, frames, bins)  as stored: AudioSet's stay uint8; 0 after the end
    frames.npy  uint32 (n,)                  each clip's number of frames, 1 or more
    scales.npy  float32 (n,)                 the factor of each clip's values; of waveforms alone
    spec.json                                the scaling to a network's input, and the transform

A waveform is stored as int16 with a scale of its own, so that 16 bits suffice at any level: a quiet
recording keeps its resolution, and samples above full scale are not clipped. Scales are powers of
two: recordings of 16 bits or fewer are stored exactly, and read back bit by bit.

A split is an array of clip indices: no features are copied for it.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tagging.base.errors import UserError
from tagging.base.files import atomic_write, commit_file, report_full_disk, write_text
from tagging.data.classes import Class
from tagging.data.spec import InputSpec

SPLITS = ("train", "val", "test")
SCALES = "scales.npy"
LOWEST_EXPONENT = -100  # of two, of a waveform's peak


class Fold(NamedTuple):
    """Indices of the clips that train, validate and test: int32 each; `val` may be empty."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


class Index(NamedTuple):
    """A task's clips without their features.

    `ids` are bytes (n,), `labels` uint8 (n, classes), `classes` the classes of its columns. Where
    clips are windows of recordings, `recordings` is the number of each one's recording, int32 (n,).
    """

    ids: np.ndarray
    labels: np.ndarray
    classes: list[Class]
    folds: list[Fold]
    recordings: np.ndarray | None = None


class Features(NamedTuple):
    """One feature of all clips.

    `values` is memory-mapped, (n, channels, frames, bins); `frames` is int64 (n,); `spec` describes
    the input of networks; `settings` are those of the transform that computed it. Where clips have
    scales, float32 (n,), values are multiplied by them.
    """

    values: np.ndarray
    frames: np.ndarray
    spec: InputSpec
    settings: dict[str, Any]
    scales: np.ndarray | None = None


def quantize(samples: np.ndarray) -> tuple[np.ndarray, float]:
    """Return a waveform as int16 (samples,), and the scale by which it is multiplied when read.

    The error is at most 2^-15 of the highest amplitude; samples that are multiples of 2^-15 between
    -1 (inclusive) and 1 (exclusive) have none.

    Args:
        samples: float32 (samples,), finite, at any level.
    """
    peak = float(np.abs(samples).max(initial=0))
    mantissa, exponent = math.frexp(peak)
    # The smallest power of two that is not below the peak, which is silence below -600 dB.
    exponent = max(exponent - (mantissa == 0.5), LOWEST_EXPONENT)
    scaled = np.rint(np.ldexp(samples, 15 - exponent))
    return scaled.clip(-(2**15), 2**15 - 1).astype(np.int16), math.ldexp(1, exponent - 15)


def write_json(path: Path, content: Any) -> None:
    """Write JSON for people and `git diff`: indented, with the keys in their order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_index(index: Index, path: Path) -> None:
    """Write the index atomically."""
    # One metadata key: safetensors does not keep the order of several, and bytes must not vary.
    metadata = {"classes": json.dumps([label._asdict() for label in index.classes])}
    tensors = {
        "ids": index.ids.view(np.uint8).reshape(len(index.ids), -1),
        "labels": np.ascontiguousarray(index.labels),
    }
    if index.recordings is not None:
        tensors["recordings"] = index.recordings
    for number, fold in enumerate(index.folds):
        for split, clips in fold._asdict().items():
            tensors[f"fold{number}/{split}"] = clips.astype(np.int32)
    with atomic_write(path) as partial:
        save_file(tensors, partial, metadata)


def read_index(path: Path) -> Index:
    """Read a file of `write_index`.

    Raises:
        UserError: if the file is missing or damaged.
    """
    with _readable(path), safe_open(path, framework="numpy") as file:
        classes = [Class(**label) for label in json.loads((file.metadata() or {})["classes"])]
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        num_folds = sum(name.endswith("/train") for name in tensors)
        ids = tensors["ids"]
        return Index(
            ids.view(f"S{ids.shape[1]}").ravel(),
            tensors["labels"],
            classes,
            [Fold(*(tensors[f"fold{k}/{split}"] for split in SPLITS)) for k in range(num_folds)],
            tensors.get("recordings"),
        )


@contextmanager
def write_features(
    folder: Path,
    num_clips: int,
    dtype: DTypeLike,
    spec: InputSpec,
    settings: dict[str, Any],
    scales: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield arrays to fill, memory-mapped values and frames, and write them atomically.

    Args:
        folder: the folder of the feature.
        num_clips: the number of clips.
        dtype: the dtype of the values, whose shape is (clips, channels, frames, bins).
        spec: the input of networks.
        settings: those of the transform, which are stored with trained models as well.
        scales: the factor of each clip's values, float32 (clips,), or None.

    Yields:
        The values, zero at first, and the frames, uint32 (clips,), `spec.frames` at first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "values.npy"
    partial = path.with_name("values.npy.partial")
    frames = np.full(num_clips, spec.frames, np.uint32)
    try:
        with report_full_disk(path):
            values = open_memmap(partial, "w+", np.dtype(dtype), (num_clips, *spec[:3]))
            _reserve_space(partial)
            yield values, frames
            values.flush()
            del values
            commit_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _write_array(folder / "frames.npy", frames)
    (folder / SCALES).unlink(missing_ok=True)  # of other values
    if scales is not None:
        _write_array(folder / SCALES, scales)
    spec = spec._replace(any_length=bool((frames < spec.frames).any()))
    write_json(folder / "spec.json", {"input": spec._asdict(), "features": settings})


def _write_array(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def _reserve_space(path: Path) -> None:
    """Allocate the disk space now: writing a mapped file to a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def read_features(folder: Path) -> Features:
    """Read a folder of `write_features`; values stay on disk until they are used.

    Raises:
        UserError: if a file is missing or damaged.
    """
    with _readable(folder):
        description = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        return Features(
            np.load(folder / "values.npy", mmap_mode="r"),
            np.load(folder / "frames.npy").astype(np.int64),
            InputSpec(**description["input"]),
            description["features"],
            np.load(folder / SCALES) if (folder / SCALES).exists() else None,
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
