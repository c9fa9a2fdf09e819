"""`tagging new`: labels from tables, tracks and folders, decisions, and input that is refused."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from stages.decode import Decode, open_source
from tagging.base.errors import UserError
from tagging.commands import survey
from tagging.commands.label_tracks import LabelTracks
from tagging.commands.main import run
from tagging.commands.new import OUTSIDE, WIDTH
from tagging.commands.prediction import Event
from tagging.commands.survey import find_copies, survey_file
from tagging.commands.task_settings import Choices, count_windows, decide
from tagging.data.parameters import Params
from tagging.data.splits import SplitSettings
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.model import read_model
from tagging.learning.settings import read_train_settings
from tagging.sources.recording import Recording
from tests.project import ROOT
from tests.speech import speak

RATE = 8000
PARTS = ("file", "labels", "group", "fold", "split", "start", "end")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with the pipeline alone the working directory."""
    root = tmp_path / "project"
    for name in (".dvc", "tasks", "pipelines"):
        (root / name).mkdir(parents=True)
    shutil.copy(ROOT / "pipelines/recordings.yaml", root / "pipelines")
    monkeypatch.chdir(root)
    return root


def write_sound(path: Path, seconds: float = 0.5, level: float = 0.1) -> None:
    """Write noise that differs from file to file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(str(path).encode()))
    soundfile.write(path, level * random.standard_normal(round(seconds * RATE)), RATE)


def write(folder: Path, files: Mapping[str, str | float | None]) -> Path:
    """Write a folder: texts, recordings by their seconds, and None for one that is broken."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif content is None:
            path.write_bytes(b"no sound")
        else:
            write_sound(path, content)
    return folder


def new(recordings: Path, *options: str, name: str = "birds") -> tuple[Params, list[Recording]]:
    """Run the command; return the parameters, and the clips as the stage decode reads them."""
    assert run(["new", name, str(recordings), *options]) == 0
    folder = TaskFolder(Path("tasks") / name)
    params = Params.read(folder.params)
    source = open_source(params.section(Decode, "decode"), folder)
    return params, source.recordings()


def parts(clips: list[Recording], *names: str) -> list[tuple]:
    return [tuple(getattr(clip, name) for name in names) for clip in clips]


