"""`decode`: recordings of a source as clips of one length, with labels and folds."""

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
from stages.decode import Decode, Window, cut, multi_hot, open_source, write_clips
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.data.clips import read_features, read_index
from tagging.data.task import Task
from tagging.features import decoding
from tagging.sources import sounds
from tagging.sources.recording import Recording
from tests.archives import assert_one_sentence, run_stage
from tests.test_decoding import written

RATE = 1000
TASK = {"kind": "single_label", "chooses": "accuracy", "shown": ["accuracy"]}


def settings(**changed: Any) -> Decode:
    return Decode(**{"source": "folder", "path": "x", "rate": RATE, "seconds": 2} | changed)


def recording(start: float = 0.0, end: float | None = None) -> Recording:
    return Recording("a", "a.wav", ("x",), start=start, end=end)


def clips(waveform: np.ndarray, of: Recording, how: Decode) -> list[tuple[int, int]]:
    """Return where the clips of a recording begin and end."""
    pieces = np.split(waveform, range(700, len(waveform), 700))
    return [
        (window.start, window.start + window.samples)
        for window, samples in cut(pieces, {0: of}, how)
        if samples is not None
    ]


def clips_written(how: Decode) -> list[Window]:
    """Write the clips of a source into the working directory; return them."""
    recordings = open_source(how).recordings()
    progress = Progress("decode", len(recordings), "recording", "none")
    return write_clips(how, recordings, progress)[0]


def write_params(folder: Path, decode: dict[str, Any] | None = None, **changed: Any) -> None:
    params = {
        "task": TASK,
        "decode": {"source": "folder", "path": "sounds.zip", "rate": 8000, "seconds": 1.5}
        | (decode or {}),
        "protocol": {"split": "folds", "validate_on": "next_fold"},
        "run": {"device": "cpu", "progress": "none"},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params | changed))


def write_folder(path: Path, rows: dict[str, tuple[str, bytes]]) -> None:
    """Write a zip archive of files with a label and contents each, and a fold of its own."""
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


def test_a_recording_is_one_clip_that_ends_with_it() -> None:
    assert clips(np.zeros(1500, np.float32), recording(), settings()) == [(0, 1500)]
    assert clips(np.zeros(9000, np.float32), recording(), settings()) == [(0, 2000)]


def test_a_clip_begins_and_ends_where_the_recording_says() -> None:
    waveform = np.zeros(9000, np.float32)
    assert clips(waveform, recording(3), settings()) == [(3000, 5000)]
    assert clips(waveform, recording(3, 4.5), settings()) == [(3000, 4500)]
    assert clips(waveform, recording(8.5, 99), settings()) == [(8500, 9000)]


def test_windows_follow_each_other_and_a_rest_below_half_is_left_out() -> None:
    all_of = settings(windows=None)
    assert clips(np.zeros(5000, np.float32), recording(), all_of) == [
        (0, 2000), (2000, 4000), (4000, 5000)
    ]  # fmt: skip
    assert clips(np.zeros(4999, np.float32), recording(), all_of) == [(0, 2000), (2000, 4000)]
    assert clips(np.zeros(900, np.float32), recording(), all_of) == [(0, 900)]
    two = settings(windows=2)
    assert clips(np.zeros(9000, np.float32), recording(), two) == [(0, 2000), (2000, 4000)]


def test_windows_that_are_softer_than_the_setting_are_left_out() -> None:
    waveform = np.zeros(6000, np.float32)
    waveform[2000:4000] = 0.1  # -20 dB
    loud = settings(windows=1, silence=-21)
    assert clips(waveform, recording(), loud) == [(2000, 4000)]
    assert clips(waveform, recording(), settings(windows=None, silence=-19)) == []


def test_a_recording_that_begins_after_its_file_ends_is_refused() -> None:
    with pytest.raises(UserError, match=r"a begins at 3 s, but a.wav has 2.00 s"):
        clips(np.zeros(2000, np.float32), recording(3), settings())


