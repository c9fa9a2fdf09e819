"""The evaluation of one model's or ensemble's answers: metrics, their intervals, and the curves."""

from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from pydantic import Field

from tagging.base.files import write_text
from tagging.data.clips import Fold, Index, write_json
from tagging.data.task import Task
from tagging.parameters import Int, Section
from tagging.scoring.bootstrap import draw, interval, mean_over_clips
from tagging.scoring.metric import Metric, load_metric
from tagging.scoring.metrics.mean_average_precision import average_precision
from tagging.scoring.metrics.roc_auc import roc_auc
from tagging.scoring.scores import (
    Scores,
    mean_of_groups,
    resampled_path,
    scores_path,
    write_resampled,
    write_scores,
)
from tagging.scoring.sure import SURE_HEADER, Sure, confident_metrics, sure_rows
from tagging.scoring.tables import to_csv

CURVE_POINTS = 101  # of recall, 0 to 1, at which precision is written
CURVE_CLASSES = 20  # the first ones: of AudioSet the most frequent
SURELY = 30.0  # log odds
CLASS_HEADER = (
    "label", "average_precision", "average_precision_std", "roc_auc", "roc_auc_std", "test_clips",
)  # fmt: skip


class Evaluate(Section):
    """How intervals are computed."""

    resamples: Int = Field(description="a whole number of bootstrap resamples, 100 or more", ge=100)
    seed: Int = Field(description="a whole number of 0 or more", ge=0)


class Answers(NamedTuple):
    """What one run answers for a split: labels and log odds, (clips, classes) each."""

    run: str
    fold: int
    labels: np.ndarray
    scores: np.ndarray


def by_recording(index: Index) -> Index:
    """Return an index whose clips are recordings, where those of `index` are windows of them.

    A recording is in every split that has a window of it.
    """
    if index.recordings is None:
        return index
    recordings, firsts, places_of = np.unique(
        index.recordings, return_index=True, return_inverse=True
    )
    if len(recordings) == len(index.recordings):
        return index
    folds = [Fold(*(np.unique(places_of[places]) for places in fold)) for fold in index.folds]
    return Index(index.ids[firsts], index.labels[firsts], index.classes, folds)


def answers_for(scores: Scores, index: Index, split: str, pooled: bool) -> list[Answers]:
    """Return what each run answers for the clips of a split; none where a fold has none there.

    Args:
        scores: the answers for clips.
        index: the task's clips.
        split: train, val or test.
        pooled: whether windows of one recording answer together, by their mean probability.
    """
    scored = by_recording(index) if pooled else index
    found = []
    for run, fold in scores.runs.items():
        places = getattr(index.folds[fold], split)
        if len(places):
            of_run = scores.outputs[f"{run}/{split}"]
            if scored is not index:
                of_run = mean_of_groups(of_run, index.recordings[places])
            labels = scored.labels[getattr(scored.folds[fold], split)]
            found.append(Answers(run, fold, labels, of_run))
    return found


def metrics_of(task: Task) -> dict[str, Metric]:
    """Return the metrics that a task shows and chooses by, in their order."""
    return {name: load_metric(name) for name in dict.fromkeys([task.chooses, *task.shown])}


def resample(answers: list[Answers], metric: Metric, settings: Evaluate) -> np.ndarray:
    """Return a metric, the mean over runs, on each resample of the clips: float64 (resamples,).

    Runs with the same clips get the same resamples, and so do all models of a task.
    """
    by_fold: dict[int, np.ndarray] = {}
    resampled = []
    for run in answers:
        if run.fold not in by_fold:
            seed = [settings.seed, run.fold]
            by_fold[run.fold] = draw(len(run.labels), settings.resamples, seed)
        resampled.append(on_resamples(metric, run, by_fold[run.fold]))
    return np.mean(resampled, axis=0)


def limits(answers: list[Answers], metric: Metric, value: float) -> tuple[float, float]:
    """Return what a metric cannot be below and above: on its better side what is perfect gets.

    Infinite on the other side, and on both where perfect answers have no value (of d′) or a worse
    one than `value` (of a metric that is not about what is right).
    """
    labels = {run.fold: run.labels for run in answers}.values()
    perfect = [metric.value(of, np.where(of > 0, SURELY, -SURELY)) for of in labels]
    known = [of for of in perfect if of is not None]
    if not known or metric.better(value, best := mean(known)):
        return -np.inf, np.inf
    return (-np.inf, best) if metric.higher_is_better else (best, np.inf)


