"""`python -m tools.readme`: copy rows of leaderboards into README.md and docs/tasks.md."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from tagging.data.parameters import Params
from tagging.data.task_folder import TaskFolder
from tagging.reports.settings import Compare

README = Path("README.md")
TASKS = Path("docs/tasks.md")
# A row of the table of tasks: its first three cells, with a link to the leaderboard.
TASK = re.compile(r"(?m)^(\| \[.*?\]\(\.\./(.*?leaderboard/)\) \|.*?\|.*?\|).*$")
TABLE = re.compile(r"(?m)(?:^\|.*\n)+")
MARKS = re.compile("(<!-- leaderboard -->\n).*(<!-- /leaderboard -->)", re.DOTALL)
HEADER_LINES, BEST_ROWS = 2, 3
OTHERS = ("published", "baseline")  # kinds of rows that are not entries
COLUMNS = re.compile("entry|kind|runs|NDCG|P@1|difference to .*")  # the headline's, six of all


def read_cells(page: str) -> list[list[str]]:
    """Return the cells of the first table of a page, row by row, with `HEADER_LINES`."""
    table = TABLE.search(page)
    assert table is not None, "the page has no table"
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].splitlines()]


def select_cells(page: str, names: Collection[str]) -> str:
    """Return `COLUMNS` of the first table of a page: its best rows, named rows, and `OTHERS`."""
    rows = read_cells(page)
    kept = rows[: HEADER_LINES + BEST_ROWS]
    for row in rows[HEADER_LINES + BEST_ROWS :]:
        name, kind = (cell.strip("*") for cell in row[:2])
        if name in names or kind in OTHERS:
            kept.append(row)
    columns = [k for k, title in enumerate(rows[0]) if COLUMNS.fullmatch(title)]
    return "".join(f"| {' | '.join(row[k] for k in columns)} |\n" for row in kept)


def best_result(page: str) -> str:
    """Return an entry of the first table of a page and its first metric with the interval.

    The entry is the one in bold or, where a page has none, the first.
    """
    rows = read_cells(page)
    header = rows[0]
    entries = [row for row in rows[HEADER_LINES:] if row[1] not in OTHERS]
    row = next((row for row in entries if row[0].startswith("**")), entries[0])
    metric = header.index("runs" if "runs" in header else "kind") + 1
    return f"`{row[0].strip('*')}`: {header[metric]} {row[metric]}"


def insert_results(text: str, pages: Mapping[str, str]) -> str:
    """Return the table of tasks with results, of the pages by their folders' paths."""
    return TASK.sub(lambda row: f"{row[1]} {best_result(pages[row[2]])} |", text)


def insert_table(readme: str, page: str, names: Collection[str]) -> str:
    """Return the README with rows of the leaderboard's page between its marks."""
    return MARKS.sub(lambda marks: marks[1] + select_cells(page, names) + marks[2], readme)


if __name__ == "__main__":
    folder = TaskFolder(Path())
    page = (folder.leaderboard / "README.md").read_text(encoding="utf-8")
    settings = Params.read(folder.params).section(Compare, "compare")
    text = insert_table(README.read_text(encoding="utf-8"), page, settings.plot)
    README.write_text(text, encoding="utf-8")
    tasks = TASKS.read_text(encoding="utf-8")
    pages = {
        row[2]: Path(row[2], "README.md").read_text(encoding="utf-8")
        for row in TASK.finditer(tasks)
    }
    TASKS.write_text(insert_results(tasks, pages), encoding="utf-8")