def test_a_recording_shorter_than_a_sample_is_refused() -> None:
    with pytest.raises(UserError, match=r"a gives a clip without a sample at 1000 Hz; it takes"):
        clips(np.zeros(2000, np.float32), recording(1, 1.0004), settings())


@pytest.mark.parametrize("piece", [1, 700, 2000, 9000])
def test_recordings_of_one_file_are_cut_together_whatever_its_pieces(piece: int) -> None:
    """They begin and end anywhere, also in each other."""
    waveform = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    pieces = np.split(waveform, range(piece, 9000, piece))
    parts = {7: recording(4), 2: recording(0.5, 8), 5: recording(0.7, 1.2), 3: recording(8.9)}
    found = {}
    for window, samples in cut(pieces, parts, settings(windows=None)):
        assert np.array_equal(samples, waveform[window.start :][: window.samples])
        found.setdefault(window.recording, []).append((window.start, window.samples))
    assert found == {
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
    opened, really = [], decoding._opened

    def counted(*arguments: Any) -> soundfile.SoundFile:
        opened.append(arguments)
        return really(*arguments)

    monkeypatch.setattr(decoding, "_opened", counted)
    monkeypatch.chdir(tmp_path)
    windows = clips_written(settings(path=".", rate=8000, seconds=0.2))
    assert len(opened) == 1
    assert [window.recording for window in windows] == list(range(30))
    stored = read_features("waveform").values[:, 0, :, 0] / 32768
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
        windows = clips_written(settings(path=".", rate=8000, seconds=5, windows=None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(windows) == seconds / 5
    assert read_features("waveform").values[-1, 0, -1, 0] == seconds - 1
    assert peak < seconds * 8000  # bytes: a quarter of the samples as they are decoded


def test_classes_are_in_the_order_of_their_names() -> None:
    recordings = [
        Recording("a", "a", ("z", "b")),
        Recording("b", "b", ()),
        Recording("c", "c", ("b",)),
    ]
    labels, classes = multi_hot(recordings, Task(**TASK | {"kind": "multi_label"}))
    assert [(of.id, of.name) for of in classes] == [("b", "b"), ("z", "z")]
    assert labels.tolist() == [[1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("labels", [(), ("x", "y")])
def test_a_task_of_one_label_refuses_other_numbers(labels: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=rf"b has {len(labels)} labels; .* multi_label"):
        multi_hot([recording(), Recording("b", "b", labels)], Task(**TASK))


def test_clips_are_the_recordings_in_their_order(decoded: Path, monkeypatch) -> None:
    monkeypatch.chdir(decoded)
    index, features = read_index(), read_features("waveform")
    with zipfile.ZipFile("sounds.zip") as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("clips.csv"))))
        assert len(rows) == len(index.ids) == 100
        assert features.values.shape == (100, 1, 12000, 1)
        assert (features.values.dtype, features.spec.scale) == (np.int16, 2**-15)
        assert features.settings == {"name": "waveform", "sample_rate": 8000}
        assert features.spec.any_length
        names = [of.name for of in index.classes]
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
    index = read_index()
    with zipfile.ZipFile("sounds.zip") as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("clips.csv"))))
    folds = np.array([int(row["fold"]) for row in rows])
    assert len(index.folds) == 5
    for number, fold in enumerate(index.folds):
        assert set(folds[fold.test]) == {number + 1}
        assert set(folds[fold.val]) == {(number + 1) % 5 + 1}
        assert len(fold.train) == 60


def test_what_was_decoded_is_told_and_the_sample_called_so(decoded: Path) -> None:
    told = json.loads((decoded / "metrics/data.json").read_text())
    assert told["source"] == "generated sample"
    assert told["records"] == {"sounds.zip": 100}
    assert told["clips"] == {"all": 100}
    assert (told["recordings_without_a_clip"], told["silent_windows"]) == (0, 0)
    assert told["classes"]["sweep"] == {"id": "sweep", "clips": 20}
    assert (told["folds"], told["split"]) == (5, {"train": 300, "val": 100, "test": 100})


