"""The tasks on NSynth's notes: their settings are consistent, and fit the real archive."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.decode import Decode, multi_hot, open_source
from stages.features import Embedding, Feature
from tagging.data.parameters import Params
from tagging.data.splits import SplitSettings, make_folds
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.metric import load_metrics
from tagging.learning.model import read_model
from tagging.learning.settings import read_train_settings
from tagging.reports.settings import Compare, read_published
from tests.project import ROOT

NAMES = ["instruments", "instruments_random", "qualities"]
PARAMS = {name: Params.read(ROOT / "tasks" / name / "params.yaml") for name in NAMES}
HELD_OUT = ["instruments", "qualities"]
MIRROR = os.environ.get("DOWNLOAD_MIRROR", "")


@pytest.mark.parametrize("task", NAMES)
def test_each_model_names_a_feature_and_each_embedding_weights(task: str) -> None:
    params = PARAMS[task]
    features, embeddings = params.entries("features"), params.entries("embeddings")
    for name, feature in features.items():
        params.parse(Feature, feature, f"features.{name}")
    for name, embedding in embeddings.items():
        entry = params.parse(Embedding, embedding, f"embeddings.{name}")
        assert entry.weights in params.content["weights"]
    for name in params.models():
        model = read_model(params, name)
        settings = read_train_settings(params, model, name)
        assert model.features in features | embeddings
        if settings.augment.copies_prob:
            assert features[model.features]["augmented_copies"]


def test_both_splits_have_the_same_clips_features_and_models() -> None:
    held_out, random = (PARAMS[name].content for name in NAMES[:2])
    for section in ("task", "features", "weights", "embeddings", "train", "models", "evaluate"):
        assert held_out[section] == random[section]
    # Paths are relative to the repository's root: both read one archive.
    assert random["decode"] == held_out["decode"]
    leaderboard = held_out["compare"]["other_leaderboard"]
    assert leaderboard == "tasks/instruments_random/leaderboard/leaderboard.json"


@pytest.mark.parametrize("task", NAMES)
def test_the_report_names_entries_and_the_sources_of_published_rows(task: str) -> None:
    params = PARAMS[task]
    compare = params.section(Compare, "compare")
    compared = [name for base, others in compare.differences.items() for name in (base, *others)]
    assert {*compare.plot, *compared, compare.reference} - {None} <= set(params.models())
    published = read_published(compare, load_metrics(params.section(Task, "task")))
    assert all(row["source"] for row in published.values())


@pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize("task", HELD_OUT)
def test_instruments_of_the_archive_are_in_one_split_and_classes_in_all(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = PARAMS[task]
    settings = params.section(Decode, "decode")
    address = PARAMS["instruments"].content["download"]["recordings"]["address"]
    path = Path(settings.path)
    path.parent.mkdir(parents=True)
    shutil.copy(Path(MIRROR) / address.partition("://")[2], path)
    recordings = open_source(settings, TaskFolder(Path("tasks", task))).recordings()
    labels, classes = multi_hot(recordings, params.section(Task, "task"))
    assert (len(recordings), len(classes)) == (2416, 10)
    instruments = np.array([recording.group for recording in recordings])
    class_names = [label.name for label in classes]
    split = params.section(SplitSettings, "split")
    folds = make_folds(split, labels, class_names, [""] * 2416, groups=instruments)
    assert len(folds) == 2
    for fold in folds:
        assert not set(instruments[fold.train]) & set(instruments[fold.test])
        for clips in (fold.train, fold.test):
            assert labels[clips].any(axis=0).all()