def refusal(recordings: Path, *options: str, name: str = "birds") -> str:
    """Return the error, of one sentence, after which nothing was made."""
    before = sorted(Path("tasks").rglob("*"))
    with pytest.raises(UserError) as caught:
        run(["new", name, str(recordings), *options])
    assert sorted(Path("tasks").rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{recordings}/", "").replace(str(recordings), "FOLDER")


DOGS = {f"dog/{k}.wav": 0.5 for k in range(3)}
CATS = {f"cat/{k}.wav": 0.5 for k in range(3)}


# Labels.


def test_folders_are_labels(tmp_path: Path) -> None:
    folder = write(tmp_path / "ä b", {**DOGS, "cat/deep/a.wav": 0.5, "cat/b.wav": 0.5})
    _, clips = new(folder)
    assert parts(clips, "file", "labels") == [
        ("cat/b.wav", ("cat",)),
        ("cat/deep/a.wav", ("cat",)),
        *((file, ("dog",)) for file in DOGS),
    ]


def test_folders_of_splits_are_no_labels(tmp_path: Path) -> None:
    names = [f"{split}/{label}/a{k}.wav" for split in ("train", "validation", "test")
             for label in ("cat", "dog") for k in range(2)]  # fmt: skip
    params, clips = new(write(tmp_path / "a", dict.fromkeys(names, 0.5)))
    expected = {"train": "train", "validation": "val", "test": "test"}
    assert sorted(parts(clips, "file", "labels", "split")) == sorted(
        (name, (name.split("/")[1],), expected[name.split("/")[0]]) for name in names
    )
    assert params.section(SplitSettings, "split").method == "predefined"


def test_a_table_is_used_where_it_is(tmp_path: Path) -> None:
    table = "file,labels,group,fold\n" + "".join(
        f"{label}/{k}.wav,{label},{label}{k},{k}\n" for label in ("dog", "cat") for k in range(3)
    )
    folder = write(tmp_path / "a", {**DOGS, **CATS, "clips.csv": table})
    params, clips = new(folder)
    assert params.content["decode"]["table"] == f"{folder}/clips.csv"
    assert not Path("tasks/birds/clips.csv").exists()
    assert parts(clips, "file", "group", "fold")[:2] == [
        ("dog/0.wav", "dog0", 0), ("dog/1.wav", "dog1", 1),
    ]  # fmt: skip
    split = params.section(SplitSettings, "split")
    assert (split.method, split.validation) == ("k_fold", "next_fold")


def test_recordings_in_the_project_have_a_relative_path(project: Path) -> None:
    write(project / "recordings", {**DOGS, **CATS})
    params, _ = new(Path("recordings"))
    assert params.content["decode"]["path"] == "recordings"
    params, _ = new(project / "recordings", name="again")
    assert params.content["decode"]["path"] == "recordings"


def test_tasks_of_recordings_elsewhere_are_kept_out_of_commits(
    tmp_path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DVC refuses a dvc.yaml that git ignores, so a hook of pre-commit looks for the path."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    [hook] = [
        hook for repo in config["repos"] for hook in repo["hooks"] if hook["id"] == "recordings"
    ]
    sentence = f"tasks/{{name}} out of commits, {OUTSIDE}"
    write(project / "recordings", {**DOGS, **CATS})
    write(tmp_path / "elsewhere", {**DOGS, **CATS})
    cases = {
        "inside": (project / "recordings", "recordings"),
        "outside": (tmp_path / "elsewhere", f"{tmp_path}/elsewhere"),
        "beside": (Path("../elsewhere"), f"{tmp_path}/elsewhere"),
    }
    for name, (recordings, path) in cases.items():
        params, _ = new(recordings, name=name)
        assert params.content["decode"]["path"] == path
        text = (project / "tasks" / name / "params.yaml").read_text(encoding="utf-8")
        assert re.match(hook["files"], f"tasks/{name}/params.yaml")
        refused = bool(re.search(hook["entry"], text, re.MULTILINE))
        printed = " ".join(capsys.readouterr().out.split())
        is_outside = name != "inside"
        assert is_outside == refused == (f"Leave this task out of commits, {OUTSIDE}." in text)
        assert is_outside == (sentence.format(name=name) in printed)


def test_metadata_of_an_audio_folder(tmp_path: Path) -> None:
    rows = [f"{label}/{k}.wav,{label},s{k}\n" for label in ("dog", "cat") for k in range(3)]
    table = "file_name,label,speaker\n" + "".join(rows)
    folder = write(tmp_path / "a", {**DOGS, **CATS, "metadata.csv": table})
    params, clips = new(folder, "--group-by", "speaker")
    assert parts(clips, "file", "labels", "group") == [
        (f"{label}/{k}.wav", (label,), f"s{k}") for label in ("dog", "cat") for k in range(3)
    ]
    assert params.section(SplitSettings, "split").folds == 3
    folder.joinpath("metadata.csv").write_text(table.replace("label", "animal"))
    _, clips = new(folder, "--column", "animal", name="columns")
    assert parts(clips, "labels", "group")[0] == (("dog",), "")


def test_metadata_in_the_folders_of_splits(tmp_path: Path) -> None:
    files: dict[str, str | float] = {}
    for split in ("train", "valid", "test"):
        files |= {f"{split}/{name}.wav": 0.5 for name in "abcd"}
        rows = [f"{name}.wav,{'dog' if name < 'c' else 'cat'}\n" for name in "abcd"]
        files[f"{split}/metadata.csv"] = "file_name,label\n" + "".join(rows)
    _, clips = new(write(tmp_path / "a", files))
    assert parts(clips, "file", "labels", "split")[-2:] == [
        ("valid/c.wav", ("cat",), "val"), ("valid/d.wav", ("cat",), "val"),
    ]  # fmt: skip
    assert len(clips) == 12


def tracks(form: str) -> dict[str, str | float]:
    """Return three recordings of 10 s with events of two labels, in Audacity's or Raven's form."""
    events = ["0.5\t1.25\tdog", "2\t2.6\tcat", "4.000000\t5.000000\tdog"]
    files: dict[str, str | float] = {}
    for name in ("a", "b", "deep/c"):
        files[f"{name}.wav"] = 10.0
        if form == "audacity":
            files[f"{name}.txt"] = "\n".join([events[0], "\\\t100\t200", *events[1:], ""])
            continue
        # Raven lists a selection once for each view.
        header = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tSpecies\n"
        rows = [
            f"{number}\t{view}\t1\t{event}\n"
            for number, event in enumerate(events, 1)
            for view in ("Waveform 1", "Spectrogram 1")
        ]
        files[f"{name}.Table.1.selections.txt"] = header + "".join(rows)
    return files


@pytest.mark.parametrize("form", ["audacity", "raven"])
def test_events_of_tracks_are_clips_of_their_recordings(tmp_path: Path, form: str) -> None:
    options = ["--column", "Species"] if form == "raven" else []
    params, clips = new(write(tmp_path / "a", tracks(form)), *options)
    expected = [((0.5, 1.25), "dog"), ((2, 2.6), "cat"), ((4, 5), "dog")]
    assert parts(clips, "file", "labels", "group", "start", "end") == [
        (f"{name}.wav", (label,), f"{name}.wav", *times)
        for name in ("a", "b", "deep/c")
        for times, label in expected
    ]
    assert params.section(Decode, "decode").clip_seconds == 1
    assert params.section(SplitSettings, "split").folds == 3


@pytest.mark.parametrize("format", ["audacity", "raven"])
def test_label_tracks_of_tagging_tag_are_read_back(tmp_path: Path, format: str) -> None:
    """Events of several labels may overlap: a clip has the labels that cover half of it."""
    folder = write(tmp_path / "a", {"a.wav": 9.0, "b.wav": 9.0})
    files = sorted(folder.glob("*.wav"))
    events = [
        Event(0.0, 2.25, "Speech, synthesizer", 0.9),
        Event(1.0, 5.5, "Music", 0.8),
        Event(3.123456, 4.0, "Speech, synthesizer", 0.7),
    ]
    tagger: Any = SimpleNamespace(find_events=lambda _: events, sample_rate=32000)
    writer = LabelTracks(format, None, files)
    for file in files:
        writer.write(tagger, file, SimpleNamespace())  # type: ignore[arg-type]
    params, clips = new(folder)
    assert parts(clips, "file", "start", "end", "labels") == [
        (name, *clip)
        for name in ("a.wav", "b.wav")
        for clip in (
            (0.0, 2.25, ("Speech, synthesizer", "Music")),
            (1.0, 5.5, ("Music",)),
            (3.123456, 4.0, ("Music", "Speech, synthesizer")),
        )
    ]
    task = params.section(Task, "task")
    assert (task.type, task.metrics[0].name) == ("multi_label", "map")
    assert read_train_settings(params, read_model(params, "cnn"), "cnn").loss.name == "bce"


@pytest.mark.parametrize("group_by", ["2", r"^[^/]+/\d_([a-z]+)"])
def test_a_part_of_the_names_groups_files(tmp_path: Path, group_by: str) -> None:
    names = [f"{word}/{word}_{who}-{k}.wav" for word in "012" for who in ("ann", "bob", "cy")
             for k in range(2)]  # fmt: skip
    params, clips = new(write(tmp_path / "a", dict.fromkeys(names, 0.4)), "--group-by", group_by)
    assert {clip.group for clip in clips} == {"ann", "bob", "cy"}
    assert all(f"_{clip.group}-" in clip.file for clip in clips)
    assert params.section(SplitSettings, "split").folds == 3


def test_labels_in_two_places_are_chosen_by_the_option(tmp_path: Path) -> None:
    files = {**DOGS, **CATS, "metadata.csv": "file_name,label\ndog/0.wav,x\ndog/1.wav,x\n"
             "cat/0.wav,y\ncat/1.wav,y\n"}  # fmt: skip
    folder = write(tmp_path / "a", {**files, "clips.csv": "file,labels\n"})
    assert refusal(folder) == (
        "FOLDER has labels in several places, clips.csv and metadata.csv; choose with --labels "
        "table or audiofolder"
    )
    assert len(new(folder, "--labels", "audiofolder")[1]) == 4
    assert len(new(folder, "--labels", "folders", name="folders")[1]) == 6


# Decisions.


def clips_of(counts: Mapping[str, int], **values: Any) -> list[Recording]:
    return [
        Recording(f"{label}{k}", f"{label}{k}.wav", (label,), **values)
        for label, number in counts.items()
        for k in range(number)
    ]


def lengths(*seconds: float) -> list[float]:
    return [seconds[k % len(seconds)] for k in range(40)]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lengths(5.0), 5.0),
        (lengths(*np.linspace(0.2, 0.62, 20)), 0.6),  # short words
        ([4.0] * 36 + [600.0] * 4, 10.0),
        ([4.0] * 39 + [600.0], 4.0),
        (lengths(0.01), 0.2),
    ],
)
def test_the_clip_length_covers_95_percent_of_clips(seconds: list[float], expected: float) -> None:
    settings = decide(clips_of({"a": 20, "b": 20}), seconds, "x", Choices())
    assert settings.clip_seconds == expected
    assert settings.num_windows == sum(count_windows(length, expected) for length in seconds)
    assert decide(clips_of({"a": 20, "b": 20}), seconds, "x", Choices(clip_seconds=3.3)) \
        .clip_seconds == 3.3  # fmt: skip


