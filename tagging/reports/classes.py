"""Easy and hard classes, for the reference and another entry."""

import math
from typing import Any

from tagging.base.files import write_text
from tagging.reports.charts import apply_theme, render_svg
from tagging.reports.context import ReportContext, Row
from tagging.reports.curves import read_class_scores
from tagging.scoring.tables import to_csv, to_markdown

VALUES = ("average_precision", "average_precision_std", "roc_auc", "roc_auc_std")
MAX_ROWS = 10  # of the best and of the worst classes; fewer classes are all in one table
MAX_NAMED = 5  # of the classes with the largest gains and of those with the largest losses
SIZE = 560  # pixels of the chart
LINE_HEIGHT = 13 / SIZE  # of a name, in average precision

ClassValues = dict[str, list[float]]  # `VALUES` of each class, NaN if missing


def select_other_entry(context: ReportContext) -> tuple[Row, str] | None:
    """Return the entry to compare the subject with, and the reason; None if there is no other.

    It is the worst entry on validation; without validation, the first plotted one, or else the
    first of all.
    """
    others = [row for row in context.entries if row.name != context.subject.name]
    if not others:
        return None
    if context.has_validation:
        key, sign = context.key, 1 if context.metric.higher_is_better else -1
        worst = min(others, key=lambda row: sign * row.val.get(key, row.test[key]))
        return worst, "the worst of the other entries on validation"
    for name in context.settings.plot:
        for row in others:
            if row.name == name:
                return row, "the first other entry of `compare.plot`"
    return others[0], "the first of the other entries"


