"""The index and features of a task's clips: written atomically, and read back."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tagging.base.errors import UserError
from tagging.data.clips import (
    Fold,
    Index,
    quantize,
    read_features,
    read_index,
    write_features,
    write_index,
)
from tagging.data.spec import InputSpec
from tests.generated import classes, example_fold, multi_hot, write_clips

INDEX, FEATURE = Path("data/clips.safetensors"), Path("data/features/x")
FILES = ("values.npy", "frames.npy", "spec.json")
SPEC = InputSpec(2, 3, 5, scale=0.5, offset=-1)
VALUES = np.arange(4 * 2 * 3 * 5, dtype=np.int16).reshape(4, 2, 3, 5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(values: np.ndarray = VALUES, frames: object = 3) -> None:
    settings = {"name": "x", "hop": 10}
    with write_features(FEATURE, len(values), values.dtype, SPEC, settings) as arrays:
        arrays[0][:] = values
        arrays[1][:] = frames


@pytest.mark.parametrize("recordings", [None, np.array([0, 0, 1, 2], np.int32)])
def test_an_index_is_read_back(recordings: np.ndarray | None) -> None:
    ids = np.array(["Ärger".encode(), b"a", b"bc", b"d" * 11])
    empty = np.array([], int)
    folds = [Fold(np.array([3, 1]), np.array([0]), np.array([2])), Fold(np.arange(3), empty, [3])]
    folds[1] = folds[1]._replace(test=np.array([3]))
    labels = np.asfortranarray(multi_hot(4, 3))[::-1]
    written = Index(ids, labels, classes(3), folds, recordings)
    write_index(written, INDEX)
    first = INDEX.read_bytes()
    read = read_index(INDEX)
    assert read.ids.tolist() == ids.tolist()
    assert np.array_equal(read.labels, labels)
    assert read.classes == written.classes
    for actual, expected in zip(read.folds, folds, strict=True):
        assert [clips.tolist() for clips in actual] == [clips.tolist() for clips in expected]
    assert np.array_equal(read.recordings, recordings)
    write_index(written, INDEX)
    assert INDEX.read_bytes() == first


def test_features_are_read_back_and_stay_on_disk() -> None:
    write()
    read = read_features(FEATURE)
    assert isinstance(read.values, np.memmap)
    assert read.values.dtype == np.int16
    assert np.array_equal(read.values, VALUES)
    assert read.frames.tolist() == [3] * 4
    assert (read.spec, read.settings) == (SPEC, {"name": "x", "hop": 10})
    stored = torch.from_numpy(VALUES)
    assert torch.equal(read.spec.as_input(stored), stored.float() * 0.5 - 1)


def test_scales_are_read_back_and_not_left_to_other_values() -> None:
    scales = np.array([1, 0.5, 2, 2**-40], np.float32)
    with write_features(FEATURE, 4, np.int16, SPEC, {}, scales) as arrays:
        arrays[0][:] = VALUES
    assert np.array_equal(read_features(FEATURE).scales, scales)
    write()
    assert read_features(FEATURE).scales is None


@pytest.mark.parametrize("peak", [0, 1e-45, 1e-38, 1e-30, 1e-9, 1 / 3, 1, 1.5, 3e4, 3e38])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_waveform_keeps_15_bits_of_its_peak(peak: float, sign: int) -> None:
    samples = np.random.default_rng(0).uniform(-peak, peak, 1000).astype(np.float32)
    samples[7] = sign * peak
    quantized, scale = quantize(samples)
    assert quantized.dtype == np.int16
    assert np.log2(scale) == np.round(np.log2(scale))
    error = np.abs(quantized * np.float32(scale) - samples).max()
    assert error <= max(2**-15 * peak, 2**-115)
    assert np.array_equal(quantize(np.zeros(3, np.float32))[0], np.zeros(3))


def test_all_values_of_16_bits_are_exact() -> None:
    samples = np.arange(-32768, 32768) / np.float32(32768)
    quantized, scale = quantize(samples)
    assert (scale, quantized[0], quantized[-1]) == (2**-15, -32768, 32767)
    for quiet in (samples[32758:32778], samples[-300:] / 256):
        quantized, scale = quantize(quiet)
        assert np.array_equal(quantized * np.float32(scale), quiet)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_short_clip_of_any_split_sets_any_length(split: str) -> None:
    fold = example_fold(40)
    frames = np.full(40, 10)
    write_clips(multi_hot(40, 4), [fold], frames=frames)
    vggish = Path("data/features/vggish")
    assert not read_features(vggish).spec.any_length
    frames[getattr(fold, split)[0]] = 9
    write_clips(multi_hot(40, 4), [fold], frames=frames)
    assert read_features(vggish).spec.any_length


def test_an_interrupted_write_keeps_the_previous_files() -> None:
    write()
    before = {file.name: file.read_bytes() for file in FEATURE.iterdir()}
    with pytest.raises(KeyError), write_features(FEATURE, 4, np.int16, SPEC, {}) as arrays:
        arrays[0][:] = 7
        raise KeyError
    assert {file.name: file.read_bytes() for file in FEATURE.iterdir()} == before


def test_a_full_disk_is_reported_before_anything_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device: 'data/features/x/values.npy'"):
        write()
    assert not list(FEATURE.iterdir())


@pytest.mark.parametrize("file", ["clips.safetensors", *(f"features/x/{f}" for f in FILES)])
def test_missing_and_damaged_files_are_one_sentence(file: str) -> None:
    write()
    index = Index(np.array([b"a", b"b"]), multi_hot(2, 2), classes(2), [example_fold(2)])
    write_index(index, INDEX)
    path = Path("data", file)
    path.write_bytes(path.read_bytes()[:-5])
    read = read_index if path == INDEX else read_features
    argument = path if path == INDEX else FEATURE
    with pytest.raises(UserError, match=r"^data/.* cannot be read \(.*remove it and run dvc"):
        read(argument)
    path.unlink()
    with pytest.raises(UserError, match=r"^data/.* is missing; run dvc repro"):
        read(argument)