def test_windows_are_those_of_the_stage_decode() -> None:
    """A last window that is shorter than half a clip is left out, but not the only one."""
    assert [count_windows(x, 2.0) for x in (0.1, 2, 2.9, 3, 4, 60.9, 61)] == [1, 1, 1, 2, 2, 30, 31]


@pytest.mark.parametrize(
    ("smallest", "folds", "validation"),
    [(2, 2, "none"), (3, 3, "next_fold"), (4, 4, "next_fold"), (30, 5, "next_fold")],
)
def test_each_fold_has_each_class(smallest: int, folds: int, validation: str) -> None:
    settings = decide(clips_of({"a": 20, "b": smallest}), [1.0] * (20 + smallest), "x", Choices())
    assert (settings.split.folds, settings.split.validation) == (folds, validation)
    assert ("'b'" in settings.split_reason) == (smallest < 5)


def test_copies_count_once_and_join_their_groups() -> None:
    """Folds would lack the class otherwise, when the stage decode joins them."""
    clips = clips_of({"a": 9, "b": 3})
    with pytest.raises(UserError, match=r"two files at least, .*, got one of 'b', b0\.wav"):
        decide(clips, [1.0] * 12, "x", Choices(), [["b0.wav", "b1.wav", "b2.wav"]])
    settings = decide(clips, [1.0] * 12, "x", Choices(), [["b0.wav", "b1.wav"]])
    assert settings.split.folds == 2


