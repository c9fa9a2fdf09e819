"""Leakage in random splits: the same models with and without training clips of the same groups.

In a random split, windows of one recording, instrument or speaker are in training and test. With
groups held out, they are in one of the two.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from tagging.base.errors import UserError
from tagging.reports.context import ReportContext, read_json
from tagging.reports.failures import constant_metrics, find_failures
from tagging.reports.leaderboard import metric_cell
from tagging.reports.page import render
from tagging.scoring.tables import to_markdown

SECTION = """\
## Leakage in random splits

Each entry was trained twice with the same settings: with a random split, where windows of one \
recording are in training and test, and with groups (such as instruments) held out. What the \
model remembers of recordings and groups is at most the difference: held-out groups also differ \
from those of training in instruments and recording conditions. The last column is its share of \
the gain over chance ({{ chance }}) with the random split\
{% if median %}; the median is at most {{ median }}{% endif %}. \
Failed entries have no share: on one side, a run is not above the best constant scores on its test \
clips, or the interval reaches their mean over folds ({{ floor }}).\
{% if has_published %} Published rows are left out, as the split that they are of is not \
stated.{% endif %}


{{ table }}"""


def is_failed(scores: Mapping[str, Any], key: str, floor: float) -> bool:
    """Return whether an entry has failed runs or an interval that reaches constant scores.

    Args:
        scores: a row of leaderboard.json.
        key: of the metric.
        floor: the metric of constant scores.
    """
    return scores.get("failed_runs", 0) > 0 or scores.get(f"{key}_ci_low", scores[key]) <= floor


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
    floor, rows, shares = max(chance, mean(constant_metrics(context))), [], []
    failures = find_failures(context)
    for row in context.rows:
        leaky = random_split.get(row.name, {})
        if row.kind in ("baseline", "published") or leaky.get(key) is None:
            continue
        held_out = {**row.test, "failed_runs": len(failures.get(row.name, []))}
        sides = {"random split": leaky, "groups held out": held_out}
        failed = [side for side, scores in sides.items() if is_failed(scores, key, floor)]
        difference, share = "", f"failed: {', '.join(failed)}"
        if not failed:
            difference = f"{leaky[key] - row.test[key]:.{digits}f}"
            shares.append((leaky[key] - row.test[key]) / (leaky[key] - chance))
            share = f"{shares[-1]:.0%}"
        cells = [metric_cell(metric, scores, key) for scores in sides.values()]
        rows.append([row.name, *cells, difference, share])
    if all(row.name not in random_split for row in context.entries):
        raise UserError(
            f"compare.other_leaderboard: {path} must have entries of this task, got "
            f"{', '.join(random_split) or 'none'}"
        )
    header = ["entry", "random split", "groups held out", "difference", "at most from leakage"]
    return render(
        SECTION,
        chance=f"{chance:.{digits}f}",
        median=f"{median(shares):.0%}" if shares else "",
        floor=f"{floor:.{digits}f}",
        has_published=any(row.kind == "published" for row in context.rows),
        table=to_markdown(header, rows, right=1),
    )
