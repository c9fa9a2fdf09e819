"""Leakage in random splits: the same models with and without training clips of the same groups.

In a random split, windows of one recording, instrument or speaker are in training and test. With
groups held out, they are in one of the two.
"""

from pathlib import Path
from statistics import median

import numpy as np

from tagging.base.errors import UserError
from tagging.reports.context import ReportContext, read_json
from tagging.reports.leaderboard import metric_cell
from tagging.scoring.tables import to_markdown


def constant_metric(context: ReportContext) -> float:
    """Return the metric of the best constant scores: those of the frequency of classes."""
    labels = context.index.labels
    scores = np.tile(labels.sum(axis=0, dtype=np.float64), (len(labels), 1))
    value = context.metric.value(labels, scores)
    assert value is not None
    return value


def section(context: ReportContext) -> str:
    """Return this section of the page.

    Raises:
        UserError: if the other leaderboard is not named, missing, or has none of the entries.
    """
    if context.settings.other_leaderboard is None:
        raise UserError(
            f"{context.folder.params}: compare.other_leaderboard is missing; the section memory "
            "needs the leaderboard.json of a task with a random split"
        )
    path = Path(context.settings.other_leaderboard)
    if not path.is_file():
        raise UserError(f"compare.other_leaderboard: {path} does not exist; run dvc repro --pull")
    random_split = read_json(path).get("rows", {})
    metric, key, digits = context.metric, context.key, context.metric.decimals
    chance = next(row.test[key] for row in context.rows if row.kind == "baseline")
    floor, rows, shares = max(chance, constant_metric(context)), [], []
    for row in context.rows:
        leaky = random_split.get(row.name, {})
        if row.kind == "baseline" or leaky.get(key) is None:
            continue
        if row.kind == "published":
            rows.append([row.name, str(round(leaky[key], digits)), "", "", ""])
            continue
        loss = leaky[key] - row.test[key]
        share = "not above a constant score"
        if leaky.get(f"{key}_ci_low", leaky[key]) > floor:
            shares.append(loss / (leaky[key] - chance))
            share = f"{shares[-1]:.0%}"
        rows.append(
            [
                row.name,
                metric_cell(metric, leaky, key),
                metric_cell(metric, row.test, key),
                f"{loss:.{digits}f}",
                share,
            ]
        )
    if all(row.name not in random_split for row in context.entries):
        raise UserError(
            f"compare.other_leaderboard: {path} must have entries of this task, got "
            f"{', '.join(random_split) or 'none'}"
        )
    header = ["entry", "random split", "groups held out", "difference", "share from leakage"]
    middle = f"; the median is {median(shares):.0%}" if shares else ""
    return f"""\
## Leakage in random splits

Each entry was trained twice with the same settings: with a random split, where windows of one
recording are in training and test, and with groups (such as instruments) held out. The difference
comes from recordings and groups that the model memorized. The last column is its share of the gain
over chance ({chance:.{digits}f}) with the random split{middle}. Where the interval with the random
split reaches that of the best constant score ({floor:.{digits}f}), there is no share. Published
rows are of random splits.

{to_markdown(header, rows, right=1)}"""
