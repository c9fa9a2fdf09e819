"""Statistics of an entry's scores: metrics over runs, their intervals, and values of each class."""

from statistics import mean, stdev
from typing import Any

import numpy as np

from tagging.data.clips import Fold, Index
from tagging.data.scores import RunScores, Scores, mean_probability_by_group
from tagging.data.task import Task
from tagging.learning.metric import Metric
from tagging.scoring.bootstrap import Evaluate, draw_resamples, mean_over_clips
from tagging.scoring.metrics.map import average_precision
from tagging.scoring.metrics.roc_auc import roc_auc

CURVE_POINTS = 101  # recalls from 0 to 1 of a precision-recall curve
CERTAIN = 30.0  # logit of a perfect prediction
CLASS_HEADER = (
    "label", "average_precision", "average_precision_std", "roc_auc", "roc_auc_std", "test_clips",
)  # fmt: skip
CURVE_HEADER = ("label", "recall", "precision")
CONFUSION_HEADER = ("label", "predicted", "share", "clips")


def aggregate_index(index: Index, task: Task) -> Index:
    """Return an index whose clips are what the task scores: recordings, or their windows.

    A recording is in every split that has a window of it.
    """
    if task.aggregate is None or index.recordings is None:
        return index
    recordings, firsts, recording_of_clip = np.unique(
        index.recordings, return_index=True, return_inverse=True
    )
    if len(recordings) == len(index.recordings):
        return index
    folds = [Fold(*(np.unique(recording_of_clip[clips]) for clips in fold)) for fold in index.folds]
    return Index(index.ids[firsts], index.labels[firsts], index.classes, folds)


def scores_by_run(scores: Scores, index: Index, split: str, task: Task) -> list[RunScores]:
    """Return each run's labels and scores for a split, without folds that have no clips in it.

    Args:
        scores: of clips, which may be windows of recordings.
        index: the task's clips.
        split: train, val or test.
        task: its `aggregate` says whether windows of a recording count as one clip, with the mean
            of their probabilities.
    """
    scored = aggregate_index(index, task)
    runs = []
    for run, fold in scores.runs.items():
        clips = getattr(index.folds[fold], split)
        if len(clips):
            outputs = scores.outputs[f"{run}/{split}"]
            if scored is not index and index.recordings is not None:
                outputs = mean_probability_by_group(outputs, index.recordings[clips])
            labels = scored.labels[getattr(scored.folds[fold], split)]
            runs.append(RunScores(run, fold, labels, outputs))
    return runs


def resample_metric(runs: list[RunScores], metric: Metric, settings: Evaluate) -> np.ndarray:
    """Return a metric, the mean over runs, on each resample of the clips: float64 (resamples,).

    Runs with the same clips get the same resamples, and so do all entries of a task.
    """
    fold_counts: dict[int, np.ndarray] = {}
    resampled = []
    for run in runs:
        if run.fold not in fold_counts:
            seed = [settings.seed, run.fold]
            fold_counts[run.fold] = draw_resamples(len(run.labels), settings.resamples, seed)
        resampled.append(resample_run(metric, run, fold_counts[run.fold]))
    return np.mean(resampled, axis=0)


