"""`decode`: the recordings of a source as clips of one length, with labels and folds."""

import csv
import errno
import io
import json
import os
import tracemalloc
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

import stages.decode
from stages.decode import (
    Decode,
    Window,
    cut_windows,
    keep_together,
    multi_hot,
    open_source,
    select_recordings,
    write_clips,
)
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.commands.tagger import Tagger
from tagging.data.clips import read_features, read_index
from tagging.data.spec import InputSpec
from tagging.data.splits import random_fold
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.features import decoding
from tagging.sources import sounds
from tagging.sources.recording import Recording
from tests.archives import assert_one_sentence, call_stage, run_stage
from tests.recordings import written
from tests.small_models import write_net

RATE = 1000
TASK = {"type": "single_label", "metrics": [{"name": "accuracy"}]}
FOLDER = TaskFolder(Path())
WAVEFORMS = FOLDER.feature("waveform")


def settings(**changed: Any) -> Decode:
    defaults = {"source": "folder", "path": "x", "sample_rate": RATE, "clip_seconds": 2}
    return Decode(**defaults | changed)


def recording(start: float = 0.0, end: float | None = None) -> Recording:
    return Recording("a", "a.wav", ("x",), start=start, end=end)


def clips(waveform: np.ndarray, part: Recording, decode: Decode) -> list[tuple[int, int]]:
    """Return the first and last sample of the clips of a recording."""
    blocks = np.split(waveform, range(700, len(waveform), 700))
    return [
        (window.start, window.start + window.samples)
        for window, samples in cut_windows(blocks, {0: part}, decode)
        if samples is not None
    ]


def clips_written(decode: Decode) -> list[Window]:
    """Write the clips of a source into the working directory; return them."""
    source = open_source(decode, FOLDER)
    recordings = source.recordings()
    progress = Progress("decode", len(recordings), "recording", "none")
    return write_clips(source, decode, recordings, WAVEFORMS, progress)[0]


def stored_waveforms() -> np.ndarray:
    """Return the waveforms of the clips in the working directory, float32 (clips, samples)."""
    features = read_features(WAVEFORMS)
    return features.values[:, 0, :, 0] * features.scales[:, None]


def write_params(folder: Path, decode: dict[str, Any] | None = None, **changed: Any) -> None:
    params = {
        "task": TASK,
        "decode": {
            "source": "folder", "path": "sounds.zip", "sample_rate": 8000, "clip_seconds": 1.5,
        } | (decode or {}),
        "split": {"method": "k_fold", "validation": "next_fold"},
        "runtime": {"progress": "none"},
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(params | changed))


def write_folder(path: Path, rows: dict[str, tuple[str, bytes]]) -> None:
    """Write a zip archive of files, each with a label, its bytes and a fold."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["file", "labels", "fold"])
    with zipfile.ZipFile(path, "w") as archive:
        for number, (file, (label, content)) in enumerate(rows.items()):
            writer.writerow([file, label, number % 3 + 1])
            archive.writestr(file, content)
        archive.writestr("clips.csv", table.getvalue())


def wav(samples: np.ndarray) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, 8000, format="WAV", subtype="FLOAT")
    return out.getvalue()


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated sample, decoded."""
    folder = tmp_path_factory.mktemp("decoded")
    sounds.write_sounds(folder / "sounds.zip")
    write_params(folder)
    done = run_stage(folder, "decode")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_short_recording_is_one_clip() -> None:
    assert clips(np.zeros(1500, np.float32), recording(), settings()) == [(0, 1500)]
    assert clips(np.zeros(9000, np.float32), recording(), settings()) == [(0, 2000)]


def test_a_clip_begins_and_ends_where_the_recording_says() -> None:
    waveform = np.zeros(9000, np.float32)
    assert clips(waveform, recording(3), settings()) == [(3000, 5000)]
    assert clips(waveform, recording(3, 4.5), settings()) == [(3000, 4500)]
    assert clips(waveform, recording(8.5, 99), settings()) == [(8500, 9000)]


def test_windows_are_consecutive_and_a_last_one_below_half_is_left_out() -> None:
    every = settings(max_windows=None)
    assert clips(np.zeros(5000, np.float32), recording(), every) == [
        (0, 2000), (2000, 4000), (4000, 5000)
    ]  # fmt: skip
    assert clips(np.zeros(4999, np.float32), recording(), every) == [(0, 2000), (2000, 4000)]
    assert clips(np.zeros(900, np.float32), recording(), every) == [(0, 900)]
    two = settings(max_windows=2)
    assert clips(np.zeros(9000, np.float32), recording(), two) == [(0, 2000), (2000, 4000)]


