"""Which classes are taken for which others, where each clip has one label."""

from pathlib import Path
from typing import Any

from tagging.base.files import write_text
from tagging.reports.facts import PLOTS, Facts, linked
from tagging.reports.picture import draw, in_the_look
from tagging.scoring.tables import read_rows, to_markdown

PICTURE = PLOTS / "confusion.svg"
SHOWN = 10  # pairs in the table
CELL = 18  # pixels
MOST_NUMBERS = 20  # with more classes, cells have no numbers


def chart(rows: list[dict[str, str]], title: str) -> dict[str, Any]:
    """Return a Vega-Lite chart: a row for each class, a column for each answer."""
    classes = list(dict.fromkeys(row["label"] for row in rows))
    few = len(classes) <= MOST_NUMBERS
    cells = {"type": "nominal", "sort": classes}
    axis = {"domain": False, "ticks": False}
    share = {"field": "share", "type": "quantitative"}
    scale = {"domain": [0, 1], "scheme": "blues"}
    on_dark = {"condition": {"test": "datum.share > 0.6", "value": "white"}, "value": "#222"}
    layers = [
        {"mark": "rect", "encoding": {"color": {**share, "title": "share", "scale": scale}}},
        {
            "transform": [{"filter": f"{int(few)} && datum.share >= 0.005"}],
            "mark": {"type": "text", "fontSize": 11},
            "encoding": {"text": {**share, "format": ".0%"}, "color": on_dark},
        },
    ]
    return {
        "data": {"values": rows, "format": {"parse": {"share": "number"}}},
        "title": title,
        "width": {"step": 2 * CELL if few else CELL},
        "height": {"step": CELL},
        "encoding": {
            "x": {
                **cells,
                "field": "answered",
                "title": "answer",
                "axis": {**axis, "labelAngle": -90},
            },
            "y": {**cells, "field": "label", "title": "class", "axis": axis},
        },
        "layer": layers,
    }


def section(facts: Facts) -> str:
    """Return this section of the page, and draw its picture."""
    name = facts.subject.name
    rows = read_rows(Path(f"plots/evaluate/{name}/confusion.csv"))
    write_text(PICTURE, draw(in_the_look(chart(rows, f"What {name} answers"))))
    wrong = [row for row in rows if row["label"] != row["answered"] and int(row["clips"])]
    wrong.sort(key=lambda row: -float(row["share"]))
    cells = [
        [row["label"], row["answered"], f"{float(row['share']):.1%}", row["clips"]]
        for row in wrong[:SHOWN]
    ]
    runs = " Clips are counted once a run." if len(facts.subject.runs) > 1 else ""
    return f"""\
## What is taken for what

Of each class's test clips, the share that `{name}` answers with each class.{runs}

![Confusion matrix]({linked(PICTURE)})

The classes that are mistaken most often:

{to_markdown(["class", "answered", "share", "clips"], cells, right=2)}"""
