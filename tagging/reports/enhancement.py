"""What label enhancement adds, and what it is worth to frequent and to rare classes.

PSLA (Gong et al., 2021, arXiv 2102.01243) adds labels that the ontology says may be missing and
that a teacher hears; its authors claim gains for rare classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from tagging.reports.differences import common_runs, compare, paired_difference
from tagging.reports.facts import Facts, Row
from tagging.scoring.metrics.mean_average_precision import average_precision
from tagging.scoring.scores import read_scores, scores_path
from tagging.scoring.tables import to_markdown

NAMES = {"val": "validation", "test": "test"}
GROUPS = ("rare", "between", "frequent")  # thirds of the classes, by clips that train


def twin(facts: Facts, student: dict[str, Any]) -> Row | None:
    """Return the model that differs from a student in its labels alone: else they are alike."""

    def settings(entry: dict[str, Any]) -> tuple:
        return (entry["architecture"], entry.get("features"), *map(entry.get, ("network", "train")))

    alike = [k for k, of in facts.params["model"].items() if settings(of) == settings(student)]
    return next((row for row in facts.entries if row.name in alike), None)


def added(facts: Facts, student: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that a student learns besides, of type I and II: bool (clips, classes)."""
    # Here, as it takes PyTorch along: other reports start at once.
    from tagging.sources.audioset.ontology import ancestor_matrix, child_matrix, read_ontology
    from tagging.learning.targets import missing, thresholds

    labels = facts.index.labels[facts.index.folds[0].train]
    teacher = read_scores(scores_path("ensembles", student["teacher"])).of_fold(0, "train")[0]
    scores, ontology = expit(teacher), read_ontology(Path(student["ontology"]))
    return missing(
        labels,
        scores > thresholds(labels, scores, student["enhance"]),
        child_matrix(ontology, facts.index.classes),
        ancestor_matrix(ontology, facts.index.classes),
    )


def by_class(facts: Facts, row: Row, runs: list[str]) -> np.ndarray:
    """Return each class's average precision on test, run by run: float64 (runs, classes)."""
    answers = {of.run: of for of in facts.answers(row, "test")}
    return np.stack([average_precision(answers[k].labels, answers[k].scores) for k in runs])


def table(facts: Facts, ours: Row, plain: Row, new: np.ndarray) -> str:
    """Return what is added and what it is worth, for thirds of the classes, as Markdown.

    Args:
        facts: of the task.
        ours: the student.
        plain: its twin.
        new: labels added to each class, (classes,).
    """
    runs = common_runs(ours, plain)
    precisions = [by_class(facts, row, runs) for row in (ours, plain)]
    train_clips = facts.index.labels[facts.index.folds[0].train].sum(axis=0, dtype=int)
    tested = np.flatnonzero(~np.isnan(precisions[0]).any(axis=0))
    rare_first = tested[np.argsort(train_clips[tested], kind="stable")]
    rows = []
    for name, classes in zip(GROUPS, np.array_split(rare_first, len(GROUPS)), strict=True):
        means = [of[:, classes].mean(axis=1) for of in precisions]
        difference = paired_difference(*(of.tolist() for of in means))
        clips = train_clips[classes]
        rows.append(
            [f"{name}: {clips.min():,} to {clips.max():,} training clips", str(len(classes)),
             f"{new[classes].sum():,}", *(f"{of.mean():.4f}" for of in means[::-1]),
             difference.text(4), difference.verdict()]
        )  # fmt: skip
    header = ["classes", "number", "labels added", plain.name, ours.name, "difference", "verdict"]
    return to_markdown(header, rows, right=1)


def section(facts: Facts) -> str:
    """Return this section of the page: a paragraph and a table for each such student."""
    labels = facts.index.labels[facts.index.folds[0].train].sum(dtype=int)
    parts = ["## What label enhancement is worth\n"]
    for row in (row for row in facts.entries if row.kind == "student"):
        student = facts.params["student"][row.name]
        if student.get("enhance") is None:
            continue
        below, above = added(facts, student)
        new = (below | above).sum(axis=0)
        text = f"""
With the teacher `{student["teacher"]}` and its thresholds (`enhance: {student["enhance"]}`),
`{row.name}` learns {new.sum():,} labels besides the {labels:,} of the training split:
{below.sum():,} kinds of a class that a clip has, {above.sum():,} classes that one is a kind of,
some of them both.
Scores are against the original labels."""
        plain = twin(facts, student)
        if plain is None:
            text += " No model is trained alike without: nothing tells what they are worth.\n"
        else:
            text += f"{worth(facts, row, plain)}\n\n{table(facts, row, plain, new)}"
        parts.append(text)
    return "".join(parts)


def worth(facts: Facts, row: Row, plain: Row) -> str:
    """Say how a student differs from its twin, run by run."""
    metric, runs = facts.metric, len(common_runs(row, plain))
    found = [(split, compare(row, plain, split, facts.task.chooses)) for split in facts.splits]
    said = [
        f"{of.text(metric.decimals)} on {NAMES[split]}, {of.verdict(metric.higher_is_better)}"
        for split, of in found
    ]
    return f"""
Less `{plain.name}`, trained alike without them, its {metric.title} is {"; ".join(said)}.
Average precision on test, by how many clips of a class train (in brackets 95% t-intervals over
{runs} runs with the same seeds):"""