def test_recordings_of_some_classes_are_taken_evenly_from_each_group() -> None:
    notes = [Recording(f"a{k}", f"a{k}.wav", ("bass",), "a") for k in range(7)]
    notes += [Recording(f"b{k}", f"b{k}.wav", ("reed",), "b") for k in range(2)]
    notes += [Recording("c0", "c0.wav", ("flute",), "c")]
    some = settings(classes=["bass", "reed"], max_recordings=3)
    names = [note.id for note in select_recordings(notes, some)]
    assert names == ["a0", "a2", "a4", "b0", "b1"]  # of seven notes, those at 0, 7/3 and 14/3
    assert select_recordings(notes, settings()) == notes
    with pytest.raises(UserError, match=r"decode\.classes must be labels .*\(bass, .*got 'horn'"):
        select_recordings(notes, settings(classes=["bass", "horn"]))


def test_windows_below_the_level_are_left_out() -> None:
    waveform = np.zeros(6000, np.float32)
    waveform[2000:4000] = 0.1  # -20 dB
    loud = settings(max_windows=1, min_level_db=-21)
    assert clips(waveform, recording(), loud) == [(2000, 4000)]
    assert clips(waveform, recording(), settings(max_windows=None, min_level_db=-19)) == []


def test_a_recording_that_starts_after_the_end_of_its_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a must start before the end of a.wav, 2.00 s, got 3 s"):
        clips(np.zeros(2000, np.float32), recording(3), settings())


def test_a_recording_shorter_than_a_sample_is_refused() -> None:
    with pytest.raises(UserError, match=r"^a must have at least one sample at 1000 Hz, got none;"):
        clips(np.zeros(2000, np.float32), recording(1, 1.0004), settings())


@pytest.mark.parametrize("block", [1, 700, 2000, 9000])
def test_recordings_of_one_file_are_cut_together_for_any_size_of_blocks(block: int) -> None:
    """They start and end anywhere, and overlap."""
    waveform = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    blocks = np.split(waveform, range(block, 9000, block))
    parts = {7: recording(4), 2: recording(0.5, 8), 5: recording(0.7, 1.2), 3: recording(8.9)}
    windows = {}
    for window, samples in cut_windows(blocks, parts, settings(max_windows=None)):
        assert np.array_equal(samples, waveform[window.start :][: window.samples])
        windows.setdefault(window.recording, []).append((window.start, window.samples))
    assert windows == {
        7: [(4000, 2000), (6000, 2000), (8000, 1000)],
        2: [(500, 2000), (2500, 2000), (4500, 2000), (6500, 1500)],
        5: [(700, 500)],
        3: [(8900, 100)],
    }


def test_a_file_is_decoded_once_for_all_its_rows(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    waveform = (rng.integers(-1000, 1000, 25000) / 32768).astype(np.float32)
    (tmp_path / "a.wav").write_bytes(wav(waveform))
    rows = [f"a.wav,x,{row / 10},{row / 10 + 0.2}" for row in range(29, -1, -1)]
    (tmp_path / "clips.csv").write_text("\n".join(["file,labels,start,end", *rows]))
    opened, real_open = [], decoding._open

    def counted(*arguments: Any) -> soundfile.SoundFile:
        opened.append(arguments)
        return real_open(*arguments)

    monkeypatch.setattr(decoding, "_open", counted)
    monkeypatch.chdir(tmp_path)
    windows = clips_written(settings(path=".", sample_rate=8000, clip_seconds=0.2))
    assert len(opened) == 1
    assert [window.recording for window in windows] == list(range(30))
    for row, clip in enumerate(stored_waveforms()):
        assert np.array_equal(clip, waveform[800 * (29 - row) :][:1600])


def test_memory_does_not_grow_with_a_recording(tmp_path: Path, monkeypatch) -> None:
    seconds = 900
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 8000, 1, "PCM_16") as file:
        for second in range(seconds):
            file.write(np.full(8000, second, np.int16))
    (tmp_path / "clips.csv").write_text("file,labels\na.wav,x\n")
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        windows = clips_written(
            settings(path=".", sample_rate=8000, clip_seconds=5, max_windows=None)
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(windows) == seconds / 5
    assert stored_waveforms()[-1, -1] * 32768 == seconds - 1
    assert peak < seconds * 8000  # bytes: a quarter of the samples as they are decoded


def test_classes_are_sorted_by_name() -> None:
    recordings = [
        Recording("a", "a", ("z", "b")),
        Recording("b", "b", ()),
        Recording("c", "c", ("b",)),
    ]
    labels, classes = multi_hot(recordings, Task(**TASK | {"type": "multi_label"}))
    assert [(label.id, label.name) for label in classes] == [("b", "b"), ("z", "z")]
    assert labels.tolist() == [[1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("labels", [(), ("x", "y")])
def test_a_single_label_task_refuses_other_numbers_of_labels(labels: tuple[str, ...]) -> None:
    with pytest.raises(
        UserError, match=rf"^b must have one label, .*, got {len(labels)}; multi_label"
    ):
        multi_hot([recording(), Recording("b", "b", labels)], Task(**TASK))


def test_clips_are_in_the_order_of_the_recordings(decoded: Path, monkeypatch) -> None:
    monkeypatch.chdir(decoded)
    index, features = read_index(FOLDER.index), read_features(WAVEFORMS)
    with zipfile.ZipFile("sounds.zip") as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("clips.csv"))))
        assert len(rows) == len(index.ids) == 100
        assert features.values.shape == (100, 1, 12000, 1)
        assert (features.values.dtype, features.scales.dtype) == (np.int16, np.float32)
        assert features.spec == InputSpec(1, 12000, 1, any_length=True)
        assert features.settings == {"name": "waveform", "sample_rate": 8000}
        names = [label.name for label in index.classes]
        for place, row in enumerate(rows):
            assert names[index.labels[place].argmax()] == row["labels"]
            assert row["file"].encode() in index.ids[place]
            samples = soundfile.info(io.BytesIO(archive.read(row["file"]))).frames
            assert abs(min(samples / 2, 12000) - features.frames[place]) <= 1
            assert not features.values[place, 0, features.frames[place] :].any()
            assert features.values[place].any()
    assert (index.labels.sum(axis=1) == 1).all()
    assert index.recordings.tolist() == list(range(100))