def test_the_same_bytes_come_out_on_one_core_and_on_three(decoded: Path, tmp_path: Path) -> None:
    (tmp_path / "sounds.zip").symlink_to(decoded / "sounds.zip")
    write_params(tmp_path)
    done = run_stage(tmp_path, "decode", TAGGING_WORKERS="3")
    assert done.returncode == 0, done.stderr
    for file in ("clips.safetensors", "features/waveform/values.npy"):
        assert (tmp_path / "data" / file).read_bytes() == (decoded / "data" / file).read_bytes()


def test_loud_samples_are_cut_off_not_wrapped(tmp_path: Path, monkeypatch) -> None:
    loud = np.array([0, 2, -2, 0.5, 1, -1] * 100, np.float32)
    write_folder(tmp_path / "a.zip", {f"{i}.wav": ("x", wav(loud)) for i in range(3)})
    write_params(tmp_path, {"path": "a.zip"})
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    stored = read_features("waveform").values[0, 0, :6, 0]
    assert stored.tolist() == [0, 32767, -32768, 16384, 32767, -32768]


def test_soft_recordings_are_left_out_and_counted(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    rows = {
        f"{i}.wav": ("x", wav((1e-6 if i == 1 else 0.1) * rng.standard_normal(800)))
        for i in range(6)
    }
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip", "silence": -60})
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "metrics/data.json").read_text())
    assert (told["clips"]["all"], told["recordings_without_a_clip"]) == (5, 1)
    monkeypatch.chdir(tmp_path)
    assert read_index().recordings.tolist() == [0, 2, 3, 4, 5]


def test_windows_that_are_left_out_as_silent_are_counted(tmp_path: Path) -> None:
    """They are those before the last clip that is wanted, or all where there are too few."""
    sounds_then_not = np.repeat([0.1, 0, 0.1, 0, 0.1], 800)
    rows = {f"{i}.wav": ("x", wav(sounds_then_not)) for i in range(3)}
    rows["3.wav"] = ("x", wav(np.repeat([0, 0, 0.1], 800)))
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip", "silence": -60, "seconds": 0.1, "windows": 2})
    done = run_stage(tmp_path, "decode")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "metrics/data.json").read_text())
    assert (told["clips"]["all"], told["silent_windows"]) == (7, 3 + 2)


def test_silence_everywhere_is_refused(tmp_path: Path) -> None:
    quiet = wav(np.full(800, 1e-6, np.float32))
    write_folder(tmp_path / "a.zip", {f"{i}.wav": ("x", quiet) for i in range(3)})
    write_params(tmp_path, {"path": "a.zip", "silence": -60})
    assert_one_sentence(run_stage(tmp_path, "decode"), "decode.silence")


def write_split(folder: Path, clips: str, kind: str, **protocol: Any) -> None:
    """Write a folder of short files and its params.yaml; `clips` are labels and splits."""
    rows = [row.split(":") for row in clips.split()]
    table = [f"{place}.wav,{labels},{split}" for place, (labels, split) in enumerate(rows)]
    (folder / "clips.csv").write_text("\n".join(["file,labels,split", *table]))
    for place in range(len(rows)):
        (folder / f"{place}.wav").write_bytes(wav(np.full(80, 0.1)))
    write_params(folder, {"path": "."}, task=TASK | {"kind": kind}, protocol=protocol)


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("kind", ["single_label", "multi_label", "similarity"])
def test_a_class_that_is_missing_from_a_part_is_refused(
    tmp_path: Path, kind: str, part: str
) -> None:
    """.. but from what validates, where a clip has several labels; and where labels are none."""
    clips = " ".join(f"{of}:{split}" for of in ("x", "y") for split in ("train", "val", "test"))
    write_split(tmp_path, clips.replace(f"y:{part}", f"x:{part}"), kind, split="given")
    done = run_stage(tmp_path, "decode")
    if kind == "similarity" or (kind == "multi_label" and part == "val"):
        assert done.returncode == 0, done.stderr
    else:
        assert_one_sentence(done, f"no clip of y is in {part}; protocol.split given takes clips")


