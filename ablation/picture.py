"""The picture of the differences: a dot and its interval for each model and method."""

from collections.abc import Mapping, Sequence

import vl_convert

from ablation.differences import Difference

VEGA_LITE = "5.21"  # the version that draws, so that the bytes stay


def differences_chart(
    differences: Mapping[str, Mapping[str, Difference]], methods: Sequence[str], title: str
) -> dict:
    """Return a Vega-Lite chart: methods from top to bottom, models by colour.

    Args:
        differences: of each model, those of its methods by their names.
        methods: all names, in their order.
        title: the axis's.
    """
    rows = []
    for model, methods in differences.items():
        for method, difference in methods.items():
            low, high = difference.interval or (difference.mean, difference.mean)
            rows.append(
                {"model": model, "method": method, "mean": difference.mean}
                | {"low": low, "high": high}
            )
    models = list(differences)
    position = {
        "y": {
            "field": "method",
            "type": "nominal",
            "sort": list(methods),
            "title": None,
            "axis": {"grid": True, "tickBand": "extent"},
        },
        "yOffset": {"field": "model", "sort": models},
        "color": {"field": "model", "type": "nominal", "sort": models, "title": "model"},
    }
    x = {"type": "quantitative", "title": title, "axis": {"format": "+.3f"}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "background": "white",
        "data": {"values": rows},
        "width": 520,
        "height": {"step": 14},
        "layer": [
            {"mark": {"type": "rule", "color": "black"}, "encoding": {"x": {"datum": 0}}},
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {**position, "x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {**position, "x": {"field": "mean", **x}},
            },
        ],
    }


def draw(
    differences: Mapping[str, Mapping[str, Difference]], methods: Sequence[str], title: str
) -> str:
    """Return `differences_chart` as SVG, the same bytes every time."""
    chart = differences_chart(differences, methods, title)
    return vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE)