def test_folds_are_the_sources(decoded: Path, monkeypatch) -> None:
    monkeypatch.chdir(decoded)
    index = read_index(FOLDER.index)
    with zipfile.ZipFile("sounds.zip") as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("clips.csv"))))
    folds = np.array([int(row["fold"]) for row in rows])
    assert len(index.folds) == 5
    for number, fold in enumerate(index.folds):
        assert set(folds[fold.test]) == {number + 1}
        assert set(folds[fold.val]) == {(number + 1) % 5 + 1}
        assert len(fold.train) == 60


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "data/summary.json").read_text())


def test_the_summary_has_the_counts_and_names_the_sample(decoded: Path) -> None:
    counts = summary(decoded)
    assert counts["source"] == "generated sample"
    assert counts["records"] == {"sounds.zip": 100}
    assert counts["clips"] == {"all": 100}
    assert (counts["clip_seconds"], counts["max_windows"]) == (1.5, 1)
    assert (counts["recordings_without_clips"], counts["silent_windows"]) == (0, 0)
    assert counts["classes"]["sweep"] == {"id": "sweep", "clips": 20}
    assert (counts["folds"], counts["split"]) == (5, {"train": 300, "val": 100, "test": 100})


def test_a_task_s_recordings_are_in_its_folder(decoded: Path, tmp_path: Path) -> None:
    task = tmp_path / "tasks/a"
    (task / "recordings").mkdir(parents=True)
    with zipfile.ZipFile(decoded / "sounds.zip") as archive:
        archive.extractall(task / "recordings")
    write_params(task, {"path": None})
    done = call_stage(tmp_path, "decode", task="tasks/a")
    assert done.returncode == 0, done.stderr
    assert summary(task) == summary(decoded) | {"records": {"recordings": 100}}
    for file in ("clips.safetensors", "features/waveform/values.npy"):
        assert (task / "data" / file).read_bytes() == (decoded / "data" / file).read_bytes()


def test_one_worker_and_three_write_the_same_bytes(decoded: Path, tmp_path: Path) -> None:
    (tmp_path / "sounds.zip").symlink_to(decoded / "sounds.zip")
    write_params(tmp_path)
    done = run_stage(tmp_path, "decode", TAGGING_WORKERS="3")
    assert done.returncode == 0, done.stderr
    for file in ("clips.safetensors", "features/waveform/values.npy"):
        assert (tmp_path / "data" / file).read_bytes() == (decoded / "data" / file).read_bytes()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16"])
def test_recordings_of_16_bits_or_fewer_are_stored_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtype: str
) -> None:
    """Also at the ends of their range, where -1 is a value and 1 is not."""
    rng = np.random.default_rng(0)
    rows, expected = {}, []
    for number, limit in enumerate([1, 2, 3, 300, 20000, 32768]):
        integers = rng.integers(-limit, limit, 8000, np.int32)
        if subtype == "PCM_U8":
            integers = integers // 256 * 256
        content = written(integers.astype(np.int16), 8000, "WAV", subtype)
        rows[f"{number}.wav"] = ("x", content)
        expected.append(integers / 32768)
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip", "clip_seconds": 1})
    monkeypatch.chdir(tmp_path)
    stages.decode.main(".")
    assert np.array_equal(stored_waveforms(), np.array(expected))


