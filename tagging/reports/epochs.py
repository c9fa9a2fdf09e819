"""Optimistic bias of selecting the epoch on the test clips, as published code often does.

Models that keep the weights of their last epochs (`train.save_last_epochs`) are scored on test
after each of these epochs.
"""

import numpy as np

from tagging.data.scores import read_scores
from tagging.reports.context import ReportContext, Row
from tagging.scoring.evaluation import scores_by_run
from tagging.scoring.tables import to_markdown


def metric_by_epoch(context: ReportContext, row: Row) -> np.ndarray:
    """Return the metric on test after each of the kept epochs: float64 (runs, epochs).

    The last epoch is the last column; there are no columns where no epoch is kept.
    """
    scores = read_scores(context.folder.scores(row.section, row.name))
    epochs = sorted({int(name.partition("@")[2]) for name in scores.outputs if "@" in name})
    values = np.empty((len(scores.runs), len(epochs)))
    for column, epoch in enumerate(epochs):
        outputs = {f"{run}/test": scores.outputs[f"{run}/test@{epoch}"] for run in scores.runs}
        epoch_scores = scores._replace(outputs=outputs)
        runs = scores_by_run(epoch_scores, context.windows, "test", context.task)
        values[:, column] = [context.metric.value(run.labels, run.scores) for run in runs]
    return values


def section(context: ReportContext) -> str:
    """Return this section of the page: a row for each model that keeps several epochs."""
    metric, rows = context.metric, []
    sign = 1 if metric.higher_is_better else -1
    for row in (row for row in context.entries if row.kind != "ensemble"):
        values = metric_by_epoch(context, row)
        if values.shape[1] < 2:
            continue
        best = sign * (sign * values).max(axis=1)  # of each run
        best_for_all = sign * (sign * values.mean(axis=0)).max()
        bias = sign * (best - values[:, -1])
        numbers = [values[:, -1].mean(), best_for_all, best.mean(), bias.mean()]
        texts = [f"{number:.{metric.decimals}f}" for number in numbers]
        if len(bias) > 1:
            texts[-1] += f" ± {bias.std(ddof=1):.{metric.decimals}f}"
        rows.append([row.name, str(values.shape[1]), *texts])
    if not rows:
        return ""
    header = ["entry", "epochs", "last epoch", "best epoch of all runs", "best epoch of each run",
              "optimistic bias"]  # fmt: skip
    return f"""\
## Bias of selecting the epoch on the test set

Published code often reports the best epoch on the test clips. Here the last epoch counts. The table
has the {metric.title} on test, the mean over runs, of the last epoch, and if the best of the last
epochs were selected on test: once for all runs, or for each run. The optimistic bias is that of the
latter, mean ± standard deviation over runs.

{to_markdown(header, rows, right=1)}"""
