"""Labels above the confidence threshold: how precise they are on clips that chose no threshold."""

from typing import Any, NamedTuple

import numpy as np

from tagging.data.scores import RunScores
from tagging.scoring.bootstrap import Evaluate, confidence_interval, draw_resamples

CONFIDENT_HEADER = [
    "label", "threshold", "val_clips", "val_precision", "val_recall", "test_clips",
    "precision", "precision_ci_low", "precision_ci_high", "recall",
]  # fmt: skip


class RunThresholds(NamedTuple):
    """The thresholds of each run, float32 (classes,), NaN for none, and their target precision."""

    target_precision: float
    thresholds: dict[str, np.ndarray]


class RunConfidence(NamedTuple):
    """The thresholds of each run, and its calibrated scores on validation and test.

    Scores and thresholds are of what the task scores: clips, or recordings.
    """

    thresholds: RunThresholds
    val: list[RunScores]
    test: list[RunScores]
    is_calibrated: bool


def confident_labels(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return which labels of which clips are above the threshold: bool (clips, classes).

    Args:
        scores: calibrated logits, float32 (clips, classes).
        thresholds: probabilities, float32 (classes,).
    """
    from scipy.special import expit

    return expit(scores) >= thresholds


def confident_metrics(
    test: list[RunScores], thresholds: RunThresholds, settings: Evaluate
) -> dict[str, Any]:
    """Return metrics of the confident labels of all classes and runs together.

    These are the number of classes with a threshold (`labels`, the mean over runs), the share of
    all true labels that are confident (`recall`), and the precision with its interval over clips if
    any label is confident.
    """
    hits, predicted, positive = (np.zeros(1 + settings.resamples) for _ in range(3))
    for run in test:
        counts = draw_resamples(len(run.labels), settings.resamples, [settings.seed, run.fold])
        counts = np.hstack([np.ones((len(counts), 1), np.uint8), counts])  # first all clips, once
        confident = confident_labels(run.scores, thresholds.thresholds[run.run])
        labels = run.labels > 0
        hits += (confident & labels).sum(axis=1) @ counts
        predicted += confident.sum(axis=1) @ counts
        positive += labels.sum(axis=1) @ counts
    run_labels = [int(np.isfinite(values).sum()) for values in thresholds.thresholds.values()]
    metrics = {
        "target_precision": thresholds.target_precision,
        "labels": float(np.mean(run_labels)),
        "recall": float(hits[0] / positive[0]),
    }
    if predicted[0]:
        with np.errstate(invalid="ignore"):  # NaN for a resample without confident labels
            precision = hits / predicted
        value = float(precision[0])
        low, high = confidence_interval(value, precision[1:], 0.0, 1.0)
        metrics |= {"precision": value, "precision_ci_low": low, "precision_ci_high": high}
    return metrics


def label_thresholds(thresholds: RunThresholds, class_names: list[str]) -> dict[str, float | None]:
    """Return the first run's threshold of each class, None for none."""
    first = next(iter(thresholds.thresholds.values())).tolist()
    return {
        name: None if np.isnan(value) else value
        for name, value in zip(class_names, first, strict=True)
    }


def confident_rows(
    class_names: list[str],
    thresholds: RunThresholds,
    val: list[RunScores],
    test: list[RunScores],
) -> list[list[Any]]:
    """Return the precision and recall of each class's confident labels, as `CONFIDENT_HEADER`.

    All numbers are of the first run. The precision's 95% interval on test is Clopper and Pearson's
    (1934). A class without a threshold has empty cells.
    """
    from scipy.stats import beta

    first = thresholds.thresholds[test[0].run]
    confident = [confident_labels(split[0].scores, first) for split in (val, test)]
    predicted = [split.sum(axis=0) for split in confident]
    positive = [split[0].labels.sum(axis=0, dtype=int) for split in (val, test)]
    hits = [
        (labels & (split[0].labels > 0)).sum(axis=0)
        for labels, split in zip(confident, (val, test), strict=True)
    ]
    low = beta.ppf(0.025, hits[1], predicted[1] - hits[1] + 1)
    high = beta.ppf(0.975, hits[1] + 1, predicted[1] - hits[1])
    with np.errstate(invalid="ignore"):
        precision, recall = np.divide(hits, predicted), np.divide(hits, positive)
    columns = zip(
        first.tolist(), positive[0], precision[0], recall[0], positive[1], precision[1],
        np.where(hits[1] > 0, low, 0), np.where(hits[1] < predicted[1], high, 1), recall[1],
        strict=True,
    )  # fmt: skip
    return [
        [name, *("" if np.isnan(value) else value for value in row)]
        if np.isfinite(row[0])
        else [name, "", row[1], "", "", row[4], "", "", "", ""]
        for name, row in zip(class_names, columns, strict=True)
    ]
