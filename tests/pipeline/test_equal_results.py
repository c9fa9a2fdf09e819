"""The tool that compares the results of two revisions: its hashes, and the choices it covers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.features import Embedding
from tagging.data.parameters import Section
from tagging.data.splits import SplitSettings
from tagging.features.log_mel import PRESETS
from tagging.learning.metric_losses import TeacherTriplet, Triplet
from tagging.learning.model import FinetunedModel
from tagging.learning.settings import LOSSES, Train
from tests.project import ROOT
from tools import equal_results
from tools.equal_results import hash_numbers, hash_tensors, list_tasks, read_params

TENSORS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(2, np.float32)}


def test_the_hash_of_tensors_ignores_metadata_and_notices_everything_else(tmp_path: Path) -> None:
    def hash_saved(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> str:
        save_file(tensors, tmp_path / "tensors.safetensors", metadata)
        return hash_tensors(tmp_path / "tensors.safetensors")

    expected = hash_saved(TENSORS)
    assert hash_saved(TENSORS, {"model": "another"}) == expected
    assert hash_saved(dict(reversed(TENSORS.items()))) == expected
    weight = TENSORS["weight"]
    content = bytearray(weight.tobytes())
    content[-1] ^= 1
    changed = np.frombuffer(bytes(content), np.float32).reshape(2, 3)
    for other in (
        {**TENSORS, "weight": changed},
        {**TENSORS, "weight": weight.reshape(3, 2)},
        {**TENSORS, "weight": weight.view(np.int32)},
        {"bias": TENSORS["bias"], "kernel": weight},
        {"weight": weight},
    ):
        assert hash_saved(other) != expected


def test_the_hash_of_metrics_ignores_keys_and_notices_the_last_bit(tmp_path: Path) -> None:
    def hash_written(metrics: Any) -> str:
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        return hash_numbers(tmp_path / "metrics.json")

    expected = hash_written({"test": {"ndcg": 0.5, "recall": 1.0, "label": "a"}, "parameters": 8})
    assert hash_written({"parameters": 8, "test": {"gain": 0.5, "found": 1}}) == expected
    thresholds = {"Speech": 0.25, "Music": None}
    other = {"parameters": 8, "test": {"ndcg": 0.5, "recall": 1.0}, "thresholds": thresholds}
    assert hash_written(other) == expected
    nearest = float(np.nextafter(0.5, 1))
    assert hash_written({"test": {"ndcg": nearest, "recall": 1.0}, "parameters": 8}) != expected
    assert hash_written({"test": {"ndcg": 0.5}, "parameters": 8}) != expected


def list_values(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each scalar in nested mappings and lists, with the key of the mapping around it."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from list_values(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from list_values(item, key)
    else:
        yield key, value


@pytest.fixture(scope="module")
def values() -> dict[str, set[Any]]:
    """Collect the values of each key in the parameters of all tasks."""
    values: dict[str, set[Any]] = {}
    for task in list_tasks():
        for key, value in list_values(read_params(task)):
            values.setdefault(key, set()).add(value)
    return values


def list_choices(section: type[Section], field: str) -> set[Any]:
    """List the choices of a field that is a `Literal`."""
    return set(get_args(section.model_fields[field].annotation))


def test_the_tasks_have_every_network_feature_and_loss(values: dict[str, set[Any]]) -> None:
    networks = {path.stem for path in (ROOT / "tagging/networks").glob("*.py")}
    assert values["architecture"] == networks
    assert values["transform"] == {"log_mel", "mfcc", "multi_log_mel"}
    assert values["preset"] == set(PRESETS)
    assert set(LOSSES) <= values["loss"] | values["name"]
    assert list_choices(Triplet, "negatives") <= values["negatives"]
    assert list_choices(Triplet, "draw") <= values["draw"] | {"clip"}
    assert list_choices(Triplet, "reducer") <= values["reducer"] | {"avg_non_zero"}
    assert list_choices(TeacherTriplet, "selection") <= values["selection"]


@pytest.mark.parametrize(
    "key", ["optimizer", "schedule", "sampling", "weight_averaging", "restore", "precision"]
)
def test_the_tasks_have_every_choice_of_the_training(key: str, values: dict[str, set[Any]]) -> None:
    assert list_choices(Train, key) <= values[key] | {Train.model_fields[key].default}


def test_the_tasks_have_every_metric_split_and_embedding(values: dict[str, set[Any]]) -> None:
    metrics = {path.stem for path in (ROOT / "tagging/scoring/metrics").glob("*.py")}
    assert metrics <= values["name"]
    assert list_choices(SplitSettings, "method") <= values["method"]
    assert list_choices(Embedding, "output") == values["output"]
    assert list_choices(FinetunedModel, "finetune") <= values["finetune"] | {"all"}


def test_different_missing_and_new_results_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    before = {"train/a": "1", "train/b": "2", "train/c": "3"}
    results = [before, before, before, {"train/a": "1", "train/b": "4", "train/d": "5"}]
    checkouts = []

    def give_fingerprint(checkout: Path) -> dict[str, str]:
        checkouts.append(checkout)
        assert (checkout / "pyproject.toml").is_file()
        return results.pop(0)

    monkeypatch.setattr(equal_results, "run_fingerprint", give_fingerprint)
    assert equal_results.compare_with("HEAD") == 0
    assert capsys.readouterr().out == "3 results are equal\n"
    assert equal_results.compare_with("HEAD") == 1
    lines = ["differs: train/b", "missing: train/c", "new: train/d"]
    assert capsys.readouterr().out.splitlines() == lines
    assert checkouts[1] == checkouts[3] == ROOT
    assert not checkouts[0].exists()
