"""The evaluation of one set of answers: all scores of a split, their intervals, and the curves."""

from pathlib import Path

import numpy as np
from pydantic import Field

from tagging import metrics
from tagging.dataset import Split
from tagging.files import write_json, write_text
from tagging.parameters import Int, Section
from tagging.ranking import ndcg, precision_at_1
from tagging.scores import Scores
from tagging.tables import to_csv

CURVE_POINTS = 101  # of recall, 0 to 1, at which precision is written


class Evaluate(Section):
    """How intervals are computed."""

    resamples: Int = Field(description="a whole number of bootstrap resamples, 100 or more", ge=100)
    seed: Int = Field(description="a whole number of 0 or more", ge=0)


def mean_of_found(values: np.ndarray) -> float | None:
    """Return the mean over the labels that have a value, None if none has."""
    return None if np.isnan(values).all() else float(np.nanmean(values))


def summarize(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Return all scores of one split: means over clips, and over labels that have clips.

    Args:
        labels: 0 or 1, (clips, labels).
        scores: (clips, labels).
    """
    auc = mean_of_found(metrics.roc_auc(labels, scores))
    return {
        "ndcg": float(ndcg(labels, scores).mean()),
        "precision_at_1": float(precision_at_1(labels, scores).mean()),
        "mean_average_precision": mean_of_found(metrics.average_precision(labels, scores)),
        "roc_auc": auc,
        "d_prime": metrics.d_prime(auc),
        "lwlrap": metrics.lwlrap(labels, scores),
    }


def intervals(labels: np.ndarray, scores: np.ndarray, settings: Evaluate) -> dict[str, float]:
    """Return the ends of the 95% bootstrap intervals over clips."""
    ends = {}
    for name, of_clip in (
        ("ndcg", ndcg(labels, scores)),
        ("precision_at_1", precision_at_1(labels, scores)),
    ):
        low, high = metrics.bootstrap_interval(of_clip, settings.resamples, settings.seed)
        ends |= {f"{name}_low": low, f"{name}_high": high}
    return ends


def precision_recall(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one label's interpolated precision at evenly spaced recalls, and these recalls.

    Interpolated as in Manning, Raghavan and Schütze (2008), "Introduction to information
    retrieval", 8.4: the highest precision at that recall or more.

    Args:
        labels: 0 or 1, (clips,), at least one 1.
        scores: (clips,).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)  # recall falls from 1
    # scikit-learn ends with a point that no threshold gives: precision 1 at recall 0.
    precision, recall = precision[:-1], recall[:-1]
    highest = np.maximum.accumulate(precision)
    recalls = np.linspace(0, 1, CURVE_POINTS)
    places = np.searchsorted(-recall, -recalls, side="right") - 1
    return highest[places], recalls


def average_precision_rows(split: Split, scores: np.ndarray) -> list[list]:
    """Return each label's name, average precision and number of clips."""
    by_label = metrics.average_precision(split.labels, scores)
    clips = split.labels.sum(axis=0, dtype=int)
    names = [label.name for label in split.names]
    return [[*row] for row in zip(names, map(float, by_label), map(int, clips), strict=True)]


def write_evaluation(
    name: str, scores: Scores, splits: dict[str, Split], settings: Evaluate
) -> None:
    """Write `metrics/<name>.json` and `plots/evaluate/<name>`.

    Args:
        name: the model's, student's or ensemble's.
        scores: its outputs for the splits `val` and `test`.
        splits: these splits.
        settings: of the intervals.
    """
    result: dict = {
        part: summarize(splits[part].labels, scores.outputs[part]) for part in ("val", "test")
    }
    test, answers = splits["test"], scores.outputs["test"]
    result["test"] |= intervals(test.labels, answers, settings)
    result["parameters"] = scores.parameters

    curves = []
    for column, label in enumerate(test.names):
        if test.labels[:, column].any():
            points = precision_recall(test.labels[:, column], answers[:, column])
            curves += [[label.name, float(r), float(p)] for p, r in zip(*points, strict=True)]
    plots = Path(f"plots/evaluate/{name}")
    header = ["label", "average_precision", "test_clips"]
    write_text(
        plots / "average_precision.csv", to_csv(header, average_precision_rows(test, answers))
    )
    write_text(plots / "precision_recall.csv", to_csv(["label", "recall", "precision"], curves))
    write_json(Path(f"metrics/{name}.json"), result)
