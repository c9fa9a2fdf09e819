"""`python -m tools.plots [REVISION]`: write the page of DVC's plots, with Vega: it works offline.

With a revision the page compares the working tree with it, as `dvc plots diff` does.
"""

import subprocess
import sys
from pathlib import Path

import vl_convert

from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.reports.charts import VEGA_LITE

FOLDER = Path("dvc_plots")  # DVC's name


def write_page(project: Path, revision: str | None = None) -> str:
    """Write the page of a project's plots; return its file:// address.

    Raises:
        UserError: if DVC cannot make it.
    """
    # The package's type stub lacks the default of an argument.
    bundle = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    write_text(project / FOLDER / "vega.js", bundle)
    page = project / FOLDER / "index.html"
    page.unlink(missing_ok=True)
    command = ["plots", "diff", revision] if revision else ["plots", "show"]
    result = subprocess.run(
        [sys.executable, "-m", "dvc", *command, "--quiet", "--out", str(FOLDER)], cwd=project
    )
    if result.returncode or not page.exists():
        raise UserError(f"dvc {' '.join(command)} failed; see above")
    return page.resolve().as_uri()


@entry_point
def main(revision: str | None = None) -> None:
    """Write the page and print its address."""
    print(write_page(Path(), revision))


if __name__ == "__main__":
    main(*sys.argv[1:])
