"""Failed trainings: runs that score no better on test than an answer that ignores the clip."""

import math
import re

import numpy as np

from tagging.reports.context import ReportContext, Row
from tagging.reports.page import render

FAILURES = """\
{% if failures %}\
**Failed**, no better on test than {{ constant }}: {{ failures }}. The training of these runs \
diverged or learned nothing; their scores say nothing about their architecture or features.\
{% endif %}\
"""


def constant_metrics(context: ReportContext) -> list[float]:
    """Return the metric of the best constant scores on each fold's test clips, by fold.

    These are the frequencies of the classes among the test clips themselves. Embeddings are of no
    use where neighbours are random: that is their value.
    """
    if context.task.is_similarity:
        (baseline,) = (row for row in context.rows if row.kind == "baseline")
        return [baseline.test[context.key]] * len(context.index.folds)
    values = []
    for fold in context.index.folds:
        labels = context.index.labels[fold.test]
        scores = np.tile(labels.sum(axis=0, dtype=np.float64), (len(labels), 1))
        value = context.metric.value(labels, scores)
        values.append(math.nan if value is None else value)
    return values


def failed_runs(context: ReportContext, row: Row) -> list[str]:
    """Return an entry's runs that are not above the best constant scores on their test clips."""
    constants, failed = constant_metrics(context), []
    for run, splits in row.runs.items():
        fold = re.match(r"fold(\d+)", run)
        constant = constants[int(fold[1]) if fold else 0]
        value = splits["test"].get(context.key)
        if value is None or math.isnan(constant):
            continue
        if math.isclose(value, constant) or not context.metric.is_better(value, constant):
            failed.append(run)
    return failed


def describe_failures(context: ReportContext) -> str:
    """Name the entries with failed runs; empty if there are none."""
    failures = []
    for row in context.entries:
        if failed := failed_runs(context, row):
            runs = "" if len(row.runs) == 1 else f" ({len(failed)} of {len(row.runs)} runs)"
            failures.append(f"`{row.name}`{runs}")
    return render(
        FAILURES,
        failures=", ".join(failures),
        constant="random neighbours"
        if context.task.is_similarity
        else "the best constant scores, those of the frequency of classes",
    )
