"""Confidence thresholds: they keep the target precision on clips that did not choose them."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from tagging.data.scores import RunScores, mean_probability_by_group
from tagging.learning.calibration import Calibration, fit_calibration
from tagging.learning.inference import calibrate
from tagging.learning.thresholds import MIN_CLIPS, choose_thresholds
from tagging.scoring.bootstrap import Evaluate, draw_resamples
from tagging.scoring.confident import (
    CONFIDENT_HEADER,
    RunThresholds,
    confident_labels,
    confident_metrics,
    confident_rows,
)

CLIPS, LABELS = 2000, 100


def predictions(
    seed: int, labels: int = LABELS, offset: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, most of them rare, and log odds that are calibrated except for `offset`."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(np.linspace(-3, -9, labels), 3, (CLIPS, labels))
    true = (rng.random(odds.shape) < expit(odds)).astype(np.uint8)
    return true, (odds + offset).astype(np.float32)


def limits(labels: np.ndarray, scores: np.ndarray, target: float = 0.8) -> np.ndarray:
    chosen = choose_thresholds(labels, scores, target)
    return np.array([label.threshold for label in chosen], np.float32)


@pytest.mark.parametrize(("target", "offset"), [(0.8, 0.0), (0.8, 4.0), (0.5, 0.0), (0.95, -2.0)])
def test_the_target_holds_on_other_clips_however_calibrated_probabilities_are(
    target: float, offset: float
) -> None:
    labels, scores = predictions(0, offset=offset)
    calibration = fit_calibration(labels, scores, "sigmoid")
    thresholds = limits(labels, calibrate(scores, calibration), target)
    labels, scores = predictions(1, offset=offset)
    scores = calibrate(scores, calibration)
    confident = confident_labels(scores, thresholds)
    hits, predicted = (confident & (labels > 0)).sum(axis=0), confident.sum(axis=0)
    assert target <= hits.sum() / predicted.sum() < target + 0.6 * (1 - target)
    assert np.isfinite(thresholds).mean() > 0.3
    assert hits.sum() / labels.sum() > 0.05
    # Label by label too: few of those with a threshold are significantly worse.
    highest = stats.beta.ppf(0.975, hits + 1, predicted - hits)
    significantly_worse = (highest[predicted > hits] < target).sum()
    assert significantly_worse <= 0.05 * np.isfinite(thresholds).sum()


def test_of_rare_labels_the_lowest_threshold_that_is_good_on_validation_is_too_low() -> None:
    """The reason for the calibration of all labels together."""
    labels, scores = predictions(0)
    ours = limits(labels, scores)
    lowest = np.full(LABELS, np.nan)
    for place, (true, x) in enumerate(zip(labels.T, scores.T, strict=True)):
        order = np.argsort(-x)
        good = np.flatnonzero(np.cumsum(true[order]) / np.arange(1, CLIPS + 1) >= 0.8)
        if len(good) and true.sum() >= MIN_CLIPS:
            lowest[place] = expit(x[order[good[-1]]])
    labels, scores = predictions(1)
    precision = []
    for thresholds in (lowest, ours):
        confident = confident_labels(scores, thresholds)[:, LABELS // 2 :]
        precision.append((confident & (labels[:, LABELS // 2 :] > 0)).sum() / confident.sum())
    assert precision[0] < 0.76 < 0.8 <= precision[1]


def test_the_statistics_of_a_threshold_are_those_of_validation() -> None:
    labels, scores = predictions(0)
    chosen = choose_thresholds(labels, scores, 0.8)
    checked = 0
    for label, true, x in zip(chosen, labels.T, scores.T, strict=True):
        assert label.clips == true.sum()
        if label.threshold is None:
            assert (label.precision, label.recall) == (None, None)
            continue
        checked += 1
        confident = expit(x) >= np.float32(label.threshold)
        assert label.precision == pytest.approx(true[confident].mean())
        assert label.recall == pytest.approx(confident[true > 0].mean())
        assert label.precision >= 0.8  # also where the calibration of all labels expects it
    assert 0 < checked < LABELS


def test_a_label_of_few_clips_or_predicted_at_random_has_none() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((500, 3), np.uint8)
    labels[: MIN_CLIPS - 1, 0] = labels[:200, 1] = labels[:200, 2] = 1
    scores = (12 * labels.astype(np.float32) - 6) + rng.normal(size=labels.shape)
    scores[:, 2] = rng.normal(size=500)
    chosen = choose_thresholds(labels, scores.astype(np.float32), 0.8)
    assert [label.threshold is None for label in chosen] == [True, False, True]
    assert [label.clips for label in chosen] == [MIN_CLIPS - 1, 200, 200]


@pytest.mark.parametrize("scale", [3.0, 1e4, 3e38])
def test_equal_and_extreme_scores_are_not_separated(scale: float) -> None:
    labels = np.repeat(np.array([[1], [0]], np.uint8), 100, axis=0)
    scores = np.where(labels, scale, -scale).astype(np.float32)
    (label,) = choose_thresholds(labels, scores, 0.8)
    assert (label.precision, label.recall) == (1, 1)
    assert np.array_equal(expit(scores) >= np.float32(label.threshold), labels > 0)
    (none,) = choose_thresholds(labels, np.zeros_like(scores), 0.8)
    assert none.threshold is None


def two_runs() -> tuple[list[RunScores], RunThresholds]:
    runs = [RunScores(f"seed{k}", 0, *predictions(k + 1, 5)) for k in range(2)]
    runs[1] = runs[1]._replace(labels=runs[0].labels)
    thresholds = {"seed0": [0.5, 0.7, np.nan, 0.2, np.nan], "seed1": [0.5] + [np.nan] * 4}
    arrays = {run: np.array(values, np.float32) for run, values in thresholds.items()}
    return runs, RunThresholds(0.8, arrays)


def test_the_metrics_are_those_of_all_labels_and_runs_together() -> None:
    runs, thresholds = two_runs()
    metrics = confident_metrics(runs, thresholds, Evaluate(resamples=100, seed=3))
    confident = [confident_labels(run.scores, thresholds.thresholds[run.run]) for run in runs]
    hits = [labels & (run.labels > 0) for labels, run in zip(confident, runs, strict=True)]
    precision = sum(map(np.sum, hits)) / sum(map(np.sum, confident))
    assert (metrics["target_precision"], metrics["labels"]) == (0.8, 2)
    assert metrics["precision"] == pytest.approx(precision)
    assert metrics["recall"] == pytest.approx(
        sum(map(np.sum, hits)) / sum(run.labels.sum() for run in runs)
    )
    counts = draw_resamples(CLIPS, 100, [3, 0]).astype(int)
    clip_hits, clip_labels = (
        sum(run.sum(axis=1) for run in arrays) for arrays in (hits, confident)
    )
    spread = np.std((clip_hits @ counts) / (clip_labels @ counts), ddof=1)
    assert metrics["precision_ci_high"] - metrics["precision"] == pytest.approx(1.96 * spread)


def test_without_thresholds_no_label_is_confident() -> None:
    runs, thresholds = two_runs()
    none = {run: np.full(5, np.nan, np.float32) for run in thresholds.thresholds}
    metrics = confident_metrics(
        runs, thresholds._replace(thresholds=none), Evaluate(resamples=100, seed=3)
    )
    assert metrics == {"target_precision": 0.8, "labels": 0, "recall": 0}


def test_the_rows_are_those_of_the_first_run_label_by_label() -> None:
    (test, _), thresholds = two_runs()
    val = RunScores("seed0", 0, *predictions(7, 5))
    rows = confident_rows([f"label {k}" for k in range(5)], thresholds, [val], [test])
    first, none = (dict(zip(CONFIDENT_HEADER, rows[k], strict=True)) for k in (0, 2))
    confident = expit(test.scores[:, 0]) >= 0.5
    hits, predicted = int((confident & (test.labels[:, 0] > 0)).sum()), int(confident.sum())
    assert first["precision"] == hits / predicted
    assert first["recall"] == hits / test.labels[:, 0].sum()
    exact = stats.binomtest(hits, predicted).proportion_ci(method="exact")
    interval = (first["precision_ci_low"], first["precision_ci_high"])
    assert interval == pytest.approx(tuple(exact))
    confident = expit(val.scores[:, 0]) >= 0.5
    assert first["val_precision"] == val.labels[confident, 0].mean()
    assert {key for key, value in none.items() if value != ""} == {
        "label", "val_clips", "test_clips",
    }  # fmt: skip


def drawn_windows(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels of windows, calibrated log odds, and the recording of each window.

    A recording has 20 windows, of which none or some have the label.
    """
    rng = np.random.default_rng(seed)
    recordings = np.repeat(np.arange(1000), 20)
    share = np.where(rng.random((1000, 5)) < 0.3, rng.uniform(0.1, 1, (1000, 5)), 0)[recordings]
    labels = (rng.random(share.shape) < share).astype(np.uint8)
    scores = rng.normal(np.where(labels, 1.5, -1.5), 1.5)  # log odds of 0 are as likely of both
    return labels, scores.astype(np.float32), recordings


