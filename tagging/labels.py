"""AudioSet's 527 classes: `class_labels_indices.csv`."""

import csv
from pathlib import Path
from typing import NamedTuple

from tagging.errors import UserError

CLASSES = 527
SAMPLE_MID = "/sample/"  # begins every machine id of the generated sample


class Label(NamedTuple):
    """One AudioSet class: its index (0..526), machine id (`/m/04rlf`) and display name."""

    index: int
    mid: str
    name: str


def read_labels(path: Path) -> list[Label]:
    """Read the class list, in the order of its indices.

    Raises:
        UserError: if the file is not `index,mid,display_name` with the indices 0..526 in order.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no text of comma-separated values ({error})") from None
    if header != ["index", "mid", "display_name"]:
        raise UserError(f"{path} begins with {header}; it takes index,mid,display_name")
    labels = []
    for number, row in enumerate(rows):
        if len(row) != 3 or row[0] != str(number):
            raise UserError(
                f"{path}, line {number + 2}: {row}; it takes index {number}, a machine id and a "
                "name"
            )
        labels.append(Label(number, row[1], row[2]))
    if len(labels) != CLASSES:
        raise UserError(f"{path} holds {len(labels)} classes; AudioSet has {CLASSES}")
    names = [label.name for label in labels]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} holds the name {twice[0]!r} twice")
    return labels


def is_sample(labels: list[Label]) -> bool:
    """Tell whether the labels are those of the project's generated sample, not AudioSet's."""
    return any(label.mid.startswith(SAMPLE_MID) for label in labels)
