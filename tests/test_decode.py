"""`decode`: the recordings of a source as clips of one length, with labels and folds."""

import csv
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

import stages.decode
from stages.decode import Decode, Window, cut_windows, multi_hot, open_source, write_clips
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.data.clips import read_features, read_index
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.features import decoding
from tagging.sources import sounds
from tagging.sources.recording import Recording
from tests.archives import assert_one_sentence, run_stage
from tests.test_decoding import written

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
    stored = read_features(WAVEFORMS).values[:, 0, :, 0] / 32768
    for row, clip in enumerate(stored):
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
    assert read_features(WAVEFORMS).values[-1, 0, -1, 0] == seconds - 1
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
        assert (features.values.dtype, features.spec.scale) == (np.int16, 2**-15)
        assert features.settings == {"name": "waveform", "sample_rate": 8000}
        assert features.spec.any_length
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
    done = run_stage(tmp_path, "decode", task="tasks/a")
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


def test_loud_samples_are_clipped_not_wrapped(tmp_path: Path, monkeypatch) -> None:
    loud = np.array([0, 2, -2, 0.5, 1, -1] * 100, np.float32)
    write_folder(tmp_path / "a.zip", {f"{i}.wav": ("x", wav(loud)) for i in range(3)})
    write_params(tmp_path, {"path": "a.zip"})
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    stored = read_features(WAVEFORMS).values[0, 0, :6, 0]
    assert stored.tolist() == [0, 32767, -32768, 16384, 32767, -32768]


def test_soft_recordings_are_left_out_and_counted(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    rows = {
        f"{i}.wav": ("x", wav((1e-6 if i == 1 else 0.1) * rng.standard_normal(800)))
        for i in range(6)
    }
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip", "min_level_db": -60})
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    counts = summary(tmp_path)
    assert (counts["clips"]["all"], counts["recordings_without_clips"]) == (5, 1)
    monkeypatch.chdir(tmp_path)
    assert read_index(FOLDER.index).recordings.tolist() == [0, 2, 3, 4, 5]


def test_windows_that_are_left_out_as_silent_are_counted(tmp_path: Path) -> None:
    """Windows after the last clip are not counted, unless there are too few clips."""
    sounds_then_not = np.repeat([0.1, 0, 0.1, 0, 0.1], 800)
    rows = {f"{i}.wav": ("x", wav(sounds_then_not)) for i in range(3)}
    rows["3.wav"] = ("x", wav(np.repeat([0, 0, 0.1], 800)))
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {
        "path": "a.zip", "min_level_db": -60, "clip_seconds": 0.1, "max_windows": 2,
    })  # fmt: skip
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    counts = summary(tmp_path)
    assert (counts["clips"]["all"], counts["silent_windows"]) == (7, 3 + 2)


def test_silence_everywhere_is_refused(tmp_path: Path) -> None:
    quiet = wav(np.full(800, 1e-6, np.float32))
    write_folder(tmp_path / "a.zip", {f"{i}.wav": ("x", quiet) for i in range(3)})
    write_params(tmp_path, {"path": "a.zip", "min_level_db": -60})
    assert_one_sentence(run_stage(tmp_path, "decode"), "decode.min_level_db must", "got -60")


def write_split(folder: Path, clips: str, task_type: str, **split: Any) -> None:
    """Write a folder of short files and its params.yaml; `clips` has their labels and splits."""
    rows = [row.split(":") for row in clips.split()]
    table = [f"{place}.wav,{labels},{split}" for place, (labels, split) in enumerate(rows)]
    (folder / "clips.csv").write_text("\n".join(["file,labels,split", *table]))
    for place in range(len(rows)):
        (folder / f"{place}.wav").write_bytes(wav(np.full(80, 0.1)))
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
    done = run_stage(tmp_path, "decode")
    if task_type == "similarity" or (task_type == "multi_label" and split == "val"):
        assert done.returncode == 0, done.stderr
    else:
        assert_one_sentence(
            done, "split.method predefined must have clips of each class", f"none of y in {split}:"
        )


def test_a_class_that_is_missing_from_a_random_split_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, " ".join(["y:", *["x:"] * 29]), "single_label", method="random")
    done = run_stage(tmp_path, "decode")
    assert_one_sentence(done, "split.method random must have clips", "got none of y in")


def test_folds_that_cannot_be_drawn_are_refused_with_the_remedies(tmp_path: Path) -> None:
    clips = " ".join(["y:"] * 2 + ["x:"] * 8)
    write_split(tmp_path, clips, "single_label", method="group_k_fold")
    assert_one_sentence(
        run_stage(tmp_path, "decode"), "got none of y", "fewer split.folds", "more files"
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
        values = features.values[clip].ravel()[:samples] / 32768
        expected = np.zeros(samples) if name == "silence" else SOUND[:samples]
        if name != "high rate":  # the resampler smooths its steps
            np.testing.assert_allclose(values, np.clip(expected, -1, 1), atol=0.02)


def test_a_damaged_archive_is_refused_in_one_sentence(decoded: Path, tmp_path: Path) -> None:
    content = bytearray((decoded / "sounds.zip").read_bytes())
    content[len(content) // 2] ^= 0xFF  # in the middle of a file
    (tmp_path / "sounds.zip").write_bytes(content)
    write_params(tmp_path)
    assert_one_sentence(run_stage(tmp_path, "decode"), "sounds.zip")


def test_wrong_settings_are_refused_by_their_names(tmp_path: Path) -> None:
    write_params(tmp_path, {"sample_rate": 100})
    done = run_stage(tmp_path, "decode")
    assert_one_sentence(done, "decode.sample_rate must be greater than or equal to 1000,")
    write_params(tmp_path, {"source": "radio"})
    assert_one_sentence(
        run_stage(tmp_path, "decode"), "decode.source must be", "nsynth", "got 'radio'"
    )
