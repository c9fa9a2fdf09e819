"""What thresholds are worth on clips that did not choose them: how often a sure label is right."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tagging.scoring.bootstrap import draw, interval

if TYPE_CHECKING:  # that file imports this one
    from tagging.scoring.evaluation import Answers, Evaluate

SURE_HEADER = [
    "label", "threshold", "val_clips", "val_precision", "val_recall", "test_clips",
    "precision", "precision_low", "precision_high", "recall",
]  # fmt: skip


class Sure(NamedTuple):
    """The precision that thresholds promise, and those of each run: (classes,), NaN for none."""

    promised: float
    thresholds: dict[str, np.ndarray]


def sure_labels(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return which labels of which clips are sure: bool (clips, classes).

    Args:
        scores: log odds, float32 (clips, classes).
        thresholds: probabilities, float32 (classes,).
    """
    from scipy.special import expit

    return expit(scores) >= thresholds


def confident_metrics(answers: "list[Answers]", sure: Sure, settings: "Evaluate") -> dict:
    """Return what sure labels are worth, those of all classes and runs together.

    That is how many classes have a threshold (the mean over runs), the share of all true labels
    that are sure (`recall`), and the precision with its interval over clips, if any label is sure.
    """
    hits, told, true = (np.zeros(1 + settings.resamples) for _ in range(3))
    for run in answers:
        counts = draw(len(run.labels), settings.resamples, [settings.seed, run.fold])
        counts = np.hstack([np.ones((len(counts), 1), np.uint8), counts])  # first all clips, once
        there, labels = sure_labels(run.scores, sure.thresholds[run.run]), run.labels > 0
        for total, of in ((hits, there & labels), (told, there), (true, labels)):
            total += of.sum(axis=1) @ counts
    labels_with = [int(np.isfinite(of).sum()) for of in sure.thresholds.values()]
    found = {
        "promised": sure.promised,
        "labels": float(np.mean(labels_with)),
        "recall": float(hits[0] / true[0]),
    }
    if told[0]:
        with np.errstate(invalid="ignore"):  # NaN for a resample without any
            precision = hits / told
        low, high = interval(float(precision[0]), precision[1:], 0.0, 1.0)
        found |= {"precision": float(precision[0]), "precision_low": low, "precision_high": high}
    return found


def sure_rows(
    names: list[str], sure: Sure, val: "list[Answers]", test: "list[Answers]"
) -> list[list]:
    """Return what each class's threshold is worth, as `SURE_HEADER`: of the first run.

    The precision's 95% interval on test is Clopper and Pearson's (1934). What a class without a
    threshold has not is empty.
    """
    from scipy.stats import beta

    thresholds = sure.thresholds[test[0].run]
    there = [sure_labels(of[0].scores, thresholds) for of in (val, test)]
    told = [of.sum(axis=0) for of in there]
    true = [of[0].labels.sum(axis=0, dtype=int) for of in (val, test)]
    hits = [
        (of & (run[0].labels > 0)).sum(axis=0) for of, run in zip(there, (val, test), strict=True)
    ]
    low = beta.ppf(0.025, hits[1], told[1] - hits[1] + 1)
    high = beta.ppf(0.975, hits[1] + 1, told[1] - hits[1])
    with np.errstate(invalid="ignore"):
        precision, recall = np.divide(hits, told), np.divide(hits, true)
    columns = zip(
        thresholds.tolist(), true[0], precision[0], recall[0], true[1], precision[1],
        np.where(hits[1] > 0, low, 0), np.where(hits[1] < told[1], high, 1), recall[1], strict=True,
    )  # fmt: skip
    return [
        [name, *("" if np.isnan(value) else value for value in row)]
        if np.isfinite(row[0])
        else [name, "", row[1], "", "", row[4], "", "", "", ""]
        for name, row in zip(names, columns, strict=True)
    ]
