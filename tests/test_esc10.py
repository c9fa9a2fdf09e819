"""tasks/esc10: its settings are of one piece, and the real archive is what they say."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stages.decode import Decode, multi_hot, open_source
from stages.ensemble import Ensemble
from stages.features import Embedding, Feature
from tagging.data.spec import InputSpec
from tagging.data.task import Task
from tagging.learning.embedding import build_transform
from tagging.learning.loop import Train
from tagging.learning.model import Model, build
from tagging.parameters import parse
from tagging.reports.settings import Compare, read_published
from tagging.scoring.evaluation import metrics_of
from tagging.sources.audioset.labels import PACKAGED, read_labels
from tagging.sources.esc import Source
from tagging.sources.weights import PUBLISHED
from tests.project import ROOT

TASK = ROOT / "tasks/esc10"
PARAMS: dict[str, Any] = yaml.safe_load((TASK / "params.yaml").read_text(encoding="utf-8"))
MIRROR = os.environ.get("DOWNLOAD_MIRROR", "")
CLASSES = [
    "Baby cry", "Chainsaw", "Clock tick", "Dog bark", "Fire crackling", "Helicopter",
    "Person sneeze", "Rain", "Rooster", "Sea waves",
]  # fmt: skip

on_the_archive = pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")


def spec_of(feature: str) -> InputSpec:
    """Return what networks see of a feature of five seconds, or of an embedding."""
    if feature in PARAMS["embeddings"]:
        scores = PARAMS["embeddings"][feature]["gives"] == "scores"
        return InputSpec(1, 1, len(CLASSES) if scores else 32)
    entry = parse(Feature, PARAMS["features"][feature], feature)
    transform = build_transform(entry.transform, entry.settings, feature)
    decode = PARAMS["decode"]
    samples = decode["seconds"] * decode["rate"] * transform.sample_rate // decode["rate"]
    return InputSpec(transform.channels, transform.frames(samples), transform.bins)


@pytest.mark.parametrize("name", PARAMS["models"])
def test_each_model_names_a_feature_and_builds(name: str) -> None:
    entry = parse(Model, PARAMS["models"][name], name)
    parse(Train, PARAMS["train"] | entry.train, name)
    assert entry.features in PARAMS["features"] | PARAMS["embeddings"]
    spec = spec_of(entry.features)
    network = build(entry, spec, len(CLASSES), name).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, *spec[:3])).shape == (2, len(CLASSES))


@pytest.mark.parametrize("name", PARAMS["models"])
def test_a_model_that_begins_with_weights_is_of_their_size(name: str) -> None:
    entry = PARAMS["models"][name]
    if "weights" in entry:
        published = PUBLISHED[entry["weights"]]
        assert entry["weights"] in PARAMS["weights"]
        assert entry["architecture"] == published.architecture
        assert entry["network"].items() >= published.network.items()
        feature = PARAMS["features"][entry["features"]]
        assert feature["settings"] == {"preset": published.preset}


@pytest.mark.parametrize("name", PARAMS["embeddings"])
def test_each_embedding_is_of_weights_that_are_fetched(name: str) -> None:
    entry = parse(Embedding, PARAMS["embeddings"][name], name)
    assert entry.weights in PARAMS["weights"]
    assert entry.architecture == PUBLISHED[entry.weights].architecture
    if entry.classes:
        assert sorted(entry.classes) == CLASSES
        assert set(entry.classes.values()) <= {of.name for of in read_labels(PACKAGED)}


def test_ensembles_are_of_models_and_the_report_of_entries() -> None:
    for name, entry in PARAMS["ensembles"].items():
        members = parse(Ensemble, entry, name).members
        assert {member.partition("@")[0] for member in members} <= set(PARAMS["models"])
    compare = parse(Compare, PARAMS["compare"], "compare")
    entries = PARAMS["models"] | PARAMS["ensembles"]
    assert {*compare.plotted, compare.chosen} <= set(entries)


def test_every_published_row_says_where_it_stands() -> None:
    metrics = metrics_of(parse(Task, PARAMS["task"], "task"))
    published = read_published(parse(Compare, PARAMS["compare"], "compare"), metrics)
    assert sorted(row["accuracy"] for row in published.values()) == [0.872, 0.914, 0.9375, 0.957]
    assert all(row["source"] for row in published.values())


@on_the_archive
def test_the_archive_has_400_recordings_of_ten_classes_in_five_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = PARAMS["download"]["files"][0]
    (tmp_path / "data").mkdir()
    shutil.copy(Path(MIRROR) / file["address"].partition("://")[2], f"data/{file['name']}")
    source = open_source(parse(Decode, PARAMS["decode"], "decode"))
    assert isinstance(source, Source)
    recordings = source.recordings()
    labels, classes = multi_hot(recordings, parse(Task, PARAMS["task"], "task"))
    assert [of.name for of in classes] == CLASSES
    assert labels.sum(axis=0).tolist() == [40] * 10
    folds: dict[str, set[int]] = {}
    for recording in recordings:
        folds.setdefault(recording.group, set()).add(recording.fold)
    assert set().union(*folds.values()) == {1, 2, 3, 4, 5}
    assert all(len(of_group) == 1 for of_group in folds.values())
