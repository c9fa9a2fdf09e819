"""`python -m tools.plots`: the page of plots of the last run, readable without a network.

`dvc plots show` draws the same page; this puts Vega beside it first.
"""

import subprocess
import sys
from pathlib import Path

import vl_convert

from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.reports.picture import VEGA_LITE

FOLDER = Path("dvc_plots")  # DVC's own name for it


def draw(project: Path) -> str:
    """Draw the plots of `project`; return the page's file:// address.

    Raises:
        UserError: if DVC cannot draw them.
    """
    write_text(project / FOLDER / "vega.js", vl_convert.javascript_bundle(vl_version=VEGA_LITE))
    page = project / FOLDER / "index.html"
    page.unlink(missing_ok=True)
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--quiet", "--out", str(FOLDER)],
        cwd=project,
    )
    if shown.returncode or not page.exists():
        raise UserError("dvc plots show failed; see above")
    return page.resolve().as_uri()


@entry_point
def main() -> None:
    """Draw the plots and print where they are."""
    print(draw(Path()))


if __name__ == "__main__":
    main()