def resample_run(metric: Metric, run: RunScores, counts: np.ndarray) -> np.ndarray:
    """Return a metric of one run on each resample of the clips: float64 (resamples,).

    Args:
        metric: any.
        run: labels and scores.
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    if metric.per_clip is not None:
        return mean_over_clips(metric.per_clip(run.labels, run.scores), counts)
    if metric.resampled is not None:
        return metric.resampled(run.labels, run.scores, counts)
    resamples = (np.repeat(np.arange(len(counts)), times) for times in counts.T)
    values = [metric.value(run.labels[clips], run.scores[clips]) for clips in resamples]
    return np.array(values, np.float64)  # None becomes NaN


def metric_bounds(runs: list[RunScores], metric: Metric, value: float) -> tuple[float, float]:
    """Return the lowest and the highest possible value: the better end is that of perfect scores.

    The worse end is infinite. Both are where perfect scores have no value (of d′) or a worse one
    than `value` (of a metric that does not measure correctness).
    """
    fold_labels = {run.fold: run.labels for run in runs}.values()
    perfect = [
        metric.value(labels, np.where(labels > 0, CERTAIN, -CERTAIN)) for labels in fold_labels
    ]
    known = [bound for bound in perfect if bound is not None]
    if not known or metric.is_better(value, best := mean(known)):
        return -np.inf, np.inf
    return (-np.inf, best) if metric.higher_is_better else (best, np.inf)


def summarize_runs(runs: list[RunScores], metrics: dict[str, Metric]) -> dict[str, dict[str, Any]]:
    """Return each metric for each run (`runs`), and its mean over the runs with a value (`mean`).

    With several runs, `<metric>_std` is the standard deviation over them.
    """
    values_by_run = {
        run.run: {key: metric.value(run.labels, run.scores) for key, metric in metrics.items()}
        for run in runs
    }
    overall: dict[str, float | None] = {}
    for key in metrics:
        values = [v for run in values_by_run.values() if (v := run[key]) is not None]
        overall[key] = mean(values) if values else None
        if len(values) > 1:
            overall[f"{key}_std"] = stdev(values)
    return {"runs": values_by_run, "mean": overall}


def precision_recall(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return one class's interpolated precision at evenly spaced recalls, and these recalls.

    Interpolated as in Manning, Raghavan and Schütze (2008), "Introduction to information
    retrieval", 8.4: the highest precision at that recall or more.

    Args:
        labels: 0 or 1, (clips,), at least one 1.
        scores: (clips,).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)  # recall falls from 1
    # scikit-learn appends a point that no threshold reaches: precision 1 at recall 0.
    precision, recall = precision[:-1], recall[:-1]
    highest = np.maximum.accumulate(precision)
    recalls = np.linspace(0, 1, CURVE_POINTS)
    places = np.searchsorted(-recall, -recalls, side="right") - 1
    return highest[places], recalls


def class_rows(runs: list[RunScores], class_names: list[str]) -> list[list[Any]]:
    """Return each class's average precision, ROC AUC and test clips, as `CLASS_HEADER`.

    Values are means over the runs that have one, each with its standard deviation over them.
    Missing values are empty.
    """
    columns = []
    for per_class in (average_precision, roc_auc):
        values = np.ma.masked_invalid([per_class(run.labels, run.scores) for run in runs])
        columns += [values.mean(axis=0), values.std(axis=0, ddof=1)]
    stacked: Any = np.ma.stack(columns, axis=1).astype(object)
    cells = stacked.filled("").tolist()
    fold_clips = {run.fold: run.labels.sum(axis=0, dtype=int) for run in runs}
    clips = np.sum([*fold_clips.values()], axis=0).tolist()
    return [
        [name, *values, number]
        for name, values, number in zip(class_names, cells, clips, strict=True)
    ]


def precision_recall_rows(runs: list[RunScores], class_names: list[str]) -> list[list[Any]]:
    """Return the points of each class's curve, the mean precision over runs, as `CURVE_HEADER`."""
    rows = []
    for column, name in enumerate(class_names):
        curves = [
            precision_recall(run.labels[:, column], run.scores[:, column])
            for run in runs
            if run.labels[:, column].any()
        ]
        if curves:
            precisions = np.mean([curve for curve, _ in curves], axis=0).tolist()
            recalls = curves[0][1].tolist()
            rows += [[name, *point] for point in zip(recalls, precisions, strict=True)]
    return rows


def confusion_rows(runs: list[RunScores], class_names: list[str]) -> list[list[Any]]:
    """Return the confusion matrix, one cell a row, as `CONFUSION_HEADER`."""
    counts = np.zeros((len(class_names), len(class_names)), int)
    for run in runs:
        np.add.at(counts, (run.labels.argmax(axis=1), run.scores.argmax(axis=1)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        [true, predicted, float(shares[i, j]), int(counts[i, j])]
        for i, true in enumerate(class_names)
        for j, predicted in enumerate(class_names)
    ]