def test_trainings_are_longer_with_more_minutes_and_shorter_with_more_sound() -> None:
    def epochs(seconds: float, **choices: Any) -> tuple[int, int]:
        clips = clips_of({"a": 500, "b": 500})
        settings = decide(clips, [seconds] * 1000, "x", Choices(folds=5, **choices))
        assert settings.batch_size == 32
        return settings.finetune_epochs, settings.cnn_epochs

    short, five, ten = epochs(0.5), epochs(5.0), epochs(10.0)
    assert short >= five > ten
    assert epochs(5.0, minutes=20) > five
    assert decide(clips_of({"a": 9, "b": 9}), [5.0] * 18, "x", Choices()).batch_size == 16


@pytest.mark.parametrize(("seconds", "folds"), [(0.5, 5), (5.0, 5), (10.0, 3)])
def test_a_thousand_clips_stay_within_the_minutes(seconds: float, folds: int) -> None:
    settings = decide(clips_of({"a": 500, "b": 500}), [seconds] * 1000, "x", Choices())
    assert (settings.split.folds, settings.minutes <= 10) == (folds, True)
    assert ("5 take longer" in settings.split_reason) == (folds == 3)


def test_parameters_are_short_and_valid_and_choices_are_in_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "quotes \" ' ${x} #", {**DOGS, **CATS})
    params, _ = new(
        folder, "--folds", "2", "--clip-seconds", "0.3", "--batch-size", "7", "--metrics",
        "map", "accuracy", "--type", "multi_label",
    )  # fmt: skip
    text = Path("tasks/birds/params.yaml").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert params.content["decode"]["path"] == str(folder)
    assert params.section(Decode, "decode").clip_seconds == 0.3
    split, task = params.section(SplitSettings, "split"), params.section(Task, "task")
    assert (split.folds, split.validation) == (2, "none")
    assert (task.type, [metric.name for metric in task.metrics]) == (
        "multi_label", ["map", "accuracy"],
    )  # fmt: skip
    for name in ("probe", "cnn", "mn04_as_finetuned"):
        settings = read_train_settings(params, read_model(params, name), name)
        assert settings.loss.name == "bce"
    assert read_train_settings(params, read_model(params, "cnn"), "cnn").batch_size == 7
    assert (
        Path("tasks/birds/dvc.yaml").read_bytes()
        == (ROOT / "pipelines/recordings.yaml").read_bytes()
    )