def test_recordings_keep_the_precision_of_their_thresholds_not_of_their_windows_ones() -> None:
    """A label is right in a recording if it is in any of its windows."""
    target = 0.9

    def fit(labels: np.ndarray, scores: np.ndarray) -> tuple[Calibration | None, np.ndarray]:
        calibration = fit_calibration(labels, scores, "sigmoid")
        return calibration, limits(labels, calibrate(scores, calibration), target)

    def precision(labels: np.ndarray, confident: np.ndarray) -> tuple[float, float]:
        """Return the precision, and the upper end of its 95% interval."""
        hits, predicted = int((confident & (labels > 0)).sum()), int(confident.sum())
        assert predicted > 200
        high = stats.binomtest(hits, predicted).proportion_ci(method="exact").high
        return hits / predicted, high

    labels, scores, recordings = drawn_windows(0)
    firsts = np.flatnonzero(np.diff(recordings, prepend=-1))
    any_window = np.maximum.reduceat(labels, firsts)
    of_windows = fit(labels, scores)
    of_recordings = fit(any_window, mean_probability_by_group(scores, recordings))
    labels, scores, recordings = drawn_windows(1)
    any_window = np.maximum.reduceat(labels, firsts)
    calibration, thresholds = of_windows
    above = confident_labels(calibrate(scores, calibration), thresholds)
    assert precision(labels, above)[1] >= target
    assert precision(any_window, np.maximum.reduceat(above, firsts))[1] < target
    calibration, thresholds = of_recordings
    means = mean_probability_by_group(scores, recordings)
    above = confident_labels(calibrate(means, calibration), thresholds)
    assert target <= precision(any_window, above)[0] < 0.98
