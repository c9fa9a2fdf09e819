"""By how much choosing the epoch on the test clips flatters, as published code often does.

Of models whose last epochs' weights are kept (`train.checkpoints`), each epoch is scored on test.
"""

import numpy as np

from tagging.reports.facts import Facts, Row
from tagging.scoring.evaluation import answers_for
from tagging.scoring.scores import read_scores, scores_path
from tagging.scoring.tables import to_markdown


def by_epoch(facts: Facts, row: Row) -> np.ndarray:
    """Return the metric on test after each of the epochs that are kept: float64 (runs, epochs).

    The last epoch is the last column; there are no columns where no epoch is kept.
    """
    scores = read_scores(scores_path(f"{row.kind}s", row.name))
    epochs = sorted({int(name.partition("@")[2]) for name in scores.outputs if "@" in name})
    values = np.empty((len(scores.runs), len(epochs)))
    for column, epoch in enumerate(epochs):
        outputs = {f"{run}/test": scores.outputs[f"{run}/test@{epoch}"] for run in scores.runs}
        then = scores._replace(outputs=outputs)
        answers = answers_for(then, facts.windows, "test", facts.task.pooled)
        values[:, column] = [facts.metric.value(of.labels, of.scores) for of in answers]
    return values


def section(facts: Facts) -> str:
    """Return this section of the page: a row for each model whose epochs are kept."""
    metric, rows = facts.metric, []
    for row in (row for row in facts.entries if row.kind != "ensemble"):
        values = by_epoch(facts, row)
        if values.shape[1] < 2:
            continue
        sign = 1 if metric.higher_is_better else -1
        best = sign * (sign * values).max(axis=1)  # each run's own
        together = sign * (sign * values.mean(axis=0)).max()
        gain = sign * (best - values[:, -1])
        numbers = [values[:, -1].mean(), together, best.mean(), gain.mean()]
        texts = [f"{of:.{metric.decimals}f}" for of in numbers]
        if len(gain) > 1:
            texts[-1] += f" ± {gain.std(ddof=1):.{metric.decimals}f}"
        rows.append([row.name, str(values.shape[1]), *texts])
    if not rows:
        return ""
    header = ["entry", "epochs looked at", "the last", "the best of all runs together",
              "each run's best", "flatters by"]  # fmt: skip
    return f"""\
## What choosing the epoch on test would add

Published code often reports the best epoch on the clips that test. Here the last epoch counts,
whatever it is. The {metric.title} on test, the mean over runs, if the best of the last epochs were
chosen on test itself, once for all runs or for each run; and what the latter adds, mean ± standard
deviation over runs.

{to_markdown(header, rows, right=1)}"""
