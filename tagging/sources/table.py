"""Tables that people write with a spreadsheet or a script: text in UTF-8.

They are read with `csv`, because pandas does not tell the lines of wrong rows.
"""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

from tagging.base.errors import UserError
from tagging.sources.text import clean_text


class Row(NamedTuple):
    """A row: the number of its last line in the file, and its values by their columns."""

    line: int
    values: dict[str, str]


def decode_text(content: bytes, name: str) -> str:
    """Return the text of a file.

    Raises:
        UserError: if it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} must be text in UTF-8 ({error})") from None


def read_table(
    content: bytes,
    name: str,
    required: Sequence[str],
    optional: Sequence[str] | None = (),
    tabs: bool = False,
) -> list[Row]:
    """Read a table with a header.

    Empty rows and columns, which spreadsheets write, are left out.

    Args:
        content: the file's bytes.
        name: the file's name in errors.
        required: the columns that the table must have.
        optional: those that it may have, whose values are "" where the table lacks them; None for
            any.
        tabs: whether values are separated by tabs, and not quoted; by default, by commas.

    Raises:
        UserError: if it is not a table of these columns.
    """
    text = io.StringIO(decode_text(content, name), newline="")
    if tabs:
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(text, strict=True)
    try:
        lines = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(
            f"{name}, line {reader.line_num}: values must be separated by commas, with "
            f'" around a value that has one ({error})'
        ) from None
    lines = [(line, row) for line, row in lines if any(map(clean_text, row))]
    header = [clean_text(column) for column in lines[0][1]] if lines else []
    while header and not header[-1]:
        header.pop()
    _check_columns(header, name, required, optional)
    rows = []
    for line, row in lines[1:]:
        surplus = [value for value in row[len(header) :] if clean_text(value)]
        if len(row) < len(header) or surplus:
            raise UserError(
                f"{name}, line {line} must have {len(header)} values, one for each column, got "
                f"{len(row)}"
            )
        values = dict.fromkeys([*required, *(optional or ())], "")
        for column, value in zip(header, row, strict=False):
            if column:
                values[column] = value
            elif clean_text(value):
                raise UserError(f"{name}, line {line}: {value!r} is in a column without a name")
        rows.append(Row(line, values))
    return rows


def _check_columns(
    header: list[str], name: str, required: Sequence[str], optional: Sequence[str] | None
) -> None:
    known = [*required, *(optional or ())]
    for column in filter(None, header):
        if optional is not None and column not in known:
            raise UserError(f"{name}: columns must be some of {', '.join(known)}, got {column!r}")
        if header.count(column) > 1:
            raise UserError(f"{name} has the column {column} twice")
    for column in required:
        if column not in header:
            raise UserError(
                f"{name} must have the columns {', '.join(required)}, got no {column}"
                + (f"; optional are {', '.join(optional)}" if optional else "")
            )
