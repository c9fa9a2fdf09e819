"""Calibration: labels drawn from known probabilities, and recordings that are cut into windows."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import stats
from scipy.special import expit, log_softmax, softmax

from stages import evaluate
from stages import train as train_stage
from tagging.data.clips import Fold, write_index
from tagging.data.scores import RunScores, mean_probability_by_group
from tagging.data.task_folder import TaskFolder
from tagging.learning.calibration import Calibration, fit_calibration
from tagging.learning.inference import calibrate
from tagging.learning.model_file import load_network
from tagging.scoring.bootstrap import Evaluate
from tagging.scoring.calibration import (
    BINS,
    CALIBRATION_HEADER,
    calibration_metrics,
    calibration_rows,
)
from tagging.scoring.tables import read_rows
from tests.generated import YAC, learnable_values, make_repository, write_clips, write_params

CLIPS, LABELS = 4000, 8
SLOPE = 2.5


def drawn_labels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and the log odds of the probabilities that they are drawn from."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(np.linspace(0, -4, LABELS), 2, (CLIPS, LABELS))
    return (rng.random(odds.shape) < expit(odds)).astype(np.uint8), odds.astype(np.float32)


def drawn_classes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one-hot labels, and the log probabilities that they are drawn from."""
    rng = np.random.default_rng(seed)
    log_p = log_softmax(rng.normal(0, 2, (CLIPS, LABELS)), axis=1)
    labels = [rng.multinomial(1, row / row.sum()) for row in np.exp(log_p)]
    return np.array(labels, np.uint8), log_p


def log_odds(p: np.ndarray) -> np.ndarray:
    return np.log(p / (1 - p)).astype(np.float32)


def test_labels_get_back_the_probabilities_that_they_were_drawn_from() -> None:
    labels, odds = drawn_labels(0)
    shifts = np.linspace(-0.5, 0.5, LABELS).astype(np.float32)
    calibration = fit_calibration(labels, SLOPE * odds + shifts, "sigmoid")
    _, odds = drawn_labels(1)
    restored = calibrate(SLOPE * odds + shifts, calibration)
    assert restored.dtype == np.float32
    assert np.abs(expit(restored) - expit(odds)).max() < 0.05
    assert np.abs(expit(SLOPE * odds + shifts) - expit(odds)).max() > 0.2


def test_a_softmax_gets_back_its_probabilities_which_sum_to_one() -> None:
    labels, log_p = drawn_classes(0)
    sharpened = log_odds(softmax(SLOPE * log_p, axis=1).clip(1e-30, 1 - 1e-12))
    calibration = fit_calibration(labels, sharpened, "softmax")
    assert calibration.offsets is None
    assert calibration.slope == pytest.approx(1 / SLOPE, rel=0.1)
    restored = expit(calibrate(sharpened, calibration))
    assert np.abs(restored.sum(axis=1) - 1).max() < 1e-5
    assert np.array_equal(restored.argmax(axis=1), log_p.argmax(axis=1))
    assert np.abs(restored - np.exp(log_p)).max() < 0.05


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_scores_without_mistakes_or_beyond_all_limits_stay_finite(activation: str) -> None:
    labels = np.tile(np.eye(4, dtype=np.uint8), (20, 1))
    for scale in (1.0, 1e4, 3e38):
        scores = (2 * labels.astype(np.float32) - 1) * np.float32(scale)
        calibration = fit_calibration(labels, scores, activation)
        restored = calibrate(scores, calibration)
        assert np.isfinite(restored).all()
        assert (restored[labels > 0] > 3).all()  # of 80 clips without a mistake
        assert (restored[labels > 0] < 9).all() or scale > 1
        assert (restored[labels == 0] < -3).all()


def test_without_information_nothing_is_calibrated() -> None:
    labels, odds = drawn_labels(0)
    assert fit_calibration(np.zeros_like(labels), odds, "sigmoid") is None
    assert fit_calibration(np.ones_like(labels), odds, "sigmoid") is None
    assert fit_calibration(labels, -odds, "sigmoid") is None
    assert calibrate(odds, None) is odds


# On test


def drawn_runs(slope: float) -> list[RunScores]:
    """Return two runs on the same labels, whose probabilities are true at the slope 1."""
    labels, odds = drawn_labels(2)
    return [RunScores(f"seed{k}", 0, labels, slope * odds) for k in range(2)]


def test_the_reliability_curve_has_the_probabilities_of_the_draw_in_its_intervals() -> None:
    rows = calibration_rows(drawn_runs(SLOPE), drawn_runs(1), single_label=False)
    table = [dict(zip(CALIBRATION_HEADER, row, strict=True)) for row in rows]
    assert len(table) == 2 * BINS
    labels, odds = drawn_labels(2)
    for row in table:
        slope = 1 if row["scores"] == "calibrated" else SLOPE
        bins = (expit(slope * odds.astype(np.float64)) * BINS).astype(int).clip(0, BINS - 1)
        p = expit(odds[bins == row["bin"]])  # the true probabilities, whatever the scores say
        assert row["labels"] == len(p)
        assert row["share"] == pytest.approx(labels[bins == row["bin"]].mean())
        exact = stats.binomtest(round(row["share"] * len(p)), len(p)).proportion_ci(0.95, "exact")
        assert (row["share_ci_low"], row["share_ci_high"]) == pytest.approx(tuple(exact))
        within = row["share_ci_low"] <= p.mean() <= row["share_ci_high"]
        assert within or row["scores"] == "uncalibrated"
    wrong = [
        row["scores"]
        for row in table
        if not row["share_ci_low"] <= row["probability"] <= row["share_ci_high"]
    ]
    assert set(wrong) == {"uncalibrated"}
    assert len(wrong) > BINS / 2


