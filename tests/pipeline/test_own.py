"""A task of `tagging new`: recordings become a leaderboard, and a model for anyone."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from tagging.data.clips import read_features, read_index
from tagging.data.task_folder import TaskFolder
from tagging.sources.sounds import CLASSES, CLIPS, INSTRUMENTS
from tests.project import OWN, RECORDINGS, Project, make_small

NUM_RECORDINGS = len(CLASSES) * INSTRUMENTS * CLIPS


def test_windows_of_long_recordings_are_clips_and_recordings_are_scored(whole: Path) -> None:
    folder = TaskFolder(whole / OWN)
    index = read_index(folder.index)
    assert len(set(index.recordings.tolist())) == NUM_RECORDINGS < len(index.ids)
    mel = read_features(folder.feature("mel"))
    assert mel.spec.any_length  # a short window is padded, and its end is known
    assert mel.frames.min() < mel.spec.frames == mel.frames.max()
    confusion = pd.read_csv(folder.entry_plots("cnn") / "confusion.csv")
    assert confusion["clips"].sum() == NUM_RECORDINGS
    assert f"{NUM_RECORDINGS} clips in 5 folds" in (folder.leaderboard / "README.md").read_text()


def test_the_probe_is_all_that_another_takes(
    whole: Path, mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mn04_as is fetched by its name, which the probe's file has."""
    shutil.copytree(whole / OWN / "models/probe", tmp_path / "probe")
    sound = next((whole / RECORDINGS / "audio").glob("*.wav"))
    elsewhere = Project(tmp_path, mirror, Path(sys.executable).parent)
    said = elsewhere.run(
        sys.executable, "-m", "tagging.commands.main",
        "tag", "--json", "--top", "all", "--model", "probe", str(sound),
        PYTHONPATH=str(whole), XDG_CACHE_HOME=str(tmp_path / "cache"),
    ).stdout  # fmt: skip
    (answer,) = json.loads(said[said.index("[") :])
    assert answer["model"] == "probe/fold0-seed0"
    assert sorted(label["label"] for label in answer["labels"]) == sorted(CLASSES)
    assert sum(label["probability"] for label in answer["labels"]) == pytest.approx(1, abs=1e-4)
    assert (tmp_path / "cache/tagging/mn04_as.safetensors").is_file()


def test_clips_with_several_labels_elsewhere_have_a_leaderboard(
    all_tasks: Project, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere ü"
    shutil.copytree(all_tasks.root / RECORDINGS, elsewhere)
    table = elsewhere / "clips.csv"
    clips = pd.read_csv(table)
    clips["labels"] += ";sound"
    clips.loc[::2, "labels"] = clips["labels"].str.removesuffix(";sound")
    clips.to_csv(table, index=False)
    folder = Path("tasks/several")
    all_tasks.run("python", "-m", "tagging.commands.main", "new", folder.name, str(elsewhere))
    make_small(all_tasks, folder)
    all_tasks.dvc("repro", "--quiet", f"{folder}/dvc.yaml")
    page = (all_tasks.root / folder / "leaderboard/README.md").read_text()
    assert "mAP" in page
    assert "mistaken" not in page
