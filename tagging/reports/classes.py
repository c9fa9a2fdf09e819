"""Which classes are easy and which are hard, for the chosen entry and for one beside it."""

import math
from typing import Any

from tagging.base.files import write_text
from tagging.reports.curves import read_classes
from tagging.reports.facts import PLOTS, Facts, Row, linked
from tagging.reports.picture import draw, in_the_look
from tagging.scoring.tables import to_csv, to_markdown

PICTURE = PLOTS / "per_class.svg"
TABLE = PLOTS / "per_class.csv"
VALUES = ("average_precision", "average_precision_std", "roc_auc", "roc_auc_std")
SHOWN = 10  # best and worst classes; all, where there are no more
NAMED = 5  # classes named in the picture, of those that gain and of those that lose most
SIZE = 560  # pixels of the picture
LINE = 13 / SIZE  # height of a name, in average precision

Values = dict[str, list[float]]  # of each class: `VALUES`, NaN for what there is not


def other_entry(facts: Facts) -> tuple[Row, str] | None:
    """Return the entry to set beside the subject, and why; None where there is no other.

    It is the one that validation ranks last; where nothing validates, the first that is plotted, or
    the first of all.
    """
    others = [row for row in facts.entries if row.name != facts.subject.name]
    if not others:
        return None
    if facts.by_validation:
        name, sign = facts.task.chooses, 1 if facts.metric.higher_is_better else -1
        last = min(others, key=lambda row: sign * row.val.get(name, row.test[name]))
        return last, "is the one that validation ranks last of the other entries"
    for name in facts.settings.plotted:
        for row in others:
            if row.name == name:
                return row, "is the first other one that `compare.plotted` names"
    return others[0], "is the first of the other entries"


def spread(mean: float, std: float) -> str:
    """Return a value, with its standard deviation where there is one; nothing for NaN."""
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" if math.isnan(std) else f"{mean:.3f} ± {std:.3f}"


def table(ours: Values, other: str, theirs: Values, clips: dict[str, int]) -> str:
    """Return all classes, the best first, or the best and the worst side by side, as Markdown.

    Args:
        ours: of an entry.
        other: the name of what stands beside.
        theirs: of that.
        clips: how many clips of each class test.
    """
    falling = sorted(ours, key=lambda name: -ours[name][0])
    if len(falling) <= 2 * SHOWN:
        rows = [
            [name, f"{clips[name]:,}"]
            + [spread(*of[name][place : place + 2]) for of in (ours, theirs) for place in (0, 2)]
            for name in falling
        ]
        header = ["class", "test clips", "AP", "ROC AUC", f"AP of {other}", f"ROC AUC of {other}"]
        return to_markdown(header, rows, right=1)

    def cells(name: str) -> list[str]:
        return [name, f"{ours[name][0]:.3f}", f"{theirs[name][0]:.3f}", f"{clips[name]:,}"]

    pairs = zip(falling[:SHOWN], falling[::-1][:SHOWN], strict=True)
    header = ["AP", f"of {other}", "test clips"]
    lines = to_markdown(
        ["best", *header, "worst", *header],
        [cells(best) + cells(worst) for best, worst in pairs],
        right=1,
    ).split("\n")
    lines[1] = "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |"  # names to the left
    return "\n".join(lines)


def place_names(rows: list[dict[str, Any]]) -> None:
    """Name the classes that gain and lose most, each as near to its point as others leave room."""
    rows.sort(key=lambda row: row["ours"] - row["other"])
    named = rows if len(rows) <= 2 * NAMED else rows[:NAMED] + rows[-NAMED:]
    placed: list[dict[str, Any]] = []
    for row in sorted(named, key=lambda row: row["ours"]):
        row["name"], row["at"] = row["class"], row["ours"]
        near = [of["at"] for of in placed if abs(of["other"] - row["other"]) < 0.4]
        while any(abs(row["at"] - at) < LINE for at in near):
            row["at"] += LINE / 4
        placed.append(row)


