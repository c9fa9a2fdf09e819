"""AudioSet's 527 classes: `class_labels_indices.csv`.

It is read with `csv`: importing pandas is slow, and its errors do not tell the lines of wrong rows.
"""

import csv
from pathlib import Path

from tagging.base.errors import UserError
from tagging.data.classes import Class

CLASSES = 527
# AudioSet's list (Google, CC BY 4.0), for published weights without a list of classes.
PACKAGED = Path(__file__).parent / "class_labels_indices.csv"
SAMPLE_MID = "/sample/"  # begins every machine id of the generated sample


def read_labels(path: Path) -> list[Class]:
    """Read the class list, in the order of its indices.

    Raises:
        UserError: if the file is missing, or does not have the columns index, mid, display_name and
            the indices 0..526 in order.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} must be a CSV table ({error})") from None
    if header != ["index", "mid", "display_name"]:
        raise UserError(
            f"{path}: the columns must be index,mid,display_name, got {','.join(header)!r}"
        )
    labels = []
    for number, row in enumerate(rows):
        if len(row) != 3 or row[0] != str(number):
            raise UserError(
                f"{path}, line {number + 2} must have index {number}, a machine id and a name, got "
                f"{row}"
            )
        labels.append(Class(row[1], row[2]))
    if len(labels) != CLASSES:
        raise UserError(f"{path} must have AudioSet's {CLASSES} classes, got {len(labels)}")
    names = [label.name for label in labels]
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path} has the name {duplicates[0]!r} twice")
    return labels


def is_sample(classes: list[Class]) -> bool:
    """Return whether the classes are those of the project's generated sample, not AudioSet's."""
    return any(label.id.startswith(SAMPLE_MID) for label in classes)
