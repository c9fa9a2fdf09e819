"""From which probability on a label is sure, and whether the promised precision holds on test."""

from pathlib import Path
from typing import Any

from tagging.reports.facts import Facts, Row
from tagging.scoring.tables import read_rows, to_markdown

SHOWN = 20  # the first classes: of AudioSet the most frequent
HEADER = [
    "label", "from", "validation clips", "precision", "recall", "test clips", "precision", "95%",
    "recall",
]  # fmt: skip


def with_thresholds(facts: Facts) -> Row | None:
    """Return the chosen entry, or the best on validation that has weights, and thresholds."""
    name, best = facts.task.chooses, None
    for row in facts.entries:
        better = best is None or facts.metric.better(row.val[name], best.val[name])
        if "sure" in row.test and better:
            best = row
    return best


def cells(row: dict[str, str]) -> list[str]:
    """Return a class as the table shows it."""

    def number(key: str) -> str:
        return f"{float(row[key]):.2f}" if row[key] else ""

    interval = (
        f"{number('precision_low')} to {number('precision_high')}" if row["threshold"] else ""
    )
    return [
        row["label"], f"{float(row['threshold']):.3f}" if row["threshold"] else "",
        f"{int(row['val_clips']):,}", number("val_precision"), number("val_recall"),
        f"{int(row['test_clips']):,}", number("precision"), interval, number("recall"),
    ]  # fmt: skip


def section(facts: Facts) -> str:
    """Return this section of the page; nothing where no entry has thresholds."""
    entry = with_thresholds(facts)
    if entry is None:
        return ""
    sure: Any = entry.test["sure"]
    rows = read_rows(Path(f"plots/evaluate/{entry.name}/sure.csv"))
    judged = [row for row in rows if row["threshold"]]
    below = sum(float(row["precision_high"]) < sure["promised"] for row in judged)
    text = f"""\
## Which labels are sure

The weights of `{entry.name}` keep thresholds, chosen on validation: labels that are as probable are
sure, right {sure["promised"]:.0%} of the time or more. There is a threshold for
{len(judged)} of {len(rows)} labels"""
    if "precision" in sure:
        low, high = sure["precision_low"], sure["precision_high"]
        labels = {0: "no label", 1: "1 label"}.get(below, f"{below} labels")
        text += f""". On test, sure labels are right {sure["precision"]:.1%} of the time
(95% interval {low:.1%} to {high:.1%}), and are {sure["recall"]:.1%} of all true labels; with
{labels} it is surely less often than promised (of the first run, exact intervals)"""
    return f"""\
{text}. Labels without have too few clips that validate, or no threshold keeps it.

{to_markdown(HEADER, map(cells, rows[:SHOWN]), right=1)}"""
