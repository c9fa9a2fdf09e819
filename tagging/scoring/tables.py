"""Small tables as text: CSV for plots, Markdown for people."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path


def to_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return CSV text, floating-point numbers with six significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
    return out.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV or, by its name, TSV file as one mapping a row."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[str]], right: int) -> str:
    """Return a Markdown table whose columns from the one numbered `right` are right-aligned."""
    marks = ["---"] * right + ["---:"] * (len(header) - right)
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, marks, *rows)]
    return "\n".join(lines) + "\n"
