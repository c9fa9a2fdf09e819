"""Copy the leaderboard's table into the README, between its two marks: `make readme`."""

import re
from pathlib import Path

README = Path("README.md")
LEADERBOARD = Path("leaderboard/README.md")
TABLE = re.compile(r"(?m)(?:^\|.*\n)+")
MARKS = re.compile("(<!-- leaderboard -->\n).*(<!-- /leaderboard -->)", re.DOTALL)


def table(page: str) -> str:
    """Return the first table of a Markdown page."""
    return TABLE.search(page)[0]


def with_table(readme: str, leaderboard: str) -> str:
    """Return the README's text with the leaderboard's table in its place."""
    return MARKS.sub(lambda marks: marks[1] + table(leaderboard) + marks[2], readme)


if __name__ == "__main__":
    board = LEADERBOARD.read_text(encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8"), board), encoding="utf-8")