WORDS = ("zero", "one", "two", "three", "four")
VOICES = ("en-us+f1", "en-us+m3", "en-gb-x-rp+f3", "en-gb-scotland+m5")


def test_spoken_words_are_short_clips_with_folds_of_speakers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speak(
        (word, voice, tmp_path / "a" / word / f"{word}_voice{number}.wav")
        for word in WORDS
        for number, voice in enumerate(VOICES)
    )
    params, clips = new(tmp_path / "a", "--group-by", "2")
    assert "copies" not in capsys.readouterr().out  # the voices differ
    assert 0.3 < params.section(Decode, "decode").clip_seconds < 1.2  # five by default before
    assert {clip.group for clip in clips} == {f"voice{k}" for k in range(len(VOICES))}
    split = params.section(SplitSettings, "split")
    assert (split.method, split.folds) == ("group_k_fold", len(VOICES))


# What is printed.


def test_what_is_found_is_printed_within_100_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "x" * 150
    folder = write(tmp_path / "a" / long, {**DOGS, **CATS, "dog/broken.wav": None})
    for k in range(9):
        write_sound(folder / f"{'y' * 120}/{k}.flac")
    write_sound(folder / "cat/silent.wav", level=1e-5)
    shutil.copy(folder / "dog/0.wav", folder / "dog/copy.wav")
    (folder / "notes.pdf").write_text("")
    params, _ = new(folder)
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert max(map(len, lines)) <= WIDTH == 100
    text = " ".join(printed.out.split())
    assert "18 files, 0.00 hours" in text
    assert "formats wav 9, flac 9" in text
    assert "sample rates 8 kHz 17" in text
    assert "lengths 0.5, 0.5, 0.5 s (5th, 50th, 95th percentile)" in text
    assert "unreadable 1, left out:" in text
    assert "near-silent 1 below -60 dB, see decode.min_level_db: cat/silent.wav" in text
    assert "copies 1, in one fold: dog/copy.wav (dog/0.wav)" in text
    assert "files left out because of their endings: 1 .pdf" in text
    assert "17 clips of 3 classes by names of folders" in text
    assert ", cat 4, dog 4" in text
    assert lines[-1] == "Go on with: dvc repro tasks/birds/dvc.yaml"
    assert params.section(Decode, "decode").unreadable == "skip"


def test_a_class_and_its_number_are_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"a bird {k:02}" for k in range(30)]
    new(write(tmp_path / "a", {f"{name}/{k}.wav": 0.2 for name in names for k in range(2)}))
    lines = capsys.readouterr().out.splitlines()
    assert all(any(f"{name} 2" in line for line in lines) for name in names)


def test_recordings_of_one_size_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many opens are slow on a network's disk; copies alone are compared."""
    write(tmp_path, {**DOGS, **CATS})
    shutil.copy(tmp_path / "dog/0.wav", tmp_path / "cat/copy.wav")
    surveyed = {file: survey_file(tmp_path / file) for file in [*DOGS, *CATS, "cat/copy.wav"]}
    compared: list[str] = []

    def digest(path: Path) -> bytes:
        compared.append(path.relative_to(tmp_path).as_posix())
        return path.read_bytes()

    monkeypatch.setattr(survey, "_digest", digest)
    assert find_copies(tmp_path, surveyed) == [["dog/0.wav", "cat/copy.wav"]]
    assert compared == ["dog/0.wav", "cat/copy.wav"]


def test_files_without_labels_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{label}/{k}.wav,{label}\n" for label in ("dog", "cat") for k in range(2)]
    table = "file,labels\n" + "".join(rows)
    new(write(tmp_path / "a", {**DOGS, **CATS, "clips.csv": table}))
    assert "without label 2 files, left out" in " ".join(capsys.readouterr().out.split())


# Input that is refused.

