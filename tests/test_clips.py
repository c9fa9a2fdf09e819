"""The files of a task's clips: what is read is what was written, whole or not at all."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tagging.base.errors import UserError
from tagging.data.clips import (
    FEATURES,
    INDEX,
    Fold,
    Index,
    read_features,
    read_index,
    write_features,
    write_index,
)
from tagging.data.spec import InputSpec
from tests.generated import classes, multi_hot, thirds, write_clips

FILES = ("values.npy", "frames.npy", "spec.json")
SPEC = InputSpec(2, 3, 5, scale=0.5, offset=-1)
VALUES = np.arange(4 * 2 * 3 * 5, dtype=np.int16).reshape(4, 2, 3, 5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(values: np.ndarray = VALUES, frames: object = 3) -> None:
    with write_features("x", (values.shape, values.dtype), SPEC, {"name": "x", "hop": 10}) as both:
        both[0][:] = values
        both[1][:] = frames


@pytest.mark.parametrize("recordings", [None, np.array([0, 0, 1, 2], np.int32)])
def test_an_index_comes_back(recordings: np.ndarray | None) -> None:
    ids = np.array(["Ärger".encode(), b"a", b"bc", b"d" * 11])
    empty = np.array([], int)
    folds = [Fold(np.array([3, 1]), np.array([0]), np.array([2])), Fold(np.arange(3), empty, [3])]
    folds[1] = folds[1]._replace(test=np.array([3]))
    labels = np.asfortranarray(multi_hot(4, 3))[::-1]
    written = Index(ids, labels, classes(3), folds, recordings)
    write_index(written)
    first = INDEX.read_bytes()
    read = read_index()
    assert read.ids.tolist() == ids.tolist()
    assert np.array_equal(read.labels, labels)
    assert read.classes == written.classes
    for got, expected in zip(read.folds, folds, strict=True):
        assert [part.tolist() for part in got] == [part.tolist() for part in expected]
    assert np.array_equal(read.recordings, recordings)
    write_index(written)
    assert INDEX.read_bytes() == first


def test_features_come_back_and_stay_on_disk() -> None:
    write()
    read = read_features("x")
    assert isinstance(read.values, np.memmap)
    assert read.values.dtype == np.int16
    assert np.array_equal(read.values, VALUES)
    assert read.frames.tolist() == [3] * 4
    assert (read.spec, read.settings) == (SPEC, {"name": "x", "hop": 10})
    stored = torch.from_numpy(VALUES)
    assert torch.equal(read.spec.as_input(stored), stored.float() * 0.5 - 1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_short_clip_of_any_split_is_told(split: str) -> None:
    fold = thirds(40)
    frames = np.full(40, 10)
    write_clips(multi_hot(40, 4), [fold], frames=frames)
    assert not read_features("vggish").spec.any_length
    frames[getattr(fold, split)[0]] = 9
    write_clips(multi_hot(40, 4), [fold], frames=frames)
    assert read_features("vggish").spec.any_length


def test_what_is_not_finished_leaves_what_was_there() -> None:
    write()
    before = {file.name: file.read_bytes() for file in (FEATURES / "x").iterdir()}
    with pytest.raises(KeyError), write_features("x", (VALUES.shape, np.int16), SPEC, {}) as both:
        both[0][:] = 7
        raise KeyError
    assert {file.name: file.read_bytes() for file in (FEATURES / "x").iterdir()} == before


def test_a_full_disk_is_told_before_anything_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device: 'data/features/x/values.npy'"):
        write()
    assert not list((FEATURES / "x").iterdir())


@pytest.mark.parametrize("file", ["clips.safetensors", *(f"features/x/{f}" for f in FILES)])
def test_missing_and_damaged_files_are_one_sentence(file: str) -> None:
    write()
    write_index(Index(np.array([b"a", b"b"]), multi_hot(2, 2), classes(2), [thirds(2)]))
    read = read_index if file.startswith("clips") else lambda: read_features("x")
    path = Path("data", file)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"^data/.* cannot be read \(.*remove it and run dvc"):
        read()
    path.unlink()
    with pytest.raises(UserError, match=r"^data/.* is missing; run dvc repro"):
        read()
