"""Labels above the confidence threshold, and whether their precision on test is the target's."""

from typing import Any

from tagging.reports.context import ReportContext, Row
from tagging.reports.page import render
from tagging.reports.significance import LEVEL
from tagging.scoring.tables import read_rows, to_markdown

MAX_ROWS = 20  # the first classes: the most frequent ones in AudioSet
HEADER = [
    "label", "threshold", "validation clips", "precision", "recall", "test clips", "precision",
    "95% CI", "recall",
]  # fmt: skip

SECTION = """\
## Labels above the confidence threshold

The weights of `{{ entry }}` include a probability threshold for each label, chosen on validation
for a precision of {{ "{:.0%}".format(confident.target_precision) }} or more over all \
{% if recordings %}recordings (means over their windows){% else %}clips{% endif %} above it \
together: one near the threshold is right less often, and other units (a window, the maximum of
several) have no such promise. {{ with_threshold }} of {{ labels }} labels have a threshold\
{% if "precision" in confident %}.
On test, labels above the threshold have a precision of {{ "{:.1%}".format(confident.precision) }}
(95% CI {{ "{:.1%} to {:.1%}".format(confident.precision_ci_low, confident.precision_ci_high) }}) \
and a recall of {{ "{:.1%}".format(confident.recall) }}. {{ below }} \
below the target (first run, exact intervals), where {{ "{:.2g}".format(by_chance) }} of \
{{ with_threshold }} would be expected by chance if each had the target precision\
{% endif %}
.
A label has no threshold if too few of its clips validate, or no threshold reaches the target.

{{ table }}"""


def select_entry_with(key: str, context: ReportContext) -> Row | None:
    """Return the best entry on validation of those with this key in the test's evaluation."""
    best = None
    for row in context.entries:
        if key in row.test and (
            best is None or context.metric.is_better(row.val[context.key], best.val[context.key])
        ):
            best = row
    return best


def _cells(row: dict[str, str]) -> list[str]:
    """Return a class's cells in the table."""

    def number(key: str) -> str:
        return f"{float(row[key]):.2f}" if row[key] else ""

    interval = (
        f"{number('precision_ci_low')} to {number('precision_ci_high')}" if row["threshold"] else ""
    )
    return [
        row["label"], f"{float(row['threshold']):.3f}" if row["threshold"] else "",
        f"{int(row['val_clips']):,}", number("val_precision"), number("val_recall"),
        f"{int(row['test_clips']):,}", number("precision"), interval, number("recall"),
    ]  # fmt: skip


def section(context: ReportContext) -> str:
    """Return this section of the page; empty where no entry has thresholds."""
    entry = select_entry_with("confident", context)
    if entry is None:
        return ""
    confident: dict[str, Any] = entry.test["confident"]
    rows = read_rows(context.folder.entry_plots(entry.name) / "confident_labels.csv")
    with_threshold = [row for row in rows if row["threshold"]]
    target = confident["target_precision"]
    below = sum(float(row["precision_ci_high"]) < target for row in with_threshold)
    return render(
        SECTION,
        entry=entry.name,
        confident=confident,
        recordings=context.index is not context.windows,
        with_threshold=len(with_threshold),
        labels=len(rows),
        below={0: "No label has its interval", 1: "1 label has its interval"}.get(
            below, f"{below} labels have their interval"
        ),
        by_chance=LEVEL / 2 * len(with_threshold),  # at one end of the interval
        table=to_markdown(HEADER, map(_cells, rows[:MAX_ROWS]), right=1),
    )
