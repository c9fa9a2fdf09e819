"""AudioSet's 527 classes: `class_labels_indices.csv`."""

import csv
from pathlib import Path

from tagging.base.errors import UserError
from tagging.data.classes import Class

CLASSES = 527
# AudioSet's list (Google, CC BY 4.0), for models whose weights come without one.
PACKAGED = Path(__file__).parent / "class_labels_indices.csv"
SAMPLE_MID = "/sample/"  # begins every machine id of the generated sample


def read_labels(path: Path) -> list[Class]:
    """Read the class list, in the order of its indices.

    Raises:
        UserError: if the file is missing, or is not `index,mid,display_name` with the indices
            0..526 in order.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
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
        labels.append(Class(row[1], row[2]))
    if len(labels) != CLASSES:
        raise UserError(f"{path} holds {len(labels)} classes; AudioSet has {CLASSES}")
    names = [label.name for label in labels]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} holds the name {twice[0]!r} twice")
    return labels


def is_sample(classes: list[Class]) -> bool:
    """Tell whether the classes are those of the project's generated sample, not AudioSet's."""
    return any(of.id.startswith(SAMPLE_MID) for of in classes)