@pytest.mark.parametrize(
    ("subtype", "level"),
    [*product(["PCM_24", "FLOAT"], [0, -40, -84, -120]), ("FLOAT", 9), ("FLOAT", -200)],
)
def test_a_recording_is_heard_as_by_tag_at_any_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtype: str, level: int
) -> None:
    """Lossy codecs exceed full scale, by 9 dB here."""
    rng = np.random.default_rng(0)
    waveform = np.sin(np.arange(8000) / 5) * 10 ** (level / 20)
    waveform *= 0.9 + 0.1 * rng.random(8000)
    content = written(waveform.astype(np.float32), 8000, "WAV", subtype)
    rows = {f"{i}.wav": ("x", wav(np.sin(np.arange(8000) / i))) for i in range(1, 4)}
    write_folder(tmp_path / "a.zip", {"0.wav": ("x", content)} | rows)
    write_params(tmp_path, {"path": "a.zip", "clip_seconds": 1})
    monkeypatch.chdir(tmp_path)
    stages.decode.main(".")
    heard = decoding.decode(content, "0.wav", 8000)
    assert np.abs(heard).max() == pytest.approx(10 ** (level / 20), rel=0.1)
    (stored, *_) = stored_waveforms()
    assert np.abs(stored - heard).max() <= 2**-15 * np.abs(heard).max()
    network = tmp_path / "net.safetensors"
    write_net(network, ["x", "y"], sample_rate=8000, floor=1e-20)
    tagger = Tagger(network)
    by_tag, by_pipeline = (tagger.predict([samples]).probabilities for samples in (heard, stored))
    assert np.abs(by_tag - by_pipeline).max() < 1e-3
    assert np.ptp(by_tag) > 0.01


def test_soft_recordings_are_left_out_and_counted(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    rows = {
        f"{i}.wav": ("x", wav((1e-6 if i == 1 else 0.1) * rng.standard_normal(800)))
        for i in range(6)
    }
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip", "min_level_db": -60})
    done = call_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    counts = summary(tmp_path)
    assert (counts["clips"]["all"], counts["recordings_without_clips"]) == (5, 1)
    monkeypatch.chdir(tmp_path)
    assert read_index(FOLDER.index).recordings.tolist() == [0, 2, 3, 4, 5]


def test_windows_that_are_left_out_as_silent_are_counted(tmp_path: Path) -> None:
    """Windows after the last clip are not counted, unless there are too few clips."""
    sounds_then_not = np.repeat([0.1, 0, 0.1, 0, 0.1], 800)
    rows = {f"{i}.wav": ("x", wav(sounds_then_not * (1 + i))) for i in range(3)}
    rows["3.wav"] = ("x", wav(np.repeat([0, 0, 0.1], 800)))
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {
        "path": "a.zip", "min_level_db": -60, "clip_seconds": 0.1, "max_windows": 2,
    })  # fmt: skip
    done = call_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    counts = summary(tmp_path)
    assert (counts["clips"]["all"], counts["silent_windows"]) == (7, 3 + 2)


def test_silence_everywhere_is_refused(tmp_path: Path) -> None:
    quiet = wav(np.full(800, 1e-6, np.float32))
    write_folder(tmp_path / "a.zip", {f"{i}.wav": ("x", quiet) for i in range(3)})
    write_params(tmp_path, {"path": "a.zip", "min_level_db": -60})
    assert_one_sentence(call_stage(tmp_path, "decode"), "decode.min_level_db must", "got -60")


def write_split(folder: Path, clips: str, task_type: str, **split: Any) -> None:
    """Write a folder of short files and its params.yaml; `clips` has their labels and splits."""
    rows = [row.split(":") for row in clips.split()]
    table = [f"{place}.wav,{labels},{split}" for place, (labels, split) in enumerate(rows)]
    (folder / "clips.csv").write_text("\n".join(["file,labels,split", *table]))
    for place in range(len(rows)):
        (folder / f"{place}.wav").write_bytes(wav(np.full(80, 0.1 + place / 100)))
    write_params(folder, {"path": "."}, task=TASK | {"type": task_type}, split=split)


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("task_type", ["single_label", "multi_label", "similarity"])
def test_a_class_that_is_missing_from_a_split_is_refused(
    tmp_path: Path, task_type: str, split: str
) -> None:
    """Except from val in a multi-label task, and in a similarity task."""
    splits = ("train", "val", "test")
    clips = " ".join(f"{label}:{name}" for label in ("x", "y") for name in splits)
    clips = clips.replace(f"y:{split}", f"x:{split}")
    write_split(tmp_path, clips, task_type, method="predefined")
    done = call_stage(tmp_path, "decode")
    if task_type == "similarity" or (task_type == "multi_label" and split == "val"):
        assert done.returncode == 0, done.stderr
    else:
        assert_one_sentence(
            done, "split.method predefined must have clips of each class", f"none of y in {split}:"
        )


