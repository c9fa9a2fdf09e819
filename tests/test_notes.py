"""The tasks on NSynth's notes: their settings are of one piece, and fit the real archive."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages.decode import Decode, multi_hot, open_source
from stages.features import Embedding, Feature
from tagging.data.splits import SplitSettings, make_folds
from tagging.data.task import Task
from tagging.learning.loop import Train
from tagging.learning.model import Model
from tagging.parameters import parse
from tagging.reports.settings import Compare, read_published
from tagging.scoring.evaluation import metrics_of
from tests.project import ROOT

NAMES = ["instruments", "instruments_random", "qualities"]
PARAMS: dict[str, dict[str, Any]] = {
    name: yaml.safe_load((ROOT / "tasks" / name / "params.yaml").read_text(encoding="utf-8"))
    for name in NAMES
}
HELD_OUT = ["instruments", "qualities"]
MIRROR = os.environ.get("DOWNLOAD_MIRROR", "")


@pytest.mark.parametrize("task", NAMES)
def test_each_model_names_a_feature_and_each_embedding_weights(task: str) -> None:
    params = PARAMS[task]
    for name, feature in params["features"].items():
        parse(Feature, feature, name)
    for name, embedding in params["embeddings"].items():
        assert parse(Embedding, embedding, name).weights in params["weights"]
    for name, model in params["models"].items():
        entry = parse(Model, model, name)
        own = parse(Train, params["train"] | entry.train, name)
        assert entry.features in params["features"] | params["embeddings"]
        if own.augment.changed:
            assert params["features"][entry.features]["changed"]


def test_both_splits_are_of_the_same_clips_features_and_models() -> None:
    held_out, at_random = (PARAMS[name] for name in NAMES[:2])
    for section in ("task", "features", "weights", "embeddings", "train", "models", "evaluate"):
        assert held_out[section] == at_random[section]
    path = Path(held_out["decode"]["path"])
    there = {**at_random["decode"], "path": str(Path("../instruments") / path)}
    assert at_random["decode"] == there == {**held_out["decode"], "path": there["path"]}
    board = (ROOT / "tasks/instruments" / held_out["compare"]["at_random"]).resolve()
    assert board == ROOT / "tasks/instruments_random/leaderboard/leaderboard.json"


@pytest.mark.parametrize("task", NAMES)
def test_the_report_is_of_entries_and_published_rows_say_where_they_stand(task: str) -> None:
    params = PARAMS[task]
    compare = parse(Compare, params["compare"], "compare")
    compared = [name for base, others in compare.differences.items() for name in (base, *others)]
    assert {*compare.plotted, *compared, compare.chosen} - {None} <= set(params["models"])
    metrics = metrics_of(parse(Task, params["task"], "task"))
    assert all(row["source"] for row in read_published(compare, metrics).values())


@pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize("task", HELD_OUT)
def test_the_archives_instruments_are_on_one_side_and_all_classes_on_both(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = PARAMS[task]
    archive = Path(MIRROR) / params["download"]["files"][0]["address"].partition("://")[2]
    (tmp_path / "data").mkdir()
    shutil.copy(archive, params["decode"]["path"])
    recordings = open_source(parse(Decode, params["decode"], "decode")).recordings()
    labels, classes = multi_hot(recordings, parse(Task, params["task"], "task"))
    assert (len(recordings), len(classes)) == (2416, 10)
    protocol = parse(SplitSettings, params["protocol"], "protocol")
    instruments = np.array([recording.group for recording in recordings])
    names = [of.name for of in classes]
    folds = make_folds(protocol, labels, names, [""] * 2416, groups=instruments)
    assert len(folds) == 2
    for fold in folds:
        assert not set(instruments[fold.train]) & set(instruments[fold.test])
        for part in (fold.train, fold.test):
            assert labels[part].any(axis=0).all()
