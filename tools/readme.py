"""Copy the leaderboard's best rows, and those to compare with, into the README: `make readme`."""

import re
from collections.abc import Collection
from pathlib import Path

from tagging.parameters import read_params

README = Path("README.md")
LEADERBOARD = Path("leaderboard/README.md")
TABLE = re.compile(r"(?m)(?:^\|.*\n)+")
MARKS = re.compile("(<!-- leaderboard -->\n).*(<!-- /leaderboard -->)", re.DOTALL)
HEADER, BEST = 2, 3  # lines, rows
COMPARED = ("published", "baseline")


def table(page: str, named: Collection[str]) -> str:
    """Return the first table of a Markdown page: the best rows, those named, and no entries'."""
    lines = TABLE.search(page)[0].splitlines(keepends=True)
    kept = lines[: HEADER + BEST]
    for line in lines[HEADER + BEST :]:
        name, kind = (cell.strip(" *") for cell in line.split("|")[1:3])
        if name in named or kind in COMPARED:
            kept.append(line)
    return "".join(kept)


def with_table(readme: str, leaderboard: str, named: Collection[str]) -> str:
    """Return the README's text with these rows of the leaderboard between its marks."""
    return MARKS.sub(lambda marks: marks[1] + table(leaderboard, named) + marks[2], readme)


if __name__ == "__main__":
    board = LEADERBOARD.read_text(encoding="utf-8")
    plotted = read_params()["compare"]["plotted"]
    text = with_table(README.read_text(encoding="utf-8"), board, plotted)
    README.write_text(text, encoding="utf-8")