def test_a_class_that_is_missing_from_a_random_split_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, " ".join(["y:", *["x:"] * 29]), "single_label", method="random")
    done = call_stage(tmp_path, "decode")
    assert_one_sentence(done, "split.method random must have clips", "got none of y in")


def test_folds_that_cannot_be_drawn_are_refused_with_the_remedies(tmp_path: Path) -> None:
    clips = " ".join(["y:"] * 2 + ["x:"] * 8)
    write_split(tmp_path, clips, "single_label", method="group_k_fold")
    assert_one_sentence(
        call_stage(tmp_path, "decode"), "got none of y", "fewer split.folds", "more files"
    )


SOUND = np.sin(np.arange(8000) / 5).astype(np.float32)
NOT_SOUND = {
    "0 bytes": (b"", "is empty"),
    "half a header": (b"RIFF", "cannot be read as sound"),
    "text": (b"no sound, but text\n" * 99, "cannot be read as sound"),
    "cut off": (written(SOUND, 8000, "MP3")[:900], "is truncated"),
    "not finite": (
        written(np.where(SOUND > 0.9, np.nan, SOUND), 8000, "WAV", "FLOAT"),
        "that is not finite",
    ),
}


@pytest.mark.parametrize("bad", NOT_SOUND)
def test_a_file_that_is_not_sound_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    content, sentence = NOT_SOUND[bad]
    rows = {f"{i}.wav": ("x", content if i == 2 else wav(SOUND)) for i in range(6)}
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=rf"2\.wav.*{sentence}") as ended:
        stages.decode.main(".")
    assert "\n" not in str(ended.value)
    assert {str(path) for path in Path().rglob("*") if path.is_file()} == {"a.zip", "params.yaml"}


def bad_rows() -> dict[str, tuple[str, bytes]]:
    """Return nine files, of which 1.wav, 4.wav and 7.wav cannot be decoded.

    The last has whole blocks before its error.
    """
    long = np.tile(SOUND, 20)
    long[-1] = np.nan
    rows = {f"{i}.wav": ("x", wav(np.roll(SOUND, i) * (1 - i / 20))) for i in range(9)}
    rows["1.wav"] = ("x", b"")
    rows["4.wav"] = ("x", b"no sound, but text")
    rows["7.wav"] = ("x", wav(long))
    return rows


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_all_bad_files_are_listed_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write_folder(tmp_path / "a.zip", bad_rows())
    write_params(tmp_path, {"path": "a.zip" if kind == "zip" else "a"})
    monkeypatch.chdir(tmp_path)
    if kind == "folder":
        with zipfile.ZipFile("a.zip") as archive:
            archive.extractall("a")
    with pytest.raises(SystemExit) as ended:
        stages.decode.main(".")
    first, *problems = str(ended.value.code).splitlines()
    assert first == (
        "error: 3 of 9 files have no clips; decode.unreadable: skip leaves out files that cannot "
        "be decoded"
    )
    starts = ["  1.wav is empty", "  4.wav cannot be read as sound", "  7.wav has a sample at 20."]
    assert [line[: len(start)] for line, start in zip(problems, starts, strict=True)] == starts
    assert not Path("data/summary.json").exists()
    assert not list(Path("data").rglob("*.*"))


