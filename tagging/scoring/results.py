"""Files of an entry's evaluation: scores, metrics, and tables for plots."""

from typing import Any

from tagging.base.files import write_text
from tagging.data.clips import Index, write_json
from tagging.data.scores import RunScores, Scores, write_resampled, write_scores
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.metric import load_metrics
from tagging.scoring.bootstrap import Evaluate, confidence_interval
from tagging.scoring.calibration import (
    CALIBRATION_HEADER,
    calibration_metrics,
    calibration_rows,
)
from tagging.scoring.confident import (
    CONFIDENT_HEADER,
    RunConfidence,
    confident_metrics,
    confident_rows,
    label_thresholds,
)
from tagging.scoring.evaluation import (
    CLASS_HEADER,
    CONFUSION_HEADER,
    CURVE_HEADER,
    class_rows,
    confusion_rows,
    metric_bounds,
    precision_recall_rows,
    resample_metric,
    scores_by_run,
    summarize_runs,
)
from tagging.scoring.tables import to_csv

CURVE_CLASSES = 20  # the first classes: the most frequent ones in AudioSet
HEADLINE_DECIMALS = 4  # intervals are wider than the next digit


def write_evaluation(
    folder: TaskFolder,
    section: str,
    name: str,
    scores: Scores,
    index: Index,
    task: Task,
    settings: Evaluate,
    confidence: RunConfidence | None = None,
) -> None:
    """Write an entry's scores, evaluation, headline metrics and tables for plots.

    Args:
        folder: of the task.
        section: models, students or ensembles.
        name: of the entry.
        scores: for the splits `val` (if there is one) and `test`.
        index: the task's clips.
        task: with the metrics.
        settings: of the intervals.
        confidence: thresholds and calibrated scores, if the entry has them.
    """
    write_scores(folder.scores(section, name), scores)
    metrics = load_metrics(task)
    selection = task.selection_metric.key
    splits = {split: scores_by_run(scores, index, split, task) for split in ("val", "test")}
    summaries = {split: summarize_runs(runs, metrics) for split, runs in splits.items()}
    result: dict[str, Any] = {
        split: summary["mean"] for split, summary in summaries.items() if summary["runs"]
    }
    for key, metric in metrics.items():
        if metric.per_clip is None and key != selection:
            continue
        resampled = resample_metric(splits["test"], metric, settings)
        if (value := result["test"][key]) is not None:
            # No embeddings are known to be perfect.
            bounds = () if task.is_similarity else metric_bounds(splits["test"], metric, value)
            low, high = confidence_interval(value, resampled, *bounds)
            result["test"] |= {f"{key}_ci_low": low, f"{key}_ci_high": high}
        if key == selection:
            write_resampled(folder.resampled(section, name), resampled)
    if len(scores.runs) > 1:
        result["runs"] = {
            run: {
                split: summary["runs"][run]
                for split, summary in summaries.items()
                if run in summary["runs"]
            }
            for run in scores.runs
        }
    result["parameters"] = scores.parameters

    plots = folder.entry_plots(name)
    class_names = [label.name for label in index.classes]
    if confidence is not None:
        thresholds, val, test, is_calibrated = confidence
        result["test"]["confident"] = confident_metrics(test, thresholds, settings)
        result["thresholds"] = label_thresholds(thresholds, class_names)
        rows = confident_rows(class_names, thresholds, val, test)
        write_text(plots / "confident_labels.csv", to_csv(CONFIDENT_HEADER, rows))
        if is_calibrated:
            single_label = task.type == "single_label"
            result["test"]["calibration"] = calibration_metrics(
                splits["test"], test, single_label, settings
            )
            rows = calibration_rows(splits["test"], test, single_label)
            write_text(plots / "calibration.csv", to_csv(CALIBRATION_HEADER, rows))
    write_json(folder.evaluation(name), result)
    write_json(folder.metrics(name), headline_metrics(result, task))
    plots.mkdir(parents=True, exist_ok=True)  # a stage's output must exist, if only empty
    if not task.is_similarity:  # embeddings have no scores of single classes
        _write_class_tables(folder, name, splits["test"], class_names, task)


def headline_metrics(evaluation: dict[str, Any], task: Task) -> dict[str, dict[str, float]]:
    """Return the metrics that DVC shows and compares: rounded, without undefined ones."""
    keys = [metric.key for metric in task.metrics]
    return {
        split: {
            key: round(evaluation[split][key], HEADLINE_DECIMALS)
            for key in keys
            if evaluation[split][key] is not None
        }
        for split in ("val", "test")
        if split in evaluation
    }


def _write_class_tables(
    folder: TaskFolder, name: str, test: list[RunScores], class_names: list[str], task: Task
) -> None:
    tables = {
        "average_precision": (CLASS_HEADER, class_rows(test, class_names)),
        "precision_recall": (
            CURVE_HEADER,
            precision_recall_rows(test, class_names[:CURVE_CLASSES]),
        ),
    }
    if task.type == "single_label":
        tables["confusion"] = (CONFUSION_HEADER, confusion_rows(test, class_names))
    for table, (header, rows) in tables.items():
        write_text(folder.entry_plots(name) / f"{table}.csv", to_csv(header, rows))
