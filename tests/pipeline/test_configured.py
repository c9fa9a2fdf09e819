"""Every entry of every params.yaml can be trained, and refers to entries that exist."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stages.ensemble import Ensemble
from stages.features import Feature
from tagging.data.clips import Features
from tagging.data.parameters import Params, parse
from tagging.data.spec import InputSpec
from tagging.data.splits import SplitSettings
from tagging.data.task import Task
from tagging.learning.checkpoint import Checkpoint
from tagging.learning.dataset import ClipDataset
from tagging.learning.embedding import build_transform
from tagging.learning.factory import build_network
from tagging.learning.loader import BatchLoader
from tagging.learning.metric import load_metric, load_metrics
from tagging.learning.model import read_model
from tagging.learning.settings import Train, read_train_settings
from tagging.learning.similarity import resolve_activation
from tagging.learning.trainer import Validation, train
from tests.generated import SPEC, learnable_values, multi_hot
from tests.project import ROOT, TASKS

PARAMS = {
    str(folder): yaml.safe_load((ROOT / folder / "params.yaml").read_text(encoding="utf-8"))
    for folder in (Path(), *TASKS)
}
TRAINED = ("models", "finetuned", "students")
CLASSES, CLIPS, WIDTH = 4, 8, 16


def entries(*sections: str) -> list[tuple[str, str]]:
    """Return the folder and name of every entry of the sections."""
    return [
        (folder, name)
        for folder, params in PARAMS.items()
        for section in sections
        for name in params.get(section, {})
    ]


def kind_of_training(folder: str, name: str) -> str:
    """Return the settings that trainings differ in, except for rates, as text."""
    params = PARAMS[folder]
    entry = next(params[section][name] for section in TRAINED if name in params.get(section, {}))
    feature = entry.get("features", params["task"].get("features"))
    transforms = [params.get(section, {}).get(feature) for section in ("features", "embeddings")]
    own = params["train"] | entry.get("train", {})
    settings = [entry["architecture"], entry.get("network"), own["loss"], own.get("augment")]
    return json.dumps([settings, transforms, params["task"]["metrics"][0]])


DIFFERENT = list({kind_of_training(*entry): entry for entry in entries(*TRAINED)}.values())


def input_spec(params: dict[str, Any], name: str) -> InputSpec:
    """Return a feature's input, of a second of sound or a clip of AudioSet's."""
    if name in params.get("features", {}):
        feature = parse(Feature, params["features"][name], f"features.{name}")
        transform = build_transform(feature.transform, feature.settings, f"features.{name}")
        return InputSpec(
            transform.channels, transform.frames(transform.sample_rate), transform.bins
        )
    if name in params.get("embeddings", {}):
        has_classes = params["embeddings"][name]["output"] == "probabilities"
        return InputSpec(1, 1, CLASSES if has_classes else WIDTH)
    return SPEC


@pytest.mark.parametrize(("folder", "name"), DIFFERENT)
def test_an_entry_can_be_trained(folder: str, name: str, tmp_path: Path) -> None:
    params = Params.read(ROOT / folder / "params.yaml")
    model, task = read_model(params, name), params.section(Task, "task")
    small = {"epochs": 1, "batch_size": 4, "save_last_epochs": 0, "weight_averaging": "none"}
    model = model.model_copy(update={"train": model.train | small})
    settings = read_train_settings(params, model, name)
    spec = input_spec(params.content, model.features or task.features)
    torch.manual_seed(0)
    network = build_network(model, spec, CLASSES, name)
    labels = multi_hot(CLIPS, CLASSES)
    if task.type == "single_label":
        labels = np.eye(CLASSES, dtype=np.uint8)[np.arange(CLIPS) % CLASSES]
    features = Features(learnable_values(labels, spec), np.full(CLIPS, spec.frames), spec, {})
    dataset = ClipDataset.select(features, labels, np.arange(CLIPS), torch.device("cpu"))
    activation = resolve_activation(task, network, settings.loss, model, name)
    validation = Validation(dataset, load_metric(task.selection_metric), activation)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    loader = BatchLoader(dataset, settings, 0, [dataset])  # unchanged copies
    result = train(network, settings, 0, loader, validation, Checkpoint(tmp_path / "state"))
    if list(network.parameters()):
        assert 0 <= result.history[0].val <= 1
        assert any(not torch.equal(before[key], result.weights[key]) for key in before)


@pytest.mark.parametrize("folder", PARAMS)
def test_metrics_exist(folder: str) -> None:
    task = parse(Task, PARAMS[folder]["task"], "task")
    assert all(metric.title for metric in load_metrics(task).values())


@pytest.mark.parametrize("folder", ["tasks/esc10", "tasks/instruments", "tasks/qualities"])
def test_nothing_is_selected_on_test_folds(folder: str) -> None:
    params = PARAMS[folder]
    assert parse(SplitSettings, params["split"], "split").validation == "none"
    trained = [entry for section in TRAINED for entry in params.get(section, {}).values()]
    restored = [params["train"], *(entry.get("train", {}) for entry in trained)]
    assert {train["restore"] for train in restored if "restore" in train} == {"last"}


@pytest.mark.parametrize(("folder", "name"), entries("ensembles"))
def test_an_ensembles_members_exist(folder: str, name: str) -> None:
    params = PARAMS[folder]
    trained = params["models"] | params.get("finetuned", {})
    for member in parse(Ensemble, params["ensembles"][name], f"ensembles.{name}").members:
        model, _, epoch = member.partition("@")
        own = parse(Train, params["train"] | trained[model].get("train", {}), "train")
        if epoch:
            assert own.epochs - own.save_last_epochs < int(epoch) <= own.epochs


@pytest.mark.parametrize(("folder", "name"), entries("students"))
def test_a_students_teacher_exists(folder: str, name: str) -> None:
    params = PARAMS[folder]
    assert params["students"][name]["teacher"] in params["ensembles"]


def all_settings(folder: str, name: str) -> dict[str, Any]:
    """Return the settings of a trained entry in one mapping, inherited ones included."""
    params = PARAMS[folder]
    entry = next(params[section][name] for section in TRAINED if name in params.get(section, {}))
    own = parse(Train, params["train"] | entry.get("train", {}), "train").model_dump()
    return entry | entry["network"] | own


def test_a_student_has_as_many_epochs_as_its_teacher_and_its_base() -> None:
    folder = "tasks/ablation"
    params = PARAMS[folder]
    bases = {name: base for base, names in params["compare"]["differences"].items()
             for name in names}  # fmt: skip
    for name, student in params["students"].items():
        members = params["ensembles"][student["teacher"]]["members"]
        epochs = {all_settings(folder, entry)["epochs"] for entry in (name, bases[name], *members)}
        assert len(epochs) == 1, name


def test_each_entry_of_the_ablation_changes_one_thing() -> None:
    folder = "tasks/ablation"
    params = PARAMS[folder]
    # Parameters of a change, and settings that no training depends on.
    own = {"mixup_alpha", "ema_decay", "hard_label_weight", "train", "network", "seeds",
           "score_train"}  # fmt: skip
    for base, names in params["compare"]["differences"].items():
        for name in set(names) - set(params["ensembles"]):
            old, new = all_settings(folder, base), all_settings(folder, name)
            changed = {key for key in old | new if old.get(key) != new.get(key)}
            assert len(changed - own) == 1, (name, changed)


@pytest.mark.parametrize(("folder", "name"), entries("finetuned"))
def test_weights_of_a_finetuned_model_are_those_of_an_entry(folder: str, name: str) -> None:
    params = PARAMS[folder]
    weights = Path(params["finetuned"][name]["weights"])
    if weights.parent == Path("data/weights"):
        assert weights.stem in params["weights"]
    else:  # of each run of a model, or of one of them
        model = weights.parent if weights.suffix else weights
        assert (model.parent, model.name in params["models"]) == (Path("models"), True)