def test_the_calibration_error_is_that_of_the_bins_and_falls() -> None:
    settings = Evaluate(resamples=200, seed=0)
    metrics = calibration_metrics(drawn_runs(SLOPE), drawn_runs(1), False, settings)
    labels, odds = drawn_labels(2)
    p = expit(SLOPE * odds.astype(np.float64))
    bins = (p * BINS).astype(int).clip(0, BINS - 1)
    differences = [abs((p - labels)[bins == k].sum()) for k in range(BINS)]
    assert metrics["uncalibrated_error"] == pytest.approx(sum(differences) / labels.size)
    assert metrics["error"] < 0.01 < 0.05 < metrics["uncalibrated_error"]
    assert metrics["change"] == pytest.approx(metrics["error"] - metrics["uncalibrated_error"])
    assert metrics["change_ci_high"] < 0
    assert metrics["error_ci_low"] <= metrics["error"] <= metrics["error_ci_high"]


def test_of_a_single_label_the_most_probable_one_is_predicted() -> None:
    labels, log_p = drawn_classes(3)
    runs = [RunScores(f"fold{k}", k, labels, log_odds(np.exp(log_p))) for k in range(2)]
    rows = calibration_rows(runs, runs, single_label=True)
    counts = [row[2] for row in rows if row[0] == "calibrated"]
    assert sum(counts) == 2 * CLIPS  # one label of each clip of both folds
    top = np.exp(log_p).max(axis=1)
    assert counts[-1] == 2 * (top >= 1 - 1 / BINS).sum()
    right = labels[np.arange(CLIPS), log_p.argmax(axis=1)]
    assert rows[-1][4] == pytest.approx(right[top >= 1 - 1 / BINS].mean())


# From training to the evaluation


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskFolder:
    """A task of 120 recordings, cut into three windows each, of which not all have the sound."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAGGING_WORKERS", "1")
    make_repository()
    rng = np.random.default_rng(0)
    recordings = np.repeat(np.arange(120, dtype=np.int32), 3)
    labels = np.eye(3, dtype=np.uint8)[recordings % 3]
    heard = labels * (rng.random((len(labels), 1)) < 0.7)
    folds = [Fold(*np.split(np.arange(360), [180, 270]))]
    index = write_clips(labels, folds, learnable_values(heard))
    folder = TaskFolder(Path())
    write_index(index._replace(recordings=recordings), folder.index)
    write_params(models={"yac": YAC | {"train": {"epochs": 3, "lr": 0.01}}})
    return folder


def test_recordings_have_thresholds_and_calibration_of_their_own(windows: TaskFolder) -> None:
    train_stage.main(".", "yac")
    evaluate.main(".", "yac")
    trained = load_network(windows.model("yac", "seed0"), torch.device("cpu"))
    scores = load_file(windows.scores("models", "yac"))
    labels = np.eye(3, dtype=np.uint8)
    val = mean_probability_by_group(scores["seed0/val"], np.repeat(np.arange(30), 3))
    assert trained.recordings is not None
    expected = fit_calibration(labels[np.arange(60, 90) % 3], val, "sigmoid")
    assert trained.recordings.calibration == expected != trained.clips.calibration
    assert np.isfinite(trained.recordings.thresholds).all()
    # The metrics on test are those of recordings, calibrated and above their thresholds.
    test = mean_probability_by_group(scores["seed0/test"], np.repeat(np.arange(30), 3))
    confident = expit(calibrate(test, expected)) >= trained.recordings.thresholds
    hits = confident & (labels[np.arange(90, 120) % 3] > 0)
    evaluation = json.loads(windows.evaluation("yac").read_text())["test"]
    metrics = evaluation["confident"]
    assert metrics["precision"] == pytest.approx(hits.sum() / confident.sum())
    assert metrics["recall"] == pytest.approx(hits.sum() / 30)
    rows = read_rows(windows.entry_plots("yac") / "calibration.csv")
    assert sum(int(row["labels"]) for row in rows if row["scores"] == "calibrated") == 30 * 3
    assert evaluation["calibration"]["error"] < evaluation["calibration"]["uncalibrated_error"]


def test_where_each_clip_is_a_recording_there_is_one_decision(windows: TaskFolder) -> None:
    labels = np.eye(3, dtype=np.uint8)[np.arange(60) % 3]
    index = write_clips(labels, [Fold(*np.split(np.arange(60), [30, 45]))])
    write_index(index._replace(recordings=np.arange(60, dtype=np.int32)), windows.index)
    train_stage.main(".", "yac")
    trained = load_network(windows.model("yac", "seed0"), torch.device("cpu"))
    assert trained.recordings is None
    assert isinstance(trained.clips.calibration, Calibration)
