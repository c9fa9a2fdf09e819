"""Small tables as text: CSV for plots, Markdown for pages.

Written with `csv`: a DataFrame's column of integers and empty cells becomes floating-point numbers.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path


def to_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return CSV text, floating-point numbers with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows
    )
    return text.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return one mapping for each row of a CSV file, or of a TSV file by its suffix."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> str:
    """Return a Markdown table whose columns from number `right` on are right-aligned.

    A `|` in a cell, for example in the name of a class, is escaped.
    """
    marks = ["---"] * right + ["---:"] * (len(header) - right)
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in (header, marks, *rows))
    lines = ["| " + " | ".join(cells) + " |" for cells in escaped]
    return "\n".join(lines) + "\n"
