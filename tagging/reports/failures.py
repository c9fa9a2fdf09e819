"""Failed trainings: runs that score no better on test than an answer that ignores the clip."""

import math
import re

import numpy as np

from tagging.reports.context import ReportContext
from tagging.reports.page import render

FAILURES = """\
{% if failures %}\
**Failed**, no better on test than {{ constant }}: {{ failures }}. Their training \
diverged, or what it learned is of no use on these clips: their scores say little about \
architectures and features.\
{% endif %}\
"""


def constant_metrics(context: ReportContext) -> list[float]:
    """Return the metric of the best constant scores on each fold's test clips, by fold.

    These are the frequencies of the classes among the test clips themselves. Embeddings are of no
    use where neighbours are random: that is their value.
    """
    if context.task.is_similarity:
        (baseline,) = (row for row in context.rows if row.kind == "baseline")
        return [baseline.test.get(context.key, math.nan)] * len(context.index.folds)
    values = []
    for fold in context.index.folds:
        labels = context.index.labels[fold.test]
        scores = np.tile(labels.sum(axis=0, dtype=np.float64), (len(labels), 1))
        value = context.metric.value(labels, scores)
        values.append(math.nan if value is None else value)
    return values


def find_failures(context: ReportContext) -> dict[str, list[str]]:
    """Return the runs that are not above the best constant scores on their test clips, by entry.

    Entries without failed runs are left out.
    """
    constants = constant_metrics(context)
    failures: dict[str, list[str]] = {}
    for row in context.entries:
        for run, splits in row.runs.items():
            fold = re.match(r"fold(\d+)", run)
            constant = constants[int(fold[1]) if fold else 0]
            value = splits["test"].get(context.key)
            if value is None or math.isnan(constant):
                continue
            if math.isclose(value, constant) or not context.metric.is_better(value, constant):
                failures.setdefault(row.name, []).append(run)
    return failures


def describe_failures(context: ReportContext) -> str:
    """Name the entries with failed runs; empty if there are none."""
    num_runs = {row.name: len(row.runs) for row in context.entries}
    names = [
        f"`{name}`" + (f" ({len(runs)} of {num_runs[name]} runs)" if num_runs[name] > 1 else "")
        for name, runs in find_failures(context).items()
    ]
    return render(
        FAILURES,
        failures=", ".join(names),
        constant="random neighbours"
        if context.task.is_similarity
        else "the best constant scores, those of the frequency of classes",
    )
