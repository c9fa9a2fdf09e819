"""Tables for the plots of single entries: learning curves, and how good the scores of classes are.

They are in git, unlike the logs and tables of entries that they are made from, so that a clone
without a cache can draw the plots.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tagging.base.files import write_text
from tagging.data.task_folder import TaskFolder
from tagging.reports.context import ReportContext, Row, find_entry
from tagging.scoring.results import CURVE_CLASSES
from tagging.scoring.tables import read_rows, to_csv


def plotted_entries(context: ReportContext) -> list[Row]:
    """Return the entries with curves: those that `compare.plot` names, and the reference.

    Ensembles are last: they have no learning curve, and the others keep their colours without them.
    """
    names = dict.fromkeys([*context.settings.plot, context.subject.name])  # ordered, each once
    rows = [find_entry(context.entries, name, "plot") for name in names]
    return sorted(rows, key=lambda row: row.kind == "ensemble")


def read_class_scores(folder: TaskFolder, name: str) -> dict[str, dict[str, str]]:
    """Return an entry's scores of each class, by its name: columns of evaluation.CLASS_HEADER."""
    rows = read_rows(folder.entry_plots(name) / "average_precision.csv")
    return {row["label"]: row for row in rows}


def label_counts(context: ReportContext) -> list[list[Any]]:
    """Return the classes and their numbers of clips, most frequent first."""
    counts = context.index.labels.sum(axis=0, dtype=int).tolist()
    names = [label.name for label in context.index.classes]
    return sorted(map(list, zip(names, counts, strict=True)), key=lambda row: -row[1])


def learning_curves(context: ReportContext) -> list[list[Any]]:
    """Return each run's training loss and validation metric after each epoch."""
    rows, key = [], context.key
    entry_runs = [(entry.name, run) for entry in plotted_entries(context) for run in entry.runs]
    for name, run in entry_runs:
        log = context.folder.training_log(name) / run / "plots/metrics"
        if not log.is_dir():  # of an ensemble, or of a model without training
            continue
        val = log / f"val/{key}.tsv"
        values = {line["step"]: line[key] for line in (read_rows(val) if val.exists() else [])}
        for line in read_rows(log / "train/loss.tsv"):
            step, loss = line["step"], line["loss"]
            rows.append([name, run, int(step) + 1, loss, values.get(step), context.metric.title])
    return rows


def average_precisions(context: ReportContext) -> list[list[Any]]:
    """Return each entry's average precision for each class, most frequent classes first.

    The average precision of a random ranking is the share of the clips with the label.
    """
    test_clips = sum(len(fold.test) for fold in context.index.folds)
    rows = []
    for row in plotted_entries(context):
        classes = read_class_scores(context.folder, row.name)
        for label, _ in label_counts(context):
            scores, clips = classes[label], classes[label]["test_clips"]
            rows.append(
                [row.name, label, scores["average_precision"], int(clips) / test_clips, clips]
            )
    return rows


def average_precision_gains(context: ReportContext) -> list[list[Any]]:
    """Return each class's average precision, the subject's and that of the first plotted entry.

    The class with the largest gain is first; classes without test clips are left out.
    """
    name, other = context.subject.name, context.settings.plot[0]
    other_scores, rows = read_class_scores(context.folder, other), []
    for label, scores in read_class_scores(context.folder, name).items():
        if scores["average_precision"]:
            value, other_value = (
                float(row["average_precision"]) for row in (scores, other_scores[label])
            )
            gain = value - other_value
            rows.append([label, name, value, other, other_value, gain, scores["test_clips"]])
    return sorted(rows, key=lambda row: -row[5])


def precision_recall_curves(context: ReportContext) -> list[list[Any]]:
    """Return the entries' precision-recall curves of the most frequent classes."""
    labels = [label for label, _ in label_counts(context)[:CURVE_CLASSES]]
    order = {label: place for place, label in enumerate(labels)}
    rows = []
    for row in plotted_entries(context):
        points = read_rows(context.folder.entry_plots(row.name) / "precision_recall.csv")
        points = [point for point in points if point["label"] in order]
        points.sort(key=lambda point: order[point["label"]])
        rows += [
            [row.name, point["label"], point["recall"], point["precision"]] for point in points
        ]
    return rows


class Curve(NamedTuple):
    """A table of `plots/compare`."""

    name: str  # of the file
    rows: Callable[[ReportContext], list[list[Any]]]
    header: str
    per_class: bool = False  # embeddings have no scores of classes


CURVES = (
    Curve("learning_curves", learning_curves, "model run epoch train_loss val metric"),
    Curve(
        "average_precision", average_precisions,
        "model label average_precision random_ranking test_clips", per_class=True,
    ),
    Curve(
        "gain", average_precision_gains,
        "label model average_precision other other_average_precision difference test_clips",
        per_class=True,
    ),
    Curve(
        "precision_recall", precision_recall_curves, "model label recall precision", per_class=True
    ),
    Curve("label_counts", label_counts, "label clips"),
)  # fmt: skip


def write_curves(context: ReportContext, folder: Path) -> None:
    """Write the tables of the plots to CSV files in `folder`."""
    for curve in CURVES:
        if context.task.is_similarity and curve.per_class:
            continue
        rows = [[*row, context.summary["source"]] for row in curve.rows(context)]
        write_text(folder / f"{curve.name}.csv", to_csv([*curve.header.split(), "data"], rows))