def _value_cell(mean: float, std: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" if math.isnan(std) else f"{mean:.3f} ± {std:.3f}"


def class_table(
    values: ClassValues, other: str, other_values: ClassValues, clips: dict[str, int]
) -> str:
    """Return all classes, best first, or the best next to the worst ones, as Markdown.

    Args:
        values: of the subject.
        other: the name of the other entry.
        other_values: of the other entry.
        clips: the number of test clips of each class.
    """
    best_first = sorted(values, key=lambda name: -values[name][0])
    if len(best_first) <= 2 * MAX_ROWS:
        rows = [
            [name, f"{clips[name]:,}"]
            + [
                _value_cell(*entry[name][column : column + 2])
                for entry in (values, other_values)
                for column in (0, 2)
            ]
            for name in best_first
        ]
        header = ["class", "test clips", "AP", "ROC AUC", f"AP of {other}", f"ROC AUC of {other}"]
        return to_markdown(header, rows, right=1)

    def cells(name: str) -> list[str]:
        return [
            name, f"{values[name][0]:.3f}", f"{other_values[name][0]:.3f}", f"{clips[name]:,}"
        ]  # fmt: skip

    pairs = zip(best_first[:MAX_ROWS], best_first[::-1][:MAX_ROWS], strict=True)
    header = ["AP", f"AP of {other}", "test clips"]
    lines = to_markdown(
        ["best", *header, "worst", *header],
        [cells(best) + cells(worst) for best, worst in pairs],
        right=1,
    ).split("\n")
    lines[1] = "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |"  # names are left-aligned
    return "\n".join(lines)


def place_names(rows: list[dict[str, Any]]) -> None:
    """Add names to the classes with the largest gains and losses, and places without overlaps."""
    rows.sort(key=lambda row: row["value"] - row["other"])
    named = rows if len(rows) <= 2 * MAX_NAMED else rows[:MAX_NAMED] + rows[-MAX_NAMED:]
    placed: list[dict[str, Any]] = []
    for row in sorted(named, key=lambda row: row["value"]):
        row["name"], row["name_place"] = row["class"], row["value"]
        near = [other["name_place"] for other in placed if abs(other["other"] - row["other"]) < 0.4]
        while any(abs(row["name_place"] - place) < LINE_HEIGHT for place in near):
            row["name_place"] += LINE_HEIGHT / 4
        placed.append(row)


def class_chart(rows: list[dict[str, Any]], subject: str, other: str) -> dict[str, Any]:
    """Return a Vega-Lite chart of each class: one entry's average precision against another's."""

    def axis(field: str, entry: str) -> dict[str, Any]:
        title = f"average precision of {entry}"
        return {"field": field, "type": "quantitative", "title": title, "scale": {"domain": [0, 1]}}

    place_names(rows)
    position = {"x": axis("other", other), "y": axis("value", subject)}
    color = {
        "field": "clips",
        "type": "quantitative",
        "title": "test clips",
        "scale": {"type": "log", "scheme": "viridis", "reverse": True},
    }
    text = {"type": "text", "align": "left", "baseline": "middle", "dx": 12, "fontSize": 11}
    name_y = {"field": "name_place", "type": "quantitative"}
    name = {**position, "y": name_y, "text": {"field": "name"}}
    to_name = {**position, "x2": {"field": "other"}, "y2": {"field": "name_place"}}
    diagonal = {"values": [{"other": 0, "value": 0}, {"other": 1, "value": 1}]}
    named = [{"filter": "isValid(datum.name)"}]
    line = {"type": "rule", "color": "#999", "x2Offset": 10}
    layers = [
        {"data": diagonal, "mark": {"type": "line", "color": "gray"}, "encoding": position},
        {"mark": {**text, "stroke": "white", "strokeWidth": 3}, "encoding": name},
        {"transform": named, "mark": line, "encoding": to_name},
        {"mark": {"type": "circle", "size": 36}, "encoding": {**position, "color": color}},
        {"mark": text, "encoding": name},
    ]
    title = f"Each class: {subject} against {other}"
    return {
        "data": {"values": rows}, "title": title, "width": SIZE, "height": SIZE, "layer": layers,
    }  # fmt: skip


def section(context: ReportContext) -> str:
    """Return this section of the page, and write its chart and table."""
    subject = context.subject.name
    class_scores = {
        row.name: read_class_scores(context.folder, row.name) for row in context.entries
    }
    clips = {label: int(row["test_clips"]) for label, row in class_scores[subject].items()}
    table_rows = [
        [label, number, name, *(entry[label][key] for key in VALUES)]
        for label, number in clips.items()
        for name, entry in class_scores.items()
    ]
    table_path = context.folder.comparison_plots / "per_class.csv"
    write_text(table_path, to_csv(["label", "test_clips", "entry", *VALUES], table_rows))

    def read_values(name: str) -> ClassValues:
        return {
            label: [float(row[key] or "nan") for key in VALUES]
            for label, row in class_scores[name].items()
        }

    values = {label: row for label, row in read_values(subject).items() if clips[label]}
    if (selected := select_other_entry(context)) is not None:
        row, reason = selected
        other, other_values = row.name, read_values(row.name)
        comparison = f"It is compared with `{other}`, {reason}."
    else:  # the average precision of a random ranking is the share of the clips with the label
        test_clips = sum(len(fold.test) for fold in context.index.folds)
        nan = math.nan
        other = "chance"
        other_values = {label: [n / test_clips, nan, 0.5, nan] for label, n in clips.items()}
        comparison = "It is compared with a random ranking, as there is no other entry."
    rows = [
        {
            "class": label,
            "value": round(value, 6),
            "other": round(other_values[label][0], 6),
            "clips": clips[label],
        }
        for label, (value, *_) in values.items()
    ]
    chart_path = context.folder.comparison_plots / "per_class.svg"
    write_text(chart_path, render_svg(apply_theme(class_chart(rows, subject, other))))
    high = sum(row[0] >= 0.5 for row in values.values())
    low = sum(row[0] < 0.1 for row in values.values())
    return f"""\
## Easy and hard classes

Of {len(values)} classes with test clips, `{subject}` has an average precision of 0.5 or more on
{high}, and of less than 0.1 on {low}. {comparison}
All classes and entries: [{table_path.name}]({context.link(table_path)}).

{class_table(values, other, other_values, clips)}
![Average precision of each class]({context.link(chart_path)})
"""
