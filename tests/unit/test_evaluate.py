"""Metrics, intervals and tables of an evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from tagging.data.clips import Fold, Index
from tagging.data.scores import RunScores, Scores, read_resampled
from tagging.data.task import MetricSettings, Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.metric import FOLDER, Metric, load_metric
from tagging.scoring.bootstrap import Evaluate, draw_resamples, mean_over_clips
from tagging.scoring.confident import RunThresholds, confident_metrics
from tagging.scoring.evaluation import (
    metric_bounds,
    precision_recall,
    resample_metric,
    scores_by_run,
)
from tagging.scoring.metrics.ndcg import ndcg
from tagging.scoring.metrics.precision import precision_at_k
from tagging.scoring.results import write_evaluation
from tagging.scoring.tables import read_rows
from tests.generated import classes, example_fold, multi_hot

SETTINGS = Evaluate(resamples=100, seed=1)
HERE = TaskFolder(Path())
METRICS = [{"name": "ndcg"}, {"name": "precision", "k": 1}]
REPORT_METRICS = [{"name": name} for name in ("map", "roc_auc", "lwlrap", "d_prime")]
KEYS = [MetricSettings(**settings).key for settings in METRICS + REPORT_METRICS]
PARAMETERS = {"precision": 1, "recall": 8, "any_label": 1, "rarer_recall": 1}
ALL = [
    MetricSettings(name=name, k=PARAMETERS.get(name))
    for name in sorted(file.stem for file in FOLDER.glob("*.py"))
]


def metric_named(name: str, k: int | None = None) -> Metric:
    return load_metric(MetricSettings(name=name, k=k))


def test_the_curve_has_only_points_that_a_threshold_gives() -> None:
    # The highest score is wrong: no threshold reaches precision 1, not at recall 0 either.
    labels = np.array([0, 1, 0, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    precision, recall = precision_recall(labels, scores)
    assert recall[0] == 0 and recall[-1] == 1
    assert np.allclose(precision, 0.5)


def test_the_curve_is_the_highest_precision_at_a_recall_or_more() -> None:
    labels = np.array([1, 0, 0, 1])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    precision, recall = precision_recall(labels, scores)
    assert np.allclose(precision[recall <= 0.5], 1)
    assert np.allclose(precision[recall > 0.5], 0.5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def evaluated(
    labels: np.ndarray,
    folds: list[Fold],
    runs: dict[str, int],
    selection: str | MetricSettings = "ndcg",
    task_type: str = "multi_label",
    scores: Callable | None = None,
) -> tuple[dict, Scores]:
    """Write the evaluation of runs with noisy scores; return it and the scores."""
    rng = np.random.default_rng(0)
    outputs = {
        f"{run}/{split}": (labels[places] + rng.normal(size=labels[places].shape)).astype(
            np.float32
        )
        for run, fold in runs.items()
        for split, places in folds[fold]._asdict().items()
        if len(places)
    }
    if scores is not None:
        outputs = {name: scores(labels[getattr(folds[0], name.split("/")[1])]) for name in outputs}
    result = Scores(outputs, runs, 9)
    names = classes(labels.shape[1])
    if isinstance(selection, str):
        selection = MetricSettings(name=selection)
    others = [] if task_type == "single_label" else METRICS + REPORT_METRICS
    others = [MetricSettings(**settings) for settings in others]
    metrics, report_metrics = (
        [selection, *(metric for metric in others[:2] if metric != selection)],
        [metric for metric in others[2:] if metric != selection],
    )
    task = Task(type=task_type, metrics=metrics, report_metrics=report_metrics)
    index = Index(np.array([b"x"] * len(labels)), labels, names, folds)
    write_evaluation(HERE, "models", "x", result, index, task, SETTINGS)
    return json.loads(HERE.evaluation("x").read_text()), result


def test_one_run_has_its_metrics_and_intervals_of_them() -> None:
    labels, fold = multi_hot(200, 5), example_fold(200)
    metrics, scores = evaluated(labels, [fold], {"seed0": 0})
    assert list(metrics) == ["val", "test", "parameters"]
    assert list(metrics["val"]) == KEYS
    assert set(metrics["test"]) == {
        *KEYS, "ndcg_ci_low", "ndcg_ci_high", "precision_at_1_ci_low", "precision_at_1_ci_high"
    }  # fmt: skip
    for settings in METRICS + REPORT_METRICS:
        settings = MetricSettings(**settings)
        value = load_metric(settings).value(labels[fold.test], scores.outputs["seed0/test"])
        assert metrics["test"][settings.key] == value
    low, high = (metrics["test"][f"ndcg_ci_{end}"] for end in ("low", "high"))
    assert low < metrics["test"]["ndcg"] < high
    rows = read_rows(Path("plots/evaluate/x/average_precision.csv"))
    assert [row["label"] for row in rows] == [f"label {k}" for k in range(5)]
    for k, row in enumerate(rows):
        column = labels[fold.test][:, k], scores.outputs["seed0/test"][:, k]
        assert float(row["average_precision"]) == pytest.approx(
            average_precision_score(*column), abs=1e-5
        )
        assert float(row["roc_auc"]) == pytest.approx(roc_auc_score(*column), abs=1e-5)
        assert row["average_precision_std"] == row["roc_auc_std"] == ""
        assert int(row["test_clips"]) == column[0].sum()
    assert len(read_rows(Path("plots/evaluate/x/precision_recall.csv"))) == 5 * 101
    assert not Path("plots/evaluate/x/confusion.csv").exists()


def test_several_runs_have_a_mean_and_a_deviation() -> None:
    metrics, _ = evaluated(
        multi_hot(200, 5), [example_fold(200)], {f"seed{k}": 0 for k in (0, 3, 5)}
    )
    assert list(metrics) == ["val", "test", "runs", "parameters"]
    assert list(metrics["runs"]) == ["seed0", "seed3", "seed5"]
    for split in ("val", "test"):
        for name in KEYS:
            values = [run[split][name] for run in metrics["runs"].values()]
            assert len(set(values)) > 1
            assert metrics[split][name] == pytest.approx(mean(values))
            assert metrics[split][f"{name}_std"] == pytest.approx(stdev(values))


def test_each_fold_tests_its_own_clips() -> None:
    labels, nothing = multi_hot(120, 4), np.array([], int)
    parts = np.split(np.arange(120), 3)
    folds = [
        Fold(np.concatenate([parts[k - 1], parts[k - 2]]), nothing, parts[k]) for k in range(3)
    ]
    metrics, scores = evaluated(labels, folds, {f"fold{k}-seed0": k for k in range(3)})
    assert list(metrics) == ["test", "runs", "parameters"]  # nothing validates
    for k in range(3):
        value = metric_named("ndcg").value(labels[parts[k]], scores.outputs[f"fold{k}-seed0/test"])
        assert metrics["runs"][f"fold{k}-seed0"] == {
            "test": metrics["runs"][f"fold{k}-seed0"]["test"]
        }
        assert metrics["runs"][f"fold{k}-seed0"]["test"]["ndcg"] == value
    rows = read_rows(Path("plots/evaluate/x/average_precision.csv"))
    assert [int(row["test_clips"]) for row in rows] == labels.sum(axis=0).tolist()


def test_a_class_that_no_run_has_clips_of_has_no_values() -> None:
    labels = multi_hot(80, 3)
    labels[:, 1] = 0
    evaluated(labels, [example_fold(80)], {"seed0": 0, "seed1": 0})
    known, unknown, _ = read_rows(Path("plots/evaluate/x/average_precision.csv"))
    assert [*unknown.values()] == ["label 1", "", "", "", "", "0"]
    assert float(known["average_precision_std"]) > 0 and float(known["roc_auc_std"]) > 0


@pytest.mark.parametrize("selection", ALL, ids=[metric.key for metric in ALL])
def test_any_metric_can_select(selection: MetricSettings) -> None:
    labels, key = np.eye(4, dtype=np.uint8)[np.arange(80) % 4], selection.key
    metrics, _ = evaluated(labels, [example_fold(80)], {"seed0": 0, "seed1": 0}, selection)
    low, high = (metrics["test"][f"{key}_ci_{end}"] for end in ("low", "high"))
    value = metrics["test"][key]
    assert low < value < high
    resampled = read_resampled(HERE.resampled("models", "x"))
    assert resampled.shape == (100,)
    assert 1.96 * np.nanstd(resampled, ddof=1) == pytest.approx(value - low)


def test_the_same_clips_are_drawn_for_every_entry_and_metric() -> None:
    labels = multi_hot(60, 4)
    scores = labels + np.random.default_rng(0).normal(size=labels.shape)
    runs = [RunScores("seed0", 0, labels, scores)]
    first = resample_metric(runs, metric_named("ndcg"), SETTINGS)
    assert np.array_equal(first, resample_metric(runs * 2, metric_named("ndcg"), SETTINGS))
    expected = mean_over_clips(ndcg(labels, scores), draw_resamples(60, 100, [SETTINGS.seed, 0]))
    np.testing.assert_allclose(first, expected)
    # The short way to a metric on resamples is the long one.
    metric = metric_named("map")
    np.testing.assert_allclose(
        resample_metric(runs, metric, SETTINGS),
        resample_metric(runs, metric._replace(resampled=None), SETTINGS),
    )


def all_but_one(labels: np.ndarray) -> np.ndarray:
    """Return scores that are right for all clips but the first."""
    return np.vstack([1 - labels[:1], labels[1:]]).astype(np.float32)


def test_an_interval_ends_at_the_value_of_perfect_scores() -> None:
    labels, runs = np.eye(4, dtype=np.uint8)[np.arange(80) % 4], {"seed0": 0}
    for selection in ("accuracy", "ndcg", "map"):
        test = evaluated(
            labels, [example_fold(80)], runs, selection, "single_label", scores=all_but_one
        )[0]["test"]  # fmt: skip
        assert test[f"{selection}_ci_low"] < test[selection] < test[f"{selection}_ci_high"] == 1


def test_bounds_are_on_the_better_side_and_only_where_known() -> None:
    labels = np.eye(4, dtype=np.uint8)
    runs = [RunScores("seed0", 0, labels, labels)]
    wrong = Metric(
        "wrong", per_clip=lambda y, x: 1 - precision_at_k(y, x, 1), higher_is_better=False
    )
    assert metric_bounds(runs, wrong, 0.2) == (0, np.inf)
    assert metric_bounds(runs, metric_named("accuracy"), 0.2) == (-np.inf, 1)
    assert metric_bounds(runs, metric_named("d_prime"), 0.2) == (-np.inf, np.inf)
    other = Metric("other", per_clip=lambda y, x: x.argmax(1) > 2)  # perfect scores get 1 of 4
    assert metric_bounds(runs, other, 0.5) == (-np.inf, np.inf)


def test_the_precision_of_confident_labels_is_at_most_1() -> None:
    labels = np.ones((20, 1), np.uint8)
    labels[0] = 0
    runs = [RunScores("seed0", 0, labels, np.full((20, 1), 5, np.float32))]
    thresholds = RunThresholds(0.8, {"seed0": np.array([0.5], np.float32)})
    metrics = confident_metrics(runs, thresholds, SETTINGS)
    low, high = metrics["precision_ci_low"], metrics["precision_ci_high"]
    assert low < metrics["precision"] == 0.95 < high == 1


def test_a_metric_without_a_value_is_none_and_has_no_interval() -> None:
    perfect = lambda labels: labels.astype(np.float32)  # noqa: E731
    metrics, _ = evaluated(
        multi_hot(80, 4), [example_fold(80)], {"seed0": 0}, "d_prime", scores=perfect
    )
    assert metrics["test"]["d_prime"] is None  # infinite
    assert metrics["test"]["ndcg"] == metrics["test"]["roc_auc"] == 1
    assert "d_prime_ci_low" not in metrics["test"]
    assert read_resampled(HERE.resampled("models", "x")).shape == (100,)
    headline = json.loads(HERE.metrics("x").read_text())
    assert headline == {split: {"ndcg": 1, "precision_at_1": 1} for split in ("val", "test")}


def test_dvc_has_the_headline_metrics_alone_rounded() -> None:
    evaluation, _ = evaluated(multi_hot(200, 5), [example_fold(200)], {"seed0": 0, "seed1": 0})
    headline = json.loads(HERE.metrics("x").read_text())
    keys = ("ndcg", "precision_at_1")
    assert headline == {
        split: {key: round(evaluation[split][key], 4) for key in keys} for split in ("val", "test")
    }
    assert evaluation["test"]["ndcg"] != headline["test"]["ndcg"]


def test_single_labels_have_a_confusion_matrix() -> None:
    labels, fold = np.eye(3, dtype=np.uint8)[np.arange(90) % 3], example_fold(90)
    runs = {"seed0": 0, "seed1": 0}
    metrics, scores = evaluated(labels, [fold], runs, "accuracy", "single_label")
    true = labels[fold.test].argmax(1)
    predicted = [scores.outputs[f"{run}/test"].argmax(1) for run in runs]
    assert metrics["test"]["accuracy"] == pytest.approx(np.mean(np.stack(predicted) == true))
    rows = read_rows(Path("plots/evaluate/x/confusion.csv"))
    counts = np.array([int(row["clips"]) for row in rows]).reshape(3, 3)
    assert np.array_equal(counts, sum(confusion_matrix(true, run) for run in predicted))
    shares = np.array([float(row["share"]) for row in rows]).reshape(3, 3)
    np.testing.assert_allclose(shares, counts / counts.sum(1, keepdims=True), atol=1e-5)
    assert (rows[1]["label"], rows[1]["predicted"]) == ("label 0", "label 1")


AGGREGATED = Task(type="single_label", metrics=[{"name": "accuracy"}])
ALONE = AGGREGATED.model_copy(update={"aggregate": None})


def windows(numbers: list[int], tested: list[int], outputs: list[list[float]]) -> tuple:
    """Return scores and an index of windows, of recordings with these numbers: one fold."""
    recordings = np.array(numbers, np.int32)
    labels = np.eye(3, dtype=np.uint8)[recordings % 3]
    test = np.array(tested)
    fold = Fold(np.setdiff1d(np.arange(len(labels)), test), np.array([], int), test)
    ids = np.array([f"{k}".encode() for k in range(len(labels))])
    index = Index(ids, labels, classes(3), [fold], recordings)
    return Scores({"seed0/test": np.array(outputs, np.float32)}, {"seed0": 0}, 9), index


def test_windows_of_a_recording_count_as_one_with_their_mean_probability() -> None:
    probabilities = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.5], [0.3, 0.6, 0.1], [0.5, 0.2, 0.5]])
    # Recordings 4, 1, 4 and 4: their order is not that of the windows.
    scores, index = windows(
        [4, 0, 1, 0, 4, 4], [0, 2, 4, 5], np.log(probabilities / (1 - probabilities))
    )
    (run,) = scores_by_run(scores, index, "test", AGGREGATED)
    assert run.labels.tolist() == [[0, 1, 0], [0, 1, 0]]  # recordings 1 and 4
    expected = np.stack([probabilities[1], probabilities[[0, 2, 3]].mean(axis=0)])
    np.testing.assert_allclose(1 / (1 + np.exp(-run.scores)), expected, rtol=1e-6)
    (alone,) = scores_by_run(scores, index, "test", ALONE)
    assert alone.labels.tolist() == index.labels[[0, 2, 4, 5]].tolist()
    assert alone.scores is scores.outputs["seed0/test"]


def test_metrics_count_recordings_not_windows() -> None:
    scores, index = windows([0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [[5, 0, 0]] * 3 + [[5, 0, 0]] * 2)
    write_evaluation(HERE, "models", "x", scores, index, AGGREGATED, SETTINGS)
    assert json.loads(HERE.evaluation("x").read_text())["test"]["accuracy"] == 1 / 3
    write_evaluation(HERE, "models", "x", scores, index, ALONE, SETTINGS)
    assert json.loads(HERE.evaluation("x").read_text())["test"]["accuracy"] == 3 / 5


def test_recordings_of_one_window_keep_their_scores() -> None:
    scores, index = windows([2, 1, 0], [0, 1], [[1, 2, 3], [4, 5, 6]])
    (run,) = scores_by_run(scores, index, "test", AGGREGATED)
    assert run.scores is scores.outputs["seed0/test"]
    assert run.labels.tolist() == [[0, 0, 1], [0, 1, 0]]