TABLE = "file,labels\n"
BAD: dict[str, tuple[dict[str, str | float | None], list[str], str]] = {
    "no sound": ({"a.txt": "x"}, [], "FOLDER is a folder without recordings"),
    "no labels": (
        {"a.wav": 0.5, "b.wav": 0.5}, [],
        "FOLDER has no labels: they must be in clips.csv, metadata.csv, a label track a.txt or a "
        "selection table a.selections.txt beside a.wav, or be names of folders",
    ),
    "a file beside the folders": (
        {**DOGS, **CATS, "a.wav": 0.5}, [],
        "a.wav must be in a folder with the name of its label, as other recordings are",
    ),
    "a missing file of a table": (
        {**DOGS, "clips.csv": f"{TABLE}dog/0.wav,dog\nmouse.wav,mouse\n"}, [],
        "clips.csv, line 3: mouse.wav does not exist",
    ),
    "a missing file of metadata": (
        {**DOGS, "metadata.csv": "file_name,label\ndog/0.wav,dog\nmouse.wav,mouse\n"}, [],
        "metadata.csv, line 3: mouse.wav does not exist",
    ),
    "a file twice in metadata": (
        {**DOGS, "metadata.csv": "file_name,label\ndog/0.wav,dog\ndog/0.wav,cat\n"}, [],
        "metadata.csv, lines 2 and 3: dog/0.wav must have one row, with all its labels",
    ),
    "metadata without labels": (
        {**DOGS, "metadata.csv": "file_name,animal\ndog/0.wav,dog\n"}, [],
        "metadata.csv must have a column label with the labels, got the columns file_name, "
        "animal; --column names another one",
    ),
    "metadata without files": (
        {**DOGS, "metadata.csv": "file,label\ndog/0.wav,dog\n"}, [],
        "metadata.csv must have the columns file_name, got no file_name",
    ),
    "reversed times": (
        {"a.wav": 5.0, "a.txt": "1\t2\tdog\n4\t3\tcat\n"}, [],
        "a.txt, line 2: start must be less than end, 3, got 4",
    ),
    "a point": (
        {"a.wav": 5.0, "a.txt": "1\t1\tdog\n"}, [],
        "a.txt, line 1: start must be less than end, 1, got 1",
    ),
    "overlapping times": (
        {"a.wav": 5.0, "a.txt": "1\t3\tdog\n2\t3\tcat\n2.5\t4\tdog\n"}, [],
        "a.txt, lines 1 and 3: events of 'dog' must not overlap, got 1 to 3 s and 2.5 to 4 s",
    ),
    "times that are no numbers": (
        {"a.wav": 5.0, "a.txt": "1\tx\tdog\n"}, [],
        "a.txt, line 1: end must be seconds, 0 or more, got 'x'",
    ),
    "a text that is no track": (
        {"a.wav": 5.0, "a.txt": "A lovely day.\n"}, [],
        "a.txt, line 1 must be start, end and label, separated by tabs, got 'A lovely day.'",
    ),
    "an event behind the end": (
        {"a.wav": 5.0, "a.txt": "1\t2\tdog\n6\t7\tcat\n"}, [],
        "a.txt, line 2: start must be before the end of a.wav, 5.00 s, got 6",
    ),
    "a track of two recordings": (
        {"a.wav": 5.0, "a.flac": 5.0, "a.txt": "1\t2\tdog\n"}, [],
        "a.txt must be the track of one recording, got a.flac and a.wav; rename one",
    ),
    "a track without events": (
        {"a.wav": 5.0, "a.txt": ""}, [],
        "FOLDER: Audacity's label tracks must have an event, got none",
    ),
    "a selection table without the column": (
        {"a.wav": 5.0, "a.selections.txt": "Begin Time (s)\tEnd Time (s)\tCall\n1\t2\tx\n"}, [],
        "a.selections.txt must have a column Annotation with the labels, got the columns "
        "Begin Time (s), End Time (s), Call; --column names another one",
    ),
    "a selection table without times": (
        {"a.wav": 5.0, "a.selections.txt": "Begin\tEnd Time (s)\tAnnotation\n1\t2\tx\n"}, [],
        "a.selections.txt must have the columns Begin Time (s), End Time (s), got no "
        "Begin Time (s)",
    ),
    "two kinds of tracks": (
        {"a.wav": 5.0, "a.txt": "", "a.selections.txt": ""}, [],
        "FOLDER has labels in several places, Audacity's label tracks and Raven's selection "
        "tables; choose with --labels audacity or raven",
    ),
    "labels that are not there": (
        DOGS, ["--labels", "raven"], "--labels raven: FOLDER has no Raven's selection tables",
    ),
    "a column of folders": (
        {**DOGS, **CATS}, ["--column", "x"],
        "--column must come with labels of metadata.csv or selection tables, got names of folders",
    ),
    "one class": (DOGS, [], "FOLDER must have two classes at least, got dog only"),
    "a class with one file": (
        {**DOGS, "cat/0.wav": 0.5}, [],
        "FOLDER: each class must have clips in two files at least, to train and to test, got one "
        "of 'cat', cat/0.wav: add one, or remove the class",
    ),
    "a class for each file": (
        {f"{k}/{k}.wav": 0.5 for k in range(9)}, [],
        "FOLDER: each class must have clips in two files at least, to train and to test, got one "
        "of '0', 0/0.wav: add one, or remove the class",
    ),
    "two labels that look alike": (
        {**DOGS, "Dog/a.wav": 0.5}, [],
        "Dog and dog: a label must have one spelling, got 'Dog' and 'dog'",
    ),
    "more folds than files": (
        {**DOGS, **CATS}, ["--folds", "4"],
        "--folds must be at most 3, as 'cat' has 3 files, got 4",
    ),
    "two labels for one": (
        {**DOGS, **CATS, "clips.csv": f"{TABLE}dog/0.wav,dog;cat\ncat/0.wav,cat\n"},
        ["--type", "single_label"],
        "--type single_label must have one label for each clip, got 2 for dog/0.wav",
    ),
    "a group that is missing": (
        {**DOGS, "dog/a-b.wav": 0.5, **CATS}, ["--group-by", "2"],
        "--group-by 2 must give each file a group, got none for cat/0.wav",
    ),
    "one group": (
        {**DOGS, **CATS}, ["--group-by", "(wav)"],
        "--group-by (wav) must give two groups at least, got 'wav' for all files",
    ),
    "no expression": (
        {**DOGS, **CATS}, ["--group-by", "(x"],
        "--group-by must be a regular expression, got '(x' (missing ), unterminated subpattern "
        "at position 0)",
    ),
    "no part": (
        {**DOGS, **CATS}, ["--group-by", "x"],
        "--group-by must be a column of metadata.csv, the number of a part of the files' names or "
        "a regular expression with one group, got 'x'",
    ),
    "nothing that can be read": (
        {"dog/0.wav": None, "cat/0.wav": None}, [], "FOLDER has no recording that can be read: ",
    ),
    "folds without a class": (
        {**DOGS, **CATS, "clips.csv": "file,labels,fold\ndog/0.wav,dog,1\ndog/1.wav,dog,2\n"
         "cat/0.wav,cat,1\ncat/1.wav,cat,1\n"}, [],
        "FOLDER: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_recordings_are_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    files, options, sentence = BAD[case]
    assert refusal(write(tmp_path / "a", files), *options).startswith(sentence)


def test_a_folder_that_is_not_usable_is_refused(tmp_path: Path, project: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert refusal(nowhere) == "FOLDER must be a folder of recordings, but does not exist"
    assert refusal(project / "pipelines/recordings.yaml").endswith("recordings, got a file")
    write(tmp_path, {**DOGS, **CATS})
    assert "not one that has the project in it" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["Birds", "a b", "../a", "-a", "ä", ""])
def test_a_name_must_be_usable_in_paths(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a", {**DOGS, **CATS})
    with pytest.raises(UserError, match=r"^NAME must be of small letters, digits, _ and - \(not"):
        run(["new", "--", name, str(folder)])


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {**DOGS, **CATS})
    new(folder)
    assert refusal(folder) == "tasks/birds exists; choose another name, or remove it"


def test_outside_the_project_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "a", {**DOGS, **CATS})
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="must be in the project's repository"):
        run(["new", "birds", str(folder)])
    assert not (folder / "tasks").exists()


@pytest.mark.skipif(os.name != "posix", reason="names of files are text")
def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {**DOGS, **CATS})
    try:
        shutil.copy(folder / "dog/0.wav", os.fsencode(folder / "dog") + b"/\xff.wav")
    except OSError:
        pytest.skip("the file system has names of text alone")
    assert "must have a name in UTF-8" in refusal(folder)


def test_the_command_needs_no_pytorch() -> None:
    """The import costs a second or more."""
    code = "import tagging.commands.new, sys; print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "False\n"
