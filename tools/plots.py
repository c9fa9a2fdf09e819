"""`python -m tools.plots`: write the page of `dvc plots show`, with Vega: it works offline."""

import subprocess
import sys
from pathlib import Path

import vl_convert

from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.reports.charts import VEGA_LITE

FOLDER = Path("dvc_plots")  # DVC's name


def write_page(project: Path) -> str:
    """Write the page of a project's plots; return its file:// address.

    Raises:
        UserError: if `dvc plots show` fails.
    """
    # The package's type stub lacks the default of an argument.
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    write_text(project / FOLDER / "vega.js", bundle)
    page = project / FOLDER / "index.html"
    page.unlink(missing_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--quiet", "--out", str(FOLDER)],
        cwd=project,
    )
    if result.returncode or not page.exists():
        raise UserError("dvc plots show failed; see above")
    return page.resolve().as_uri()


@entry_point
def main() -> None:
    """Write the page and print its address."""
    print(write_page(Path()))


if __name__ == "__main__":
    main()
