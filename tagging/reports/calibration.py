"""Calibration: whether probabilities agree with how often labels are right on test."""

from typing import Any

from tagging.base.files import write_text
from tagging.reports.charts import apply_theme, render_svg
from tagging.reports.confident import select_entry_with
from tagging.reports.context import ReportContext
from tagging.reports.page import render
from tagging.scoring.calibration import BINS
from tagging.scoring.tables import read_rows, to_markdown

SIZE = 260  # of the chart, pixels
HEADER = ["probability", "labels", "mean probability", "right", "95% CI"]

SECTION = """\
## Calibration

Of labels with a probability of 0.7, 70% should be right. Validation fitted the calibration of
`{{ entry }}`, which is stored with its weights; `tagging tag` prints calibrated probabilities, and
all metrics but these and those of confident labels are of uncalibrated ones. On test, the expected
calibration error ({{ bins }} bins\
{% if single_label %}, the most probable label of each clip{% endif %}) is \
{{ error("uncalibrated_error") }} before and {{ error("error") }} after calibration: a change of \
{{ error("change", "+") }}.

![Reliability before and after calibration]({{ chart }})

Labels of all probabilities after calibration ({% if folds > 1 %}the first run of each fold\
{% else %}the first run{% endif %}, exact intervals):

{{ table }}"""


def reliability_chart(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Return the reliability curves, by the rows of calibration.csv, as Vega-Lite."""
    keys = ("probability", "share", "share_ci_low", "share_ci_high")
    values = [
        {"scores": row["scores"], **{key: round(float(row[key]), 4) for key in keys}}
        for row in rows
    ]
    scale, axis = {"domain": [0, 1]}, {"format": ".1f", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}
    x = {
        "field": "probability", "type": "quantitative", "scale": scale, "axis": axis,
        "title": "Mean probability",
    }  # fmt: skip
    y = {
        "field": "share", "type": "quantitative", "scale": scale, "axis": axis,
        "title": "Share of right labels",
    }  # fmt: skip
    order = ["uncalibrated", "calibrated"]
    color = {
        "field": "scores", "type": "nominal", "sort": order, "title": None,
        "scale": {"domain": order, "range": ["#b0b0b0", "#4c78a8"]},
    }  # fmt: skip
    diagonal = {"values": [{"probability": 0, "share": 0}, {"probability": 1, "share": 1}]}
    interval = {"x": x, "y": {**y, "field": "share_ci_low"}, "y2": {"field": "share_ci_high"}}
    return {
        "data": {"values": values}, "width": SIZE, "height": SIZE,
        "layer": [
            {
                "data": diagonal, "mark": {"type": "line", "color": "gray", "strokeDash": [3, 3]},
                "encoding": {"x": x, "y": y},
            },
            {"mark": "rule", "encoding": {**interval, "color": color}},
            {"mark": {"type": "line", "point": True}, "encoding": {"x": x, "y": y, "color": color}},
        ],
    }  # fmt: skip


def section(context: ReportContext) -> str:
    """Return this section of the page, and write its chart; empty if no entry is calibrated."""
    entry = select_entry_with("calibration", context)
    if entry is None:
        return ""
    calibration: dict[str, float] = entry.test["calibration"]
    rows = read_rows(context.folder.entry_plots(entry.name) / "calibration.csv")
    chart = context.folder.comparison_plots / "calibration.svg"
    write_text(chart, render_svg(apply_theme(reliability_chart(rows))))

    def error(key: str, sign: str = "") -> str:
        value, low, high = (calibration[f"{key}{end}"] for end in ("", "_ci_low", "_ci_high"))
        return f"{value:{sign}.4f} (95% CI {low:{sign}.4f} to {high:{sign}.4f})"

    cells = [
        [
            f"{int(row['bin']) / BINS:.1f} to {(int(row['bin']) + 1) / BINS:.1f}",
            f"{int(row['labels']):,}", f"{float(row['probability']):.3f}",
            f"{float(row['share']):.3f}",
            f"{float(row['share_ci_low']):.3f} to {float(row['share_ci_high']):.3f}",
        ]
        for row in rows
        if row["scores"] == "calibrated"
    ]  # fmt: skip
    return render(
        SECTION,
        entry=entry.name,
        bins=BINS,
        single_label=context.task.type == "single_label",
        folds=len(context.index.folds),
        error=error,
        chart=context.link(chart),
        table=to_markdown(HEADER, cells, right=1),
    )