def test_bad_files_are_skipped_counted_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = bad_rows()
    write_folder(tmp_path / "a.zip", rows)
    write_params(
        tmp_path,
        {"path": "a.zip", "unreadable": "skip", "max_windows": None},
        split={"method": "group_k_fold", "folds": 3},
    )
    monkeypatch.chdir(tmp_path)
    stages.decode.main(".")
    counts, index = summary(tmp_path), read_index(FOLDER.index)
    assert list(counts["unreadable_files"]) == ["1.wav", "4.wav", "7.wav"]
    assert counts["unreadable_files"]["1.wav"].startswith("1.wav is empty")
    assert (counts["records"], counts["clips"]) == ({"a.zip": 9}, {"all": 6})
    assert (counts["recordings_without_clips"], counts["silent_windows"]) == (0, 0)
    assert index.recordings.tolist() == [0, 2, 3, 5, 6, 8]
    good = {name: row for name, row in rows.items() if name not in counts["unreadable_files"]}
    stored = stored_waveforms()[:, :8000]
    for (_, content), clip in zip(good.values(), stored, strict=True):
        expected = decoding.decode(content, "", 8000)
        assert np.abs(clip - expected).max() <= 2**-15
    # Without the bad files, everything else is the same.
    write_folder(tmp_path / "good.zip", good)
    (tmp_path / "good").mkdir()
    write_params(
        tmp_path / "good",
        {"path": "good.zip", "max_windows": None},
        split={"method": "group_k_fold", "folds": 3},
    )
    stages.decode.main("good")
    for file in ("features/waveform/values.npy", "features/waveform/scales.npy"):
        assert (tmp_path / "data" / file).read_bytes() == (
            tmp_path / "good/data" / file
        ).read_bytes()
    other = read_index(TaskFolder(Path("good")).index)
    assert (other.ids.tolist(), other.labels.tolist()) == (
        index.ids.tolist(),
        index.labels.tolist(),
    )


