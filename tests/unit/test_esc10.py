"""tasks/esc10: its settings fit together, and they fit the real archive."""

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
from tagging.data.parameters import parse
from tagging.data.spec import InputSpec
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.embedding import build_transform
from tagging.learning.factory import build_network
from tagging.learning.metric import load_metrics
from tagging.learning.model import FinetunedModel, Model
from tagging.learning.settings import Train
from tagging.reports.settings import Compare, read_published
from tagging.sources.audioset.labels import PACKAGED, read_labels
from tagging.sources.esc import Source
from tagging.sources.weights import PUBLISHED
from tests.project import ROOT

TASK = ROOT / "tasks/esc10"
PARAMS: dict[str, Any] = yaml.safe_load((TASK / "params.yaml").read_text(encoding="utf-8"))
MODELS: dict[str, Any] = PARAMS["models"] | PARAMS["finetuned"]
MIRROR = os.environ.get("DOWNLOAD_MIRROR", "")
CLASSES = [
    "Baby cry", "Chainsaw", "Clock tick", "Dog bark", "Fire crackling", "Helicopter",
    "Person sneeze", "Rain", "Rooster", "Sea waves",
]  # fmt: skip

on_the_archive = pytest.mark.skipif(not MIRROR, reason="DOWNLOAD_MIRROR is not set")


def feature_spec(feature: str) -> InputSpec:
    """Return the input of networks for a feature of five seconds, or for an embedding."""
    if feature in PARAMS["embeddings"]:
        is_embedding = PARAMS["embeddings"][feature]["output"] == "embedding"
        return InputSpec(1, 1, 32 if is_embedding else len(CLASSES))
    entry = parse(Feature, PARAMS["features"][feature], feature)
    transform = build_transform(entry.transform, entry.settings, feature)
    decode = PARAMS["decode"]
    samples = decode["clip_seconds"] * transform.sample_rate
    return InputSpec(transform.channels, transform.frames(samples), transform.bins)


@pytest.mark.parametrize("name", MODELS)
def test_each_model_names_a_feature_and_builds(name: str) -> None:
    entry = parse(FinetunedModel if name in PARAMS["finetuned"] else Model, MODELS[name], name)
    parse(Train, PARAMS["train"] | entry.train, name)
    assert entry.features in PARAMS["features"] | PARAMS["embeddings"]
    spec = feature_spec(entry.features)
    network = build_network(entry, spec, len(CLASSES), name).eval()
    with torch.inference_mode():
        assert network(torch.randn(2, *spec[:3])).shape == (2, len(CLASSES))


def test_patch_shapes_are_compared_without_overlap() -> None:
    spec = feature_spec("mel")
    patches = {}
    for name in ("ast_no_overlap", "ast_square_patches"):
        entry = parse(Model, MODELS[name], name)
        assert entry.seeds == [0, 1, 2]
        network = build_network(entry, spec, len(CLASSES), name)
        patches[name] = network.positions[..., 0].numel()
    # All of the same clips and bins: 15 x 4 and 7 x 2.
    assert patches == {"ast_no_overlap": 60, "ast_square_patches": 14}
    assert PARAMS["compare"]["differences"]["ast_no_overlap"] == ["ast_square_patches"]


def test_entries_of_the_efficientnet_differ_in_their_pooling_alone() -> None:
    first, *others = (MODELS[name] for name in ("psla", "psla_one_head", "psla_four_heads"))
    assert first["network"]["pooling"] == "mean"
    for other, heads in zip(others, (1, 4), strict=True):
        pooling = {"pooling": "attention", "heads": heads}
        assert other == first | {"network": first["network"] | pooling}


@pytest.mark.parametrize("name", PARAMS["finetuned"])
def test_a_finetuned_model_fits_its_weights(name: str) -> None:
    entry = PARAMS["finetuned"][name]
    folder, _, file = entry["weights"].rpartition("/")
    weights = file.removesuffix(".safetensors")
    assert (folder, file) == ("data/weights", f"{weights}.safetensors")
    published = PUBLISHED[weights]
    assert weights in PARAMS["weights"]
    assert entry["architecture"] == published.architecture
    assert entry["network"].items() >= published.network.items()
    feature = PARAMS["features"][entry["features"]]
    assert feature["settings"] == {"preset": published.preset}


@pytest.mark.parametrize("name", PARAMS["embeddings"])
def test_each_embedding_names_fetched_weights(name: str) -> None:
    entry = parse(Embedding, PARAMS["embeddings"][name], name)
    assert entry.weights in PARAMS["weights"]
    assert entry.architecture == PUBLISHED[entry.weights].architecture
    if entry.classes:
        assert sorted(entry.classes) == CLASSES
        assert set(entry.classes.values()) <= {label.name for label in read_labels(PACKAGED)}


def test_ensembles_name_models_and_the_report_names_entries() -> None:
    for name, entry in PARAMS["ensembles"].items():
        members = parse(Ensemble, entry, name).members
        assert {member.partition("@")[0] for member in members} <= set(MODELS)
    compare = parse(Compare, PARAMS["compare"], "compare")
    entries = MODELS | PARAMS["ensembles"]
    assert {*compare.plot, compare.reference} <= set(entries)


def test_every_published_row_has_a_source() -> None:
    metrics = load_metrics(parse(Task, PARAMS["task"], "task"))
    published = read_published(parse(Compare, PARAMS["compare"], "compare"), metrics)
    assert sorted(row["accuracy"] for row in published.values()) == [0.872, 0.914, 0.9375, 0.957]
    assert all(row["source"] for row in published.values())


@on_the_archive
def test_the_archive_has_400_recordings_of_ten_classes_in_five_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = PARAMS["download"]["recordings"]
    (tmp_path / "data").mkdir()
    shutil.copy(Path(MIRROR) / file["address"].partition("://")[2], f"data/{file['name']}")
    settings = parse(Decode, PARAMS["decode"] | {"path": f"data/{file['name']}"}, "decode")
    source = open_source(settings, TaskFolder(tmp_path))
    assert isinstance(source, Source)
    recordings = source.recordings()
    labels, classes = multi_hot(recordings, parse(Task, PARAMS["task"], "task"))
    assert [label.name for label in classes] == CLASSES
    assert labels.sum(axis=0).tolist() == [40] * 10
    folds: dict[str, set[int]] = {}
    for recording in recordings:
        folds.setdefault(recording.group, set()).add(recording.fold)
    assert set().union(*folds.values()) == {1, 2, 3, 4, 5}
    assert all(len(numbers) == 1 for numbers in folds.values())
