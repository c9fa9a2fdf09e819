"""Calibration on test: how often labels are right at each probability."""

from typing import Any

import numpy as np

from tagging.data.scores import RunScores
from tagging.scoring.bootstrap import Evaluate, confidence_interval, draw_resamples

BINS = 10  # of equal width, from probability 0 to 1
CALIBRATION_HEADER = [
    "scores", "bin", "labels", "probability", "share", "share_ci_low", "share_ci_high",
]  # fmt: skip


def count_bins(run: RunScores, single_label: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the predicted labels of each clip and bin, their right ones and probabilities.

    Args:
        run: labels and scores.
        single_label: only the most probable label of a clip is predicted, else each label.

    Returns:
        Number of labels, number of right ones, and sum of probabilities: float64 (clips, bins).
    """
    from scipy.special import expit

    labels, probabilities = run.labels > 0, expit(run.scores.astype(np.float64))
    if single_label:
        top = probabilities.argmax(axis=1)[:, None]
        labels, probabilities = (
            np.take_along_axis(values, top, axis=1) for values in (labels, probabilities)
        )
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    clips, classes = labels.shape
    place = (np.arange(clips)[:, None] * BINS + bins).ravel()
    weights = (np.ones(clips * classes), labels.ravel(), probabilities.ravel())
    number, hits, total = (
        np.bincount(place, values, clips * BINS).reshape(clips, BINS) for values in weights
    )
    return number, hits, total


def calibration_errors(run: RunScores, single_label: bool, counts: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of each resample: float64 (resamples,).

    It is the mean difference of probability and share of right labels, bin by bin (Guo et al.,
    2017, arXiv 1706.04599).

    Args:
        run: labels and scores.
        single_label: as in `count_bins`.
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    number, hits, total = count_bins(run, single_label)
    differences = np.abs((total - hits).T @ counts).sum(axis=0)
    return differences / (number.sum(axis=1) @ counts)


def calibration_metrics(
    test: list[RunScores], calibrated: list[RunScores], single_label: bool, settings: Evaluate
) -> dict[str, float]:
    """Return the expected calibration error before and after calibration, and the difference.

    Each is the mean over runs, with its 95% interval over clips.
    """
    resampled = []
    for before, after in zip(test, calibrated, strict=True):
        seed = [settings.seed, before.fold]
        counts = draw_resamples(len(before.labels), settings.resamples, seed)
        counts = np.hstack([np.ones((len(counts), 1), np.uint8), counts])  # first all clips, once
        resampled.append([calibration_errors(run, single_label, counts) for run in (before, after)])
    before_error, after_error = np.mean(resampled, axis=0)
    metrics: dict[str, float] = {}
    for key, values, minimum in (
        ("uncalibrated_error", before_error, 0.0),
        ("error", after_error, 0.0),
        ("change", after_error - before_error, -np.inf),
    ):
        value = float(values[0])
        low, high = confidence_interval(value, values[1:], minimum)
        metrics |= {key: value, f"{key}_ci_low": low, f"{key}_ci_high": high}
    return metrics


def calibration_rows(
    test: list[RunScores], calibrated: list[RunScores], single_label: bool
) -> list[list[Any]]:
    """Return the reliability curves before and after calibration, as `CALIBRATION_HEADER`.

    They are those of the first run of each fold, as folds test other clips. The 95% intervals are
    Clopper and Pearson's (1934). Bins without labels have no row.
    """
    from scipy.stats import beta

    rows = []
    for name, runs in (("uncalibrated", test), ("calibrated", calibrated)):
        first_runs = {run.fold: run for run in reversed(runs)}.values()
        counts = [np.sum(count_bins(run, single_label), axis=1) for run in first_runs]
        number, hits, total = np.sum(counts, axis=0)
        low = beta.ppf(0.025, hits, number - hits + 1)
        high = beta.ppf(0.975, hits + 1, number - hits)
        rows += [
            [
                name, bin_, int(number[bin_]), total[bin_] / number[bin_],
                hits[bin_] / number[bin_], low[bin_] if hits[bin_] else 0.0,
                high[bin_] if hits[bin_] < number[bin_] else 1.0,
            ]
            for bin_ in np.flatnonzero(number).tolist()
        ]  # fmt: skip
    return rows
