"""`python -m tools.pull_request REVISION`: print a comment for a pull request, in Markdown.

It lists the metrics and parameters that differ from the revision, as `dvc metrics diff` and `dvc
params diff` print them, and nothing that is equal.
"""

import subprocess
import sys
from pathlib import Path

from tagging.base.errors import UserError, entry_point


def diff(project: Path, kind: str, revision: str) -> str:
    """Return DVC's Markdown table of the metrics or parameters that differ; empty without one.

    Raises:
        UserError: if there is no such revision.
    """
    command = [sys.executable, "-m", "dvc", kind, "diff", "--md", revision]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"dvc {kind} diff {revision} failed: {result.stderr.strip()}")
    table = result.stdout.strip()
    return table if len(table.splitlines()) > 2 else ""  # DVC prints the header of an empty table


def comment(project: Path, revision: str) -> str:
    """Return the comment."""
    parts = []
    for kind in ("metrics", "params"):
        table = diff(project, kind, revision)
        parts.append(f"### Changed {kind}\n\n{table}" if table else f"No {kind} changed.")
    return "\n\n".join(parts) + "\n"


@entry_point
def main(revision: str) -> None:
    """Print the comment about the project in the working folder."""
    print(comment(Path(), revision), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
