"""`python -m tools.readme`: copy rows of the leaderboard into the README."""

import re
from collections.abc import Collection
from pathlib import Path

from tagging.data.parameters import Params
from tagging.data.task_folder import TaskFolder
from tagging.reports.settings import Compare

README = Path("README.md")
TABLE = re.compile(r"(?m)(?:^\|.*\n)+")
MARKS = re.compile("(<!-- leaderboard -->\n).*(<!-- /leaderboard -->)", re.DOTALL)
HEADER_LINES, BEST_ROWS = 2, 3
OTHERS = ("published", "baseline")  # kinds of rows that are not entries
COLUMNS = re.compile("entry|kind|runs|NDCG|P@1|difference to .*")  # the headline's, six of all


def select_cells(page: str, names: Collection[str]) -> str:
    """Return `COLUMNS` of the first table of a page: its best rows, named rows, and `OTHERS`."""
    table = TABLE.search(page)
    assert table is not None, "the page has no table"
    lines = table[0].splitlines(keepends=True)
    kept = lines[: HEADER_LINES + BEST_ROWS]
    for line in lines[HEADER_LINES + BEST_ROWS :]:
        name, kind = (cell.strip(" *") for cell in line.split("|")[1:3])
        if name in names or kind in OTHERS:
            kept.append(line)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in kept]
    columns = [k for k, title in enumerate(rows[0]) if COLUMNS.fullmatch(title)]
    return "".join(f"| {' | '.join(row[k] for k in columns)} |\n" for row in rows)


def insert_table(readme: str, page: str, names: Collection[str]) -> str:
    """Return the README with rows of the leaderboard's page between its marks."""
    return MARKS.sub(lambda marks: marks[1] + select_cells(page, names) + marks[2], readme)


if __name__ == "__main__":
    folder = TaskFolder(Path())
    page = (folder.leaderboard / "README.md").read_text(encoding="utf-8")
    settings = Params.read(folder.params).section(Compare, "compare")
    text = insert_table(README.read_text(encoding="utf-8"), page, settings.plot)
    README.write_text(text, encoding="utf-8")
