"""Labels from `metadata.csv`, by the conventions of Hugging Face's AudioFolder.

A `metadata.csv` has a column `file_name`, whose paths are relative to its own folder, and one of
labels. There may be one in each folder of a split: `train/metadata.csv`.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tagging.base.errors import UserError
from tagging.commands.folder_names import SPLIT_FOLDERS
from tagging.sources.checks import (
    Location,
    check_duplicates,
    check_separators,
    check_spelling,
    check_splits,
    parse_labels,
)
from tagging.sources.recording import Recording
from tagging.sources.table import read_table

METADATA = "metadata.csv"
LABEL = "label"  # the column


def read_metadata(
    folder: Path, tables: Sequence[str], column: str | None
) -> tuple[list[Location], list[Recording], list[dict[str, str]]]:
    """Return the clips, their rows, and the values of these by their columns.

    Args:
        folder: the folder of recordings.
        tables: the paths of its tables in it.
        column: of the labels; None for `label`.

    Raises:
        UserError: if a row is wrong, or its file does not exist.
    """
    column = column or LABEL
    locations: list[Location] = []
    clips: list[Recording] = []
    values: list[dict[str, str]] = []
    tops = {PurePosixPath(table).parts[0].lower() for table in tables}
    has_splits = tops <= SPLIT_FOLDERS.keys()
    for table in tables:
        path = folder / table
        parent = PurePosixPath(table).parent
        split = SPLIT_FOLDERS[parent.parts[0].lower()] if has_splits else ""
        rows = read_table(path.read_bytes(), str(path), ["file_name"], None)
        if not rows:
            raise UserError(f"{path} must have a row for each clip, got none")
        if column not in rows[0].values:
            raise UserError(
                f"{path} must have a column {column} with the labels, got the columns "
                f"{', '.join(rows[0].values)}; --column names another one"
            )
        for row in rows:
            location = Location(str(path), row.line)
            name = row.values["file_name"].replace("\\", "/")
            if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise UserError(
                    f"{location}: file_name must be in the folder of the table, got {name!r}"
                )
            file = str(parent / name)
            if not (folder / file).is_file():
                raise UserError(f"{location}: {folder / file} does not exist")
            locations.append(location)
            labels = parse_labels(location, row.values[column])
            clips.append(Recording(file, file, labels, split=split))
            values.append(row.values)
    check_duplicates(locations, clips)
    check_spelling(locations, clips)
    check_separators(locations, clips)
    check_splits(locations, clips)
    return locations, clips, values