def chart(rows: list[dict[str, Any]], subject: str, other: str) -> dict[str, Any]:
    """Return a Vega-Lite chart of each class: one entry's average precision against another's."""

    def axis(field: str, entry: str) -> dict[str, Any]:
        title = f"average precision of {entry}"
        return {"field": field, "type": "quantitative", "title": title, "scale": {"domain": [0, 1]}}

    place_names(rows)
    place = {"x": axis("other", other), "y": axis("ours", subject)}
    color = {
        "field": "clips",
        "type": "quantitative",
        "title": "test clips",
        "scale": {"type": "log", "scheme": "viridis", "reverse": True},
    }
    text = {"type": "text", "align": "left", "baseline": "middle", "dx": 12, "fontSize": 11}
    at = {**place, "y": {"field": "at", "type": "quantitative"}, "text": {"field": "name"}}
    to_name = {**place, "x2": {"field": "other"}, "y2": {"field": "at"}}
    diagonal = {"values": [{"other": 0, "ours": 0}, {"other": 1, "ours": 1}]}
    named = [{"filter": "isValid(datum.name)"}]
    line = {"type": "rule", "color": "#999", "x2Offset": 10}
    layers = [
        {"data": diagonal, "mark": {"type": "line", "color": "gray"}, "encoding": place},
        {"mark": {**text, "stroke": "white", "strokeWidth": 3}, "encoding": at},
        {"transform": named, "mark": line, "encoding": to_name},
        {"mark": {"type": "circle", "size": 36}, "encoding": {**place, "color": color}},
        {"mark": text, "encoding": at},
    ]
    title = f"Each class: {subject} against {other}"
    return {
        "data": {"values": rows}, "title": title, "width": SIZE, "height": SIZE, "layer": layers,
    }  # fmt: skip


def section(facts: Facts) -> str:
    """Return this section of the page, and write its picture and table."""
    subject, beside = facts.subject.name, other_entry(facts)
    found = {row.name: read_classes(row.name) for row in facts.entries}
    clips = {label: int(row["test_clips"]) for label, row in found[subject].items()}
    table_rows = [
        [label, n, name, *(of[label][key] for key in VALUES)]
        for label, n in clips.items()
        for name, of in found.items()
    ]
    write_text(TABLE, to_csv(["label", "test_clips", "entry", *VALUES], table_rows))

    def values(name: str) -> Values:
        rows = found[name].items()
        return {label: [float(row[key] or "nan") for key in VALUES] for label, row in rows}

    ours = {label: of for label, of in values(subject).items() if clips[label]}
    if beside is not None:
        row, why = beside
        other, theirs = row.name, values(row.name)
        told = f"`{other}` beside it {why}."
    else:  # its average precision is the share of the clips that have the label
        tested = sum(len(fold.test) for fold in facts.index.folds)
        none = math.nan
        other, theirs = "chance", {of: [n / tested, none, 0.5, none] for of, n in clips.items()}
        told = "Beside it is a ranking at random, as there is no other entry."
    rows = [
        {
            "class": label,
            "ours": round(value, 6),
            "other": round(theirs[label][0], 6),
            "clips": clips[label],
        }
        for label, (value, *_) in ours.items()
    ]
    write_text(PICTURE, draw(in_the_look(chart(rows, subject, other))))
    high = sum(values[0] >= 0.5 for values in ours.values())
    low = sum(values[0] < 0.1 for values in ours.values())
    return f"""\
## Easy and hard classes

Of {len(ours)} classes with test clips, `{subject}` has an average precision of 0.5 or more on
{high}, and of less than 0.1 on {low}. {told}
All classes and entries: [{TABLE.name}]({linked(TABLE)}).

{table(ours, other, theirs, clips)}
![Average precision of each class]({linked(PICTURE)})
"""