def on_resamples(metric: Metric, run: Answers, counts: np.ndarray) -> np.ndarray:
    """Return a metric of one run on each resample of the clips: float64 (resamples,).

    Args:
        metric: any.
        run: its answers.
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    if metric.of_clips is not None:
        return mean_over_clips(metric.of_clips(run.labels, run.scores), counts)
    if metric.resampled is not None:
        return metric.resampled(run.labels, run.scores, counts)
    resamples = (np.repeat(np.arange(len(counts)), times) for times in counts.T)
    values = [metric.value(run.labels[clips], run.scores[clips]) for clips in resamples]
    return np.array(values, np.float64)  # NaN for None


def summarize(answers: list[Answers], metrics: dict[str, Metric]) -> dict[str, dict]:
    """Return each metric: by run, and as the mean over runs that have it.

    Where there are several runs, the standard deviation over them is there too, as `<metric>_std`.
    """
    runs = {
        run.run: {name: metric.value(run.labels, run.scores) for name, metric in metrics.items()}
        for run in answers
    }
    overall: dict[str, float | None] = {}
    for name in metrics:
        values = [run[name] for run in runs.values() if run[name] is not None]
        overall[name] = mean(values) if values else None
        if len(values) > 1:
            overall[f"{name}_std"] = stdev(values)
    return {"runs": runs, "mean": overall}


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
    # scikit-learn ends with a point that no threshold gives: precision 1 at recall 0.
    precision, recall = precision[:-1], recall[:-1]
    highest = np.maximum.accumulate(precision)
    recalls = np.linspace(0, 1, CURVE_POINTS)
    places = np.searchsorted(-recall, -recalls, side="right") - 1
    return highest[places], recalls


def class_rows(answers: list[Answers], names: list[str]) -> list[list]:
    """Return how well each class is told, and its number of clips, as `CLASS_HEADER`.

    The average precision and the area under the ROC curve are means over the runs that have one,
    each with its standard deviation over them. What there is not is empty.
    """
    columns = []
    for of_classes in (average_precision, roc_auc):
        values = np.ma.masked_invalid([of_classes(run.labels, run.scores) for run in answers])
        columns += [values.mean(axis=0), values.std(axis=0, ddof=1)]
    told = np.ma.stack(columns, axis=1).astype(object).filled("").tolist()
    clips = sum({run.fold: run.labels.sum(axis=0, dtype=int) for run in answers}.values())
    return [[name, *of, n] for name, of, n in zip(names, told, clips.tolist(), strict=True)]


def precision_recall_rows(answers: list[Answers], names: list[str]) -> list[list]:
    """Return each class's name, recall and precision (the mean over runs), a row a point."""
    rows = []
    for column, name in enumerate(names):
        curves = [
            precision_recall(run.labels[:, column], run.scores[:, column])
            for run in answers
            if run.labels[:, column].any()
        ]
        if curves:
            precision = np.mean([curve for curve, _ in curves], axis=0)
            recalls = curves[0][1]
            rows += [[name, float(r), float(p)] for r, p in zip(recalls, precision, strict=True)]
    return rows


def confusion_rows(answers: list[Answers], names: list[str]) -> list[list]:
    """Return how often clips of a class are answered with another: true, answered, share, clips."""
    counts = np.zeros((len(names), len(names)), int)
    for run in answers:
        np.add.at(counts, (run.labels.argmax(axis=1), run.scores.argmax(axis=1)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        [true, answered, float(shares[i, j]), int(counts[i, j])]
        for i, true in enumerate(names)
        for j, answered in enumerate(names)
    ]


def write_evaluation(
    kind: str,
    name: str,
    scores: Scores,
    index: Index,
    task: Task,
    settings: Evaluate,
    sure: Sure | None = None,
) -> None:
    """Write the scores, those on resamples, `metrics/<name>.json` and `plots/evaluate/<name>`.

    Args:
        kind: models, students or ensembles.
        name: the entry's.
        scores: its answers for the splits `val` (where there is one) and `test`.
        index: the task's clips.
        task: what metrics there are.
        settings: of the intervals.
        sure: each run's thresholds, if there are any.
    """
    write_scores(scores_path(kind, name), scores)
    metrics = metrics_of(task)
    answers = {part: answers_for(scores, index, part, task.pooled) for part in ("val", "test")}
    test = answers["test"]
    parts = {part: summarize(of_part, metrics) for part, of_part in answers.items()}
    result: dict = {part: summary["mean"] for part, summary in parts.items() if summary["runs"]}
    for metric_name, metric in metrics.items():
        if metric.of_clips is None and metric_name != task.chooses:
            continue
        resampled = resample(test, metric, settings)
        if (value := result["test"][metric_name]) is not None:
            # Of embeddings none is known to be perfect.
            ends = limits(test, metric, value) if not task.embeds else ()
            low, high = interval(value, resampled, *ends)
            result["test"] |= {f"{metric_name}_low": low, f"{metric_name}_high": high}
        if metric_name == task.chooses:
            write_resampled(resampled_path(kind, name), resampled)
    if len(scores.runs) > 1:
        result["runs"] = {
            run: {
                part: summary["runs"][run]
                for part, summary in parts.items()
                if run in summary["runs"]
            }
            for run in scores.runs
        }
    result["parameters"] = scores.parameters

    names = [of.name for of in index.classes]
    plots = Path(f"plots/evaluate/{name}")
    if sure is not None:
        # A threshold is of clips, also where windows of a recording are scored as one.
        of_clips = [answers_for(scores, index, part, pooled=False) for part in ("val", "test")]
        result["test"]["sure"] = confident_metrics(of_clips[1], sure, settings)
        rows = sure_rows(names, sure, *of_clips)
        write_text(plots / "sure.csv", to_csv(SURE_HEADER, rows))
    write_json(Path(f"metrics/{name}.json"), result)
    if task.embeds:  # embeddings say nothing of single classes
        return
    rows = class_rows(test, names)
    write_text(plots / "average_precision.csv", to_csv(CLASS_HEADER, rows))
    header = ["label", "recall", "precision"]
    write_text(
        plots / "precision_recall.csv",
        to_csv(header, precision_recall_rows(test, names[:CURVE_CLASSES])),
    )
    if task.kind == "single_label":
        header = ["label", "answered", "share", "clips"]
        write_text(plots / "confusion.csv", to_csv(header, confusion_rows(test, names)))