def test_a_class_that_is_missing_from_a_part_at_random_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, " ".join(["y:", *["x:"] * 29]), "single_label", split="random")
    assert_one_sentence(run_stage(tmp_path, "decode"), "no clip of y is in", "split random takes")


def test_folds_that_cannot_be_drawn_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    write_split(tmp_path, " ".join(["y:"] * 2 + ["x:"] * 8), "single_label", split="groups")
    assert_one_sentence(
        run_stage(tmp_path, "decode"), "no clip of y to ", "fewer protocol.folds", "more files"
    )


SOUND = np.sin(np.arange(8000) / 5).astype(np.float32)
NO_SOUND = {
    "0 bytes": (b"", "is empty"),
    "half a header": (b"RIFF", "cannot be read as sound"),
    "text": (b"no sound, but text\n" * 99, "cannot be read as sound"),
    "cut off": (written(SOUND, 8000, "MP3")[:900], "is cut off"),
    "no number": (
        written(np.where(SOUND > 0.9, np.nan, SOUND), 8000, "WAV", "FLOAT"),
        "no finite number",
    ),
}


@pytest.mark.parametrize("bad", NO_SOUND)
def test_a_file_that_is_no_sound_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    content, says = NO_SOUND[bad]
    rows = {f"{i}.wav": ("x", content if i == 2 else wav(SOUND)) for i in range(6)}
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=rf"2\.wav.*{says}") as ended:
        stages.decode.main()
    assert "\n" not in str(ended.value)
    assert {str(path) for path in Path().rglob("*") if path.is_file()} == {"a.zip", "params.yaml"}


def test_sounds_of_any_kind_are_clips_of_one_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = np.tile(SOUND[:, None], 6)
    kinds = {
        "8 bits": (SOUND, 8000, "WAV", "PCM_U8"),
        "24 bits": (SOUND, 8000, "WAV", "PCM_24"),
        "5.1 channels": (many, 8000, "WAV", "PCM_16"),
        "high rate": (np.repeat(SOUND, 12), 96000, "FLAC", "PCM_16"),
        "10 ms": (SOUND[:80], 8000, "WAV", "PCM_16"),
        "silence": (np.zeros(8000, np.float32), 8000, "OGG", "VORBIS"),
    }
    rows = {name: ("x", written(*kind)) for name, kind in kinds.items()}
    write_folder(tmp_path / "a.zip", rows)
    write_params(tmp_path, {"path": "a.zip"})
    monkeypatch.chdir(tmp_path)
    stages.decode.main()
    found = read_features("waveform")
    of = {str(name, "utf-8"): place for place, name in enumerate(read_index().ids)}
    for name in kinds:
        place = next(of[key] for key in of if key.startswith(name))
        samples = 80 if name == "10 ms" else 8000
        assert found.frames[place] == samples
        values = found.values[place].ravel()[:samples] / 32768
        expected = np.zeros(samples) if name == "silence" else SOUND[:samples]
        if name != "high rate":  # steps, which the resampler makes smooth
            np.testing.assert_allclose(values, np.clip(expected, -1, 1), atol=0.02)


def test_a_damaged_archive_is_refused_in_one_sentence(decoded: Path, tmp_path: Path) -> None:
    content = bytearray((decoded / "sounds.zip").read_bytes())
    content[len(content) // 2] ^= 0xFF  # in the middle of a file
    (tmp_path / "sounds.zip").write_bytes(content)
    write_params(tmp_path)
    assert_one_sentence(run_stage(tmp_path, "decode"), "sounds.zip")


def test_settings_that_are_wrong_are_refused_by_their_names(tmp_path: Path) -> None:
    write_params(tmp_path, {"rate": 100})
    assert_one_sentence(run_stage(tmp_path, "decode"), "decode.rate is 100")
    write_params(tmp_path, {"source": "radio"})
    assert_one_sentence(run_stage(tmp_path, "decode"), "decode.source is 'radio'", "nsynth")
