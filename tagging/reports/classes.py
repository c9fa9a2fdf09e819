"""Which classes are easy and which are hard, for the chosen entry and for validation's last."""

import math
from typing import Any

from tagging.base.files import write_text
from tagging.reports.curves import read_classes
from tagging.reports.facts import LEADERBOARD, Facts, Row
from tagging.reports.picture import draw, in_the_look
from tagging.scoring.tables import to_csv, to_markdown

PICTURE = "per_class.svg"
TABLE = "per_class.csv"
SHOWN = 10  # best and worst classes
NAMED = 5  # classes named in the picture, of those that gain and of those that lose most
SIZE = 560  # pixels of the picture
LINE = 13 / SIZE  # height of a name, in average precision


def weakest(facts: Facts) -> Row | None:
    """Return the entry, other than the subject, that validation (or test without it) ranks last.

    None where the subject is the only entry.
    """
    name, sign = facts.task.chooses, 1 if facts.metric.higher_is_better else -1
    others = [row for row in facts.entries if row.name != facts.subject.name]
    return min(others, key=lambda row: sign * row.val.get(name, row.test[name]), default=None)


def table(ours: dict[str, float], other: str, theirs: dict[str, float], clips: dict) -> str:
    """Return the best and the worst classes side by side, as Markdown."""
    falling = sorted(ours, key=lambda name: -ours[name])
    number = min(SHOWN, len(falling) // 2)

    def cells(name: str) -> list[str]:
        return [name, f"{ours[name]:.3f}", f"{theirs[name]:.3f}", f"{clips[name]:,}"]

    pairs = zip(falling[:number], falling[::-1][:number], strict=True)
    header = ["AP", f"of {other}", "test clips"]
    text = to_markdown(
        ["best", *header, "worst", *header],
        [cells(best) + cells(worst) for best, worst in pairs],
        right=1,
    )
    lines = text.split("\n")
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
    subject, last = facts.subject.name, weakest(facts)
    classes = {row.name: read_classes(row.name) for row in facts.entries}
    clips = {label: int(of["test_clips"]) for label, of in classes[subject].items()}
    found = {
        name: {label: float(of["average_precision"]) for label, of in rows.items()}
        for name, rows in classes.items()
    }
    table_rows = [[label, n, *(of[label] for of in found.values())] for label, n in clips.items()]
    write_text(LEADERBOARD / TABLE, to_csv(["label", "test_clips", *found], table_rows))
    ours = {label: value for label, value in found[subject].items() if not math.isnan(value)}
    if last is not None:
        other, theirs = last.name, found[last.name]
        judge = "validation" if facts.by_validation else "test"
        beside = f"`{other}` beside it is the one that {judge} ranks last of the other entries."
    else:  # its average precision is the share of the clips that have the label
        tested = sum(len(fold.test) for fold in facts.index.folds)
        other, theirs = "random ranking", {label: n / tested for label, n in clips.items()}
        beside = "Beside it is a ranking at random, as there is no other entry."
    rows = [
        {"class": label, "ours": value, "other": theirs[label], "clips": clips[label]}
        for label, value in ours.items()
    ]
    write_text(LEADERBOARD / PICTURE, draw(in_the_look(chart(rows, subject, other))))
    high, low = sum(v >= 0.5 for v in ours.values()), sum(v < 0.1 for v in ours.values())
    return f"""\
## Easy and hard classes

Of {len(ours)} classes with test clips, `{subject}` has an average precision of 0.5 or more on
{high}, and of less than 0.1 on {low}. {beside}
All classes and entries: [{TABLE}]({TABLE}).

{table(ours, other, theirs, clips)}
![Average precision of each class]({PICTURE})
"""
