"""Charts of pages: Vega-Lite as SVG, with the theme of the templates in .dvc/plots."""

import json
from pathlib import Path
from typing import Any

import vl_convert
from dvc_render import VegaRenderer

from tagging.scoring.tables import read_rows

TEMPLATES = Path(__file__).parents[2] / ".dvc/plots"
VEGA_LITE = "5.21"  # the version that $schema names in the templates


def render_svg(chart: dict[str, Any]) -> str:
    """Return a chart as SVG, the same bytes every time.

    vl_convert measures text in its own Liberation Sans, so that the layout does not depend on the
    fonts of the machine.
    """
    return vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE)


def apply_theme(chart: dict[str, Any]) -> dict[str, Any]:
    """Return a chart with the schema, colours and fonts of the templates."""
    template = json.loads((TEMPLATES / "leaderboard.json").read_text(encoding="utf-8"))
    return {"$schema": template["$schema"], "config": template["config"], **chart}


def leaderboard_svg(table: Path) -> str:
    """Return the leaderboard as SVG, from the template of the page of plots.

    Args:
        table: the CSV file of that plot.
    """
    rows = [{**row, "rev": "workspace"} for row in read_rows(table)]
    chart = VegaRenderer(
        rows, "leaderboard", template="leaderboard", template_dir=TEMPLATES, title="Leaderboard"
    ).get_filled_template()
    return render_svg(chart)
