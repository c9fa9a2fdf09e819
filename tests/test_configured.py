"""Every entry of every params.yaml can be trained, and what entries name is there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stages.ensemble import Ensemble
from stages.features import Feature
from tagging.base.progress import Progress
from tagging.data.batches import to_clips
from tagging.data.clips import Features
from tagging.data.splits import SplitSettings
from tagging.data.spec import InputSpec
from tagging.data.task import Task
from tagging.learning.embedding import build_transform
from tagging.learning.loop import Train, Validation, train
from tagging.learning.model import Model, Student, build
from tagging.learning.similarity import resolve_activation
from tagging.parameters import parse
from tagging.scoring.metric import load_metric
from tests.generated import SPEC, audible, multi_hot
from tests.project import ROOT, TASKS

PARAMS = {
    str(folder): yaml.safe_load((ROOT / folder / "params.yaml").read_text(encoding="utf-8"))
    for folder in (Path(), *TASKS)
}
CLASSES, CLIPS, WIDTH = 4, 8, 16


def of_all(*sections: str) -> list[tuple[str, str]]:
    """Return the folder and name of every entry of the sections."""
    return [
        (folder, name)
        for folder, params in PARAMS.items()
        for section in sections
        for name in params[section]
    ]


def trained_otherwise(folder: str, name: str) -> str:
    """Return what tells one training from another, as text."""
    params = PARAMS[folder]
    entry = (params["models"] | params["students"])[name]
    feature = entry.get("features", params["task"]["features"])
    about = [params.get(section, {}).get(feature) for section in ("features", "embeddings")]
    own = {"epochs": 0, "lr": 0, "seeds": 0} | params["train"] | entry.get("train", {})
    same = [entry["architecture"], entry.get("network"), about, own["loss"], own.get("augment")]
    return json.dumps([*same, params["task"]["chooses"]])


# Those that differ in nothing but a rate need no second look.
DIFFERENT = list(
    {trained_otherwise(*entry): entry for entry in of_all("models", "students")}.values()
)


def spec_of(params: dict[str, Any], name: str) -> InputSpec:
    """Return a feature's input, of a second of sound or a clip of AudioSet's."""
    if name in params.get("features", {}):
        feature = parse(Feature, params["features"][name], f"features.{name}")
        transform = build_transform(feature.transform, feature.settings, f"features.{name}")
        return InputSpec(
            transform.channels, transform.frames(transform.sample_rate), transform.bins
        )
    if name in params.get("embeddings", {}):
        gives_scores = params["embeddings"][name]["gives"] == "scores"
        return InputSpec(1, 1, CLASSES if gives_scores else WIDTH)
    return SPEC


@pytest.mark.parametrize(("folder", "name"), DIFFERENT)
def test_an_entry_can_be_trained(folder: str, name: str, tmp_path: Path) -> None:
    params = PARAMS[folder]
    kind, section = (Student, "students") if name in params["students"] else (Model, "models")
    model = parse(kind, params[section][name], f"{section}.{name}")
    small = {"epochs": 1, "batch_size": 4, "checkpoints": 0, "average": "none"}
    settings = parse(Train, {**params["train"], **model.train, **small}, "train")
    task = parse(Task, params["task"], "task")
    spec = spec_of(params, model.features or task.features)
    torch.manual_seed(0)
    network = build(model, spec, CLASSES, name)
    labels = multi_hot(CLIPS, CLASSES)
    if task.kind == "single_label":
        labels = np.eye(CLASSES, dtype=np.uint8)[np.arange(CLIPS) % CLASSES]
    features = Features(audible(labels, spec), np.full(CLIPS, spec.frames), spec, {})
    clips = to_clips(features, labels, np.arange(CLIPS), torch.device("cpu"))
    activation = resolve_activation(task, network, settings.loss, model, name)
    validate = Validation(clips, load_metric(task.chooses), activation)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with Progress("train", None, "step", "none") as progress:
        outcome = train(network, settings, 0, clips, validate, tmp_path / "state", progress, print)
    if list(network.parameters()):
        assert 0 <= outcome.history[0].val <= 1
        assert any(not torch.equal(before[key], outcome.weights[key]) for key in before)


@pytest.mark.parametrize("folder", PARAMS)
def test_metrics_are_there(folder: str) -> None:
    task = parse(Task, PARAMS[folder]["task"], "task")
    for name in (task.chooses, *task.shown):
        assert load_metric(name).title


@pytest.mark.parametrize("folder", ["tasks/esc10", "tasks/instruments", "tasks/qualities"])
def test_nothing_chooses_by_the_folds_that_test(folder: str) -> None:
    params = PARAMS[folder]
    assert parse(SplitSettings, params["protocol"], "protocol").validate_on == "nothing"
    kept = [params["train"], *(entry.get("train", {}) for entry in params["models"].values())]
    assert {train["keep"] for train in kept if "keep" in train} == {"last"}


@pytest.mark.parametrize(("folder", "name"), of_all("ensembles"))
def test_an_ensembles_members_are_there(folder: str, name: str) -> None:
    params = PARAMS[folder]
    for member in parse(Ensemble, params["ensembles"][name], f"ensembles.{name}").members:
        model, _, epoch = member.partition("@")
        own = params["train"] | params["models"][model].get("train", {})
        if epoch:
            assert own["epochs"] - own["checkpoints"] < int(epoch) <= own["epochs"]


@pytest.mark.parametrize(("folder", "name"), of_all("students"))
def test_a_students_teacher_is_there(folder: str, name: str) -> None:
    params = PARAMS[folder]
    teachers = "models" if parse(Task, params["task"], "task").embeds else "ensembles"
    assert params["students"][name]["teacher"] in params[teachers]
