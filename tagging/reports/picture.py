"""Pictures for pages: SVG of Vega-Lite charts, in the look of the templates of the plots."""

import json
from pathlib import Path
from typing import Any

import vl_convert
from dvc_render import VegaRenderer

from tagging.scoring.tables import read_rows

TEMPLATES = Path(__file__).parents[2] / ".dvc/plots"
VEGA_LITE = "5.21"  # the version that the templates' $schema names, whatever vl_convert prefers


def draw(chart: dict[str, Any]) -> str:
    """Return a chart as SVG, the same bytes every time.

    Text is measured in Liberation Sans, which vl_convert brings along: the layout does not depend
    on the fonts of this machine.
    """
    return vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE)


def in_the_look(chart: dict[str, Any]) -> dict[str, Any]:
    """Return a chart with the schema, colours and fonts of the templates."""
    template = json.loads((TEMPLATES / "leaderboard.json").read_text(encoding="utf-8"))
    return {"$schema": template["$schema"], "config": template["config"], **chart}


def draw_leaderboard(table: Path) -> str:
    """Return the leaderboard as SVG, from the template that draws it on the page of plots.

    Args:
        table: path of the CSV file that the plot takes.
    """
    rows = [{**row, "rev": "workspace"} for row in read_rows(table)]
    filled = VegaRenderer(
        rows, "leaderboard", template="leaderboard", template_dir=TEMPLATES, title="Leaderboard"
    ).get_filled_template()
    return draw(filled)
