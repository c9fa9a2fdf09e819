"""The leaderboard as a picture, from the template that draws it on the page of plots."""

from pathlib import Path

import vl_convert
from dvc_render import VegaRenderer

from tagging.tables import read_rows

TEMPLATES = Path(".dvc/plots")
VEGA_LITE = "5.21"  # the version that the templates' $schema names, whatever vl_convert prefers


def draw_leaderboard(table: Path) -> str:
    """Return the leaderboard as SVG, the same bytes every time.

    Text is measured in Liberation Sans, which vl_convert brings along: the layout does not depend
    on the fonts of this machine.

    Args:
        table: path of the CSV file that the plot takes.
    """
    rows = [{**row, "rev": "workspace"} for row in read_rows(table)]
    chart = VegaRenderer(
        rows, "leaderboard", template="leaderboard", template_dir=TEMPLATES, title="Leaderboard"
    ).get_filled_template()
    return vl_convert.vegalite_to_svg(chart, vl_version=VEGA_LITE)