def test_rows_that_do_not_fit_their_files_are_never_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("0.wav", 0), ("1.wav", 0), ("2.wav", 60), ("3.wav", 70)]
    for number, (file, _) in enumerate(rows):
        content = b"" if number == 1 else wav(SOUND * (1 - number / 10))
        (tmp_path / file).write_bytes(content)
    table = [f"{file},x,{start}" for file, start in rows]
    (tmp_path / "clips.csv").write_text("\n".join(["file,labels,start", *table]))
    write_params(tmp_path, {"path": ".", "unreadable": "skip"}, split={"method": "random"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        stages.decode.main(".")
    first, *problems = str(ended.value.code).splitlines()
    assert first == "error: 2 of 4 files have no clips"
    assert [line.split()[:2] for line in problems] == [
        ["2.wav@60.0-", "must"], ["3.wav@70.0-", "must"]
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_files_that_cannot_be_read_are_bad_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Members of an archive that are damaged, and files whose disk fails."""
    contents = {f"{i}.wav": wav(np.roll(SOUND, 7 * i)) for i in range(9)}
    write_folder(tmp_path / "a.zip", {name: ("x", content) for name, content in contents.items()})
    bad = ["3.wav", "5.wav"]
    if kind == "zip":
        archive = (tmp_path / "a.zip").read_bytes()
        for name in bad:
            changed = contents[name][:-1] + bytes([contents[name][-1] ^ 1])
            archive = archive.replace(contents[name], changed)
        (tmp_path / "a.zip").write_bytes(archive)
    else:
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            archive.extractall(tmp_path / "a")
        real_open = Path.open

        def failing_open(path: Path, *arguments: Any, **options: Any) -> object:
            if path.name in bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real_open(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", failing_open)
    monkeypatch.chdir(tmp_path)
    path = "a.zip" if kind == "zip" else "a"
    write_params(tmp_path, {"path": path})
    with pytest.raises(SystemExit) as ended:
        stages.decode.main(".")
    first, *problems = str(ended.value.code).splitlines()
    assert first.startswith("error: 2 of 9 files have no clips; decode.unreadable: skip")
    assert ["3.wav cannot be read" in problems[0], "5.wav cannot be read" in problems[1]] == [
        True
    ] * 2
    write_params(
        tmp_path, {"path": path, "unreadable": "skip"}, split={"method": "group_k_fold", "folds": 3}
    )
    stages.decode.main(".")
    assert list(summary(tmp_path)["unreadable_files"]) == bad
    assert read_index(FOLDER.index).recordings.tolist() == [0, 1, 2, 4, 6, 7, 8]


def test_skipping_every_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "a.zip", {f"{i}.wav": ("x", b"text") for i in range(3)})
    write_params(tmp_path, {"path": "a.zip", "unreadable": "skip"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"error: 3 of 3 files have no clips\n  0.wav cannot be"):
        stages.decode.main(".")


def test_copies_are_one_group_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Through groups of the table as well: the tapes of b.wav and its copy are one."""
    names = "abcdefghij"
    contents = {name: wav(np.roll(SOUND, 7 * k)) for k, name in enumerate(names)}
    contents["d"] = contents["h"] = contents["b"]
    contents["j"] = contents["c"]
    groups = {"b": "tape", "e": "tape", "h": "reel", "i": "reel"}
    for name, content in contents.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
    table = [f"{name}.wav,x,{groups.get(name, '')}" for name in names]
    (tmp_path / "clips.csv").write_text("\n".join(["file,labels,group", *table]))
    monkeypatch.chdir(tmp_path)
    for seed in range(8):
        split = {"method": "group_k_fold", "folds": 3, "seed": seed}
        write_params(tmp_path, {"path": "."}, split=split)
        stages.decode.main(".")
        for fold in read_index(FOLDER.index).folds:
            test = {names[clip] for clip in fold.test}
            for copies in (set("bdehi"), set("cj")):
                assert not copies & test or copies <= test
    assert capfd.readouterr().err.splitlines()[-1] == (
        "warning: 3 files are copies of another, byte by byte, and in its split: d.wav (b.wav), "
        "h.wav (b.wav), j.wav (c.wav)"
    )


@pytest.mark.parametrize("method", ["random", "k_fold", "predefined"])
def test_copies_are_never_in_two_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, method: str
) -> None:
    """With the windows of a random split, each of which is drawn for itself."""
    names = [f"{k:02}" for k in range(30)]
    contents = [wav(noise) for noise in np.random.default_rng(0).uniform(-0.5, 0.5, (24, 24000))]
    for number, name in enumerate(names):
        (tmp_path / f"{name}.wav").write_bytes(contents[number % 24])
    column = {"predefined": "split", "k_fold": "fold"}.get(method, "group")
    values = {"split": ["train", "val", "test"], "fold": ["1", "2", "3"], "group": [""]}[column]
    table = [f"{name}.wav,x,{values[k // 2 % len(values)]}" for k, name in enumerate(names)]
    (tmp_path / "clips.csv").write_text("\n".join([f"file,labels,{column}", *table]))
    write_params(
        tmp_path, {"path": ".", "max_windows": None, "clip_seconds": 1}, split={"method": method}
    )
    monkeypatch.chdir(tmp_path)
    stages.decode.main(".")
    assert capfd.readouterr().err == (
        "warning: 6 files are copies of another, byte by byte, and in its split: 24.wav (00.wav), "
        "25.wav (01.wav), 26.wav (02.wav), 27.wav (03.wav), 28.wav (04.wav), 1 more\n"
    )
    index, stored = read_index(FOLDER.index), stored_waveforms()
    assert len(index.ids) == 90
    for fold in index.folds:
        assert sorted(np.concatenate(fold)) == list(range(90))
        split_sounds = [{stored[clip].tobytes() for clip in clips} for clips in fold]
        assert not split_sounds[0] & split_sounds[2]
        assert not split_sounds[0] & split_sounds[1]
        assert not split_sounds[1] & split_sounds[2]


def test_a_random_split_without_copies_is_the_published_one() -> None:
    fold = random_fold(100, (8, 1, 1), 3)
    for clips, expected in zip(keep_together(fold, range(100)), fold, strict=True):
        assert clips.tolist() == expected.tolist()


# Channels: a quiet one, a loud one, its opposite.
LEFT, RIGHT = 0.1 * SOUND, np.roll(SOUND, 3) / 2


@pytest.mark.parametrize(
    ("channel", "expected"),
    [("mean", (LEFT + RIGHT) / 2), ("first", LEFT), ("loudest", RIGHT), (1, LEFT), (2, RIGHT)],
)
def test_a_channel_is_chosen_or_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: object, expected: np.ndarray
) -> None:
    """The loudest is loudest in the whole file, not in its beginning."""
    left, right = (np.tile(samples, 20) for samples in (LEFT, RIGHT))
    right[: 10 * 8000] = 0
    content = written(np.stack([left, right], axis=1), 8000, "WAV", "FLOAT")
    rows = {f"{i}.wav": ("x", wav(np.roll(SOUND, i))) for i in range(2)}
    write_folder(tmp_path / "a.zip", {"a.wav": ("x", content)} | ({} if channel == 2 else rows))
    write_params(
        tmp_path,
        {"path": "a.zip", "channel": channel, "clip_seconds": 1, "max_windows": None},
        split={"method": "random", "ratios": [1, 1, 1]},
    )
    monkeypatch.chdir(tmp_path)
    stages.decode.main(".")
    stored = stored_waveforms()
    assert np.abs(stored[15] - expected).max() <= 2**-15
    if channel != 2:
        assert np.abs(stored[20] - SOUND).max() <= 2**-15


def test_a_file_without_the_channel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "a.zip", {"a.wav": ("x", wav(SOUND))})
    write_params(tmp_path, {"path": "a.zip", "channel": 2})
    monkeypatch.chdir(tmp_path)
    sentence = r"a\.wav must have 2 channels or more, as decode\.channel is 2, got 1"
    with pytest.raises(SystemExit, match=sentence):
        stages.decode.main(".")
    write_params(tmp_path, {"path": "a.zip", "channel": 0})
    with pytest.raises(SystemExit, match=r"decode\.channel must be .*, got 0"):
        stages.decode.main(".")


