"""The confusion matrix, where each clip has one label."""

from typing import Any

from tagging.base.files import write_text
from tagging.reports.charts import apply_theme, render_svg
from tagging.reports.context import ReportContext
from tagging.scoring.tables import read_rows, to_markdown

MAX_ROWS = 10  # pairs of classes in the table
CELL = 18  # pixels
MAX_LABELED = 20  # with more classes, cells have no numbers


def confusion_chart(rows: list[dict[str, str]], title: str) -> dict[str, Any]:
    """Return a Vega-Lite chart: a row for each true class, a column for each predicted class."""
    classes = list(dict.fromkeys(row["label"] for row in rows))
    labeled = len(classes) <= MAX_LABELED
    cells = {"type": "nominal", "sort": classes}
    axis = {"domain": False, "ticks": False}
    share = {"field": "share", "type": "quantitative"}
    scale = {"domain": [0, 1], "scheme": "blues"}
    on_dark = {"condition": {"test": "datum.share > 0.6", "value": "white"}, "value": "#222"}
    layers = [
        {"mark": "rect", "encoding": {"color": {**share, "title": "share", "scale": scale}}},
        {
            "transform": [{"filter": f"{int(labeled)} && datum.share >= 0.005"}],
            "mark": {"type": "text", "fontSize": 11},
            "encoding": {"text": {**share, "format": ".0%"}, "color": on_dark},
        },
    ]
    return {
        "data": {"values": rows, "format": {"parse": {"share": "number"}}},
        "title": title,
        "width": {"step": 2 * CELL if labeled else CELL},
        "height": {"step": CELL},
        "encoding": {
            "x": {
                **cells,
                "field": "predicted",
                "title": "predicted class",
                "axis": {**axis, "labelAngle": -90},
            },
            "y": {**cells, "field": "label", "title": "true class", "axis": axis},
        },
        "layer": layers,
    }


def section(context: ReportContext) -> str:
    """Return this section of the page, and write its chart."""
    name = context.subject.name
    rows = read_rows(context.folder.entry_plots(name) / "confusion.csv")
    chart_path = context.folder.comparison_plots / "confusion.svg"
    chart = confusion_chart(rows, f"Confusion matrix of {name}")
    write_text(chart_path, render_svg(apply_theme(chart)))
    errors = [row for row in rows if row["label"] != row["predicted"] and int(row["clips"])]
    errors.sort(key=lambda row: -float(row["share"]))
    cells = [
        [row["label"], row["predicted"], f"{float(row['share']):.1%}", row["clips"]]
        for row in errors[:MAX_ROWS]
    ]
    runs = " Clips are counted once for each run." if len(context.subject.runs) > 1 else ""
    return f"""\
## Confusion matrix

The share of each true class's test clips that `{name}` predicts as each class.{runs}

![Confusion matrix]({context.link(chart_path)})

The most frequent errors:

{to_markdown(["true class", "predicted class", "share", "clips"], cells, right=2)}"""
