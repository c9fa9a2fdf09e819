"""Effects of label enhancement: the added labels, and their worth for frequent and rare classes.

PSLA (Gong et al., 2021, arXiv 2102.01243) adds labels that may be missing by the ontology and that
a teacher predicts; its authors claim gains for rare classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tagging.data.scores import read_train_scores
from tagging.learning.distillation import missing_labels, relabel_thresholds
from tagging.reports.context import ReportContext, Row
from tagging.reports.differences import SPLIT_NAMES, common_runs, compare_runs
from tagging.reports.significance import expected_by_chance, find_verdicts, paired_difference
from tagging.scoring.metrics.map import average_precision
from tagging.scoring.tables import to_markdown
from tagging.sources.audioset.ontology import ancestor_matrix, child_matrix, read_ontology

GROUPS = ("rare", "medium", "frequent")  # thirds of the classes, by training clips


def find_unenhanced(context: ReportContext, student: dict[str, Any]) -> Row | None:
    """Return the model with the settings of a student, but without enhanced labels."""

    def settings(entry: dict[str, Any]) -> tuple[Any, ...]:
        return (entry["architecture"], entry.get("features"), *map(entry.get, ("network", "train")))

    names = [
        name
        for name, config in context.configs["model"].items()
        if settings(config) == settings(student)
    ]
    return next((row for row in context.entries if row.name in names), None)


def added_labels(context: ReportContext, student: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that a student adds, of type I and II: bool (clips, classes) each."""
    labels = context.index.labels[context.index.folds[0].train]
    path = context.folder.scores("ensembles", student["teacher"])
    teacher = read_train_scores(path, 0)
    scores, ontology = expit(teacher), read_ontology(Path(student["ontology"]))
    return missing_labels(
        labels,
        scores > relabel_thresholds(labels, scores, student["relabel_threshold"]),
        child_matrix(ontology, context.index.classes),
        ancestor_matrix(ontology, context.index.classes),
    )


def class_precisions(context: ReportContext, row: Row, runs: list[str]) -> np.ndarray:
    """Return each class's average precision on test, run by run: float64 (runs, classes)."""
    by_run = {run.run: run for run in context.run_scores(row, "test")}
    return np.stack([average_precision(by_run[run].labels, by_run[run].scores) for run in runs])


def frequency_table(context: ReportContext, row: Row, unenhanced: Row, added: np.ndarray) -> str:
    """Return the added labels and the differences they make, for thirds of the classes.

    Args:
        context: of the task.
        row: the student.
        unenhanced: the same model without enhanced labels.
        added: labels added to each class, (classes,).
    """
    runs = common_runs(row, unenhanced)
    precisions = [class_precisions(context, entry, runs) for entry in (row, unenhanced)]
    train_clips = context.index.labels[context.index.folds[0].train].sum(axis=0, dtype=int)
    with_test_clips = np.flatnonzero(~np.isnan(precisions[0]).any(axis=0))
    rare_first = with_test_clips[np.argsort(train_clips[with_test_clips], kind="stable")]
    groups = np.array_split(rare_first, len(GROUPS))
    differences = [
        paired_difference(*(values[:, classes].mean(axis=1).tolist() for values in precisions))
        for classes in groups
    ]
    verdicts = find_verdicts([[difference] for difference in differences])
    rows = []
    for name, classes, difference, verdict in zip(
        GROUPS, groups, differences, verdicts, strict=True
    ):
        means = [values[:, classes].mean(axis=1) for values in precisions]
        clips = train_clips[classes]
        rows.append(
            [f"{name}: {clips.min():,} to {clips.max():,} training clips", str(len(classes)),
             f"{added[classes].sum():,}", *(f"{values.mean():.4f}" for values in means[::-1]),
             difference.format(4), verdict]
        )  # fmt: skip
    header = [
        "classes", "number", "labels added", unenhanced.name, row.name, "difference", "verdict",
    ]  # fmt: skip
    return to_markdown(header, rows, right=1)


def section(context: ReportContext) -> str:
    """Return this section of the page: a paragraph and a table for each student with relabeling."""
    labels = context.index.labels[context.index.folds[0].train].sum(dtype=int)
    parts = ["## Effects of label enhancement\n"]
    for row in (row for row in context.entries if row.kind == "student"):
        student = context.configs["student"][row.name]
        threshold = student.get("relabel_threshold")
        if threshold is None:
            continue
        below, above = added_labels(context, student)
        added = (below | above).sum(axis=0)
        text = f"""
With the teacher `{student["teacher"]}` and its thresholds (`relabel_threshold: {threshold}`),
`{row.name}` learns {added.sum():,} labels in addition to the {labels:,} of the training split:
{below.sum():,} subclasses of a label, {above.sum():,} superclasses of a label, some of them both.
Scores are against the original labels."""
        unenhanced = find_unenhanced(context, student)
        if unenhanced is None:
            text += " No model has the same settings without them: their effect is unknown.\n"
        else:
            text += f"{describe_effect(context, row, unenhanced)}\n\n"
            text += frequency_table(context, row, unenhanced, added)
        parts.append(text)
    return "".join(parts)


def describe_effect(context: ReportContext, row: Row, unenhanced: Row) -> str:
    """Describe the difference of a student to the same model without enhanced labels."""
    metric, runs = context.metric, len(common_runs(row, unenhanced))
    by_split = {
        split: compare_runs(row, unenhanced, split, context.key) for split in context.splits
    }
    (verdict,) = find_verdicts([list(by_split.values())], metric.higher_is_better)
    effects = [
        f"{difference.format(metric.decimals)} on {SPLIT_NAMES[split]}"
        for split, difference in by_split.items()
    ]
    return f"""
The difference to `{unenhanced.name}`, trained alike without them, in {metric.title} is
{", ".join(effects)}: {verdict}.
Average precision on test, by the number of training clips of a class (with 95% t-intervals over
{runs} runs with the same seeds; {expected_by_chance(len(GROUPS))} would be expected to exclude zero
by chance, so that gains and losses hold after Holm's correction over them, and hints do not):"""