def test_a_mean_that_is_far_below_a_channel_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    opposite, near = np.stack([SOUND, -SOUND], 1), np.stack([SOUND, -0.99 * SOUND], 1)
    dead = np.stack([SOUND, np.zeros_like(SOUND)], 1)  # 6 dB
    one_of_32 = np.zeros((8000, 32), np.float32)
    one_of_32[:, 30] = SOUND
    stereo = {"opposite": opposite, "near": near, "dead": dead, "one of 32": one_of_32}
    rows = {
        f"{name}.wav": ("x", written(channels, 8000, "WAV", "FLOAT"))
        for name, channels in stereo.items()
    }
    write_folder(tmp_path / "a.zip", rows)
    monkeypatch.chdir(tmp_path)
    split = {"method": "group_k_fold", "folds": 4}
    write_params(tmp_path, {"path": "a.zip"}, split=split)
    stages.decode.main(".")
    assert capfd.readouterr().err.splitlines() == [
        "warning: near.wav: the mean of its 2 channels is 46 dB below channel 1; see "
        "decode.channel",
        "warning: one of 32.wav: the mean of its 32 channels is 30 dB below channel 31; see "
        "decode.channel",
        "warning: opposite.wav: the mean of its 2 channels is silent; see decode.channel",
    ]
    write_params(tmp_path, {"path": "a.zip", "channel": "loudest"}, split=split)
    stages.decode.main(".")
    assert not capfd.readouterr().err
    for waveform in stored_waveforms():
        assert np.abs(waveform[:8000] - SOUND).max() <= 2**-15


@pytest.mark.parametrize("channel", ["mean", "loudest"])
def test_memory_is_bounded_with_32_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: str
) -> None:
    seconds = 60
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 8000, 32, "PCM_16") as file:
        for second in range(seconds):
            file.write(np.full((8000, 32), second, np.int16))
    (tmp_path / "clips.csv").write_text("file,labels\na.wav,x\n")
    monkeypatch.chdir(tmp_path)
    decode = settings(path=".", sample_rate=8000, clip_seconds=5, channel=channel)
    tracemalloc.start()
    try:
        clips_written(decode)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < seconds * 8000 * 32 * 4 / 4  # bytes: a quarter of the samples


def test_sounds_of_any_kind_are_clips_of_one_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = np.tile(SOUND[:, None], 6)
    kinds = {
        "8 bits": (SOUND, 8000, "WAV", "PCM_U8"),
        "24 bits": (SOUND, 8000, "WAV", "PCM_24"),
        "5.1 channels": (channels, 8000, "WAV", "PCM_16"),
        "high rate": (np.repeat(SOUND, 12), 96000, "FLAC", "PCM_16"),
        "10 ms": (SOUND[:80], 8000, "WAV", "PCM_16"),
        "silence": (np.zeros(8000, np.float32), 8000, "OGG", "VORBIS"),
    }
    rows = {name: ("x", written(*kind)) for name, kind in kinds.items()}
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip"})
    monkeypatch.chdir(tmp_path)
    stages.decode.main(".")
    features, ids = read_features(WAVEFORMS), read_index(FOLDER.index).ids
    for name in kinds:
        (clip,) = np.flatnonzero(np.char.startswith(ids, name.encode()))
        samples = 80 if name == "10 ms" else 8000
        assert features.frames[clip] == samples
        values = features.values[clip].ravel()[:samples] * features.scales[clip]
        expected = np.zeros(samples) if name == "silence" else SOUND[:samples]
        if name != "high rate":  # the resampler smooths its steps
            np.testing.assert_allclose(values, expected, atol=0.02)


def test_a_damaged_archive_is_refused_in_one_sentence(decoded: Path, tmp_path: Path) -> None:
    content = bytearray((decoded / "sounds.zip").read_bytes())
    content[len(content) // 2] ^= 0xFF  # in the middle of a file
    (tmp_path / "sounds.zip").write_bytes(content)
    write_params(tmp_path)
    assert_one_sentence(call_stage(tmp_path, "decode"), "sounds.zip")


def test_wrong_settings_are_refused_by_their_names(tmp_path: Path) -> None:
    write_params(tmp_path, {"sample_rate": 100})
    done = call_stage(tmp_path, "decode")
    assert_one_sentence(done, "decode.sample_rate must be greater than or equal to 1000,")
    write_params(tmp_path, {"source": "radio"})
    assert_one_sentence(
        call_stage(tmp_path, "decode"), "decode.source must be", "nsynth", "got 'radio'"
    )
