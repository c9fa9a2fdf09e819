"""Corrections of a task's labels: the table `corrections.csv` in the folder of the task.

The review page writes it. Each row has a clip, an action and labels. A clip is a recording by its
id (in a folder, the file as `clips.csv` names it) or a video of AudioSet by its id. The action
`keep` says that a person confirmed the labels, `relabel` replaces them by `labels`, separated by
`;`, and `drop` takes the clip out of all splits. Splits are drawn before, so that they stay equal
for all other clips.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagging.base.errors import UserError
from tagging.data.clips import Fold
from tagging.sources.table import read_table
from tagging.sources.text import clean_text

CORRECTIONS = "corrections.csv"
COLUMNS = ("clip", "action", "labels")
ACTIONS = ("keep", "relabel", "drop")
SEPARATOR = ";"
MAX_NAMED = 30  # classes in an error


class Correction(NamedTuple):
    """A row: its line in the file, and its values."""

    line: int
    clip: str
    action: str
    labels: tuple[str, ...]


class Corrected(NamedTuple):
    """The clips of a source after corrections.

    Attributes:
        labels: 0 or 1, uint8 (clips, classes).
        kept: whether the clip stays in its splits, bool (clips,).
    """

    labels: np.ndarray
    kept: np.ndarray


def read_corrections(path: Path) -> list[Correction]:
    """Read the corrections of a task; none if there is no file.

    Raises:
        UserError: naming the line that is wrong, or two lines of one clip.
    """
    if not path.exists():
        return []
    corrections: dict[str, Correction] = {}
    for row in read_table(path.read_bytes(), str(path), COLUMNS):
        clip, action, text = (
            row.values["clip"],
            clean_text(row.values["action"]),
            row.values["labels"],
        )
        location = f"{path}, line {row.line}"
        if action not in ACTIONS:
            raise UserError(f"{location}: action must be {', '.join(ACTIONS)}, got {action!r}")
        labels = tuple(map(clean_text, text.split(SEPARATOR))) if clean_text(text) else ()
        if labels and action != "relabel":
            raise UserError(
                f"{location}: labels must be empty, as action is {action}, got {text!r}"
            )
        if clip in corrections:
            raise UserError(
                f"{path}, lines {corrections[clip].line} and {row.line}: {clip!r} must have one "
                "correction"
            )
        corrections[clip] = Correction(row.line, clip, action, labels)
    return list(corrections.values())


def apply_corrections(
    path: Path,
    ids: Sequence[str],
    labels: np.ndarray,
    class_names: Sequence[str],
    single_label: bool,
) -> Corrected:
    """Return the clips of a source with the corrections of a file.

    Args:
        path: the file.
        ids: of the clips.
        labels: of the source, 0 or 1, uint8 (clips, classes); unchanged.
        class_names: of the columns.
        single_label: whether a clip must have one label.

    Raises:
        UserError: as `read_corrections`, or if there is no such clip or class.
    """
    corrected, kept = labels.copy(), np.ones(len(labels), bool)
    corrections = read_corrections(path)
    if not corrections:
        return Corrected(corrected, kept)
    rows = {clip: row for row, clip in enumerate(ids)}
    composed = defaultdict(list)  # systems and spreadsheets change the form of names
    for clip, row in rows.items():
        composed[unicodedata.normalize("NFC", clip)].append(row)
    columns = {clean_text(name): column for column, name in enumerate(class_names)}
    may_be_empty = not single_label and not labels.any(axis=1).all()
    for correction in corrections:
        location = f"{path}, line {correction.line}"
        near = composed[unicodedata.normalize("NFC", correction.clip)]
        row = rows.get(correction.clip, near[0] if len(near) == 1 else -1)
        if row < 0:
            raise UserError(
                f"{location}: clip must be one of the task, got {correction.clip!r}; remove the "
                "line if the clip is gone"
            )
        if correction.action == "drop":
            kept[row] = False
        elif correction.action == "relabel":
            names = correction.labels
            for name in names:
                if name not in columns:
                    known = f" ({', '.join(columns)})" if len(columns) <= MAX_NAMED else ""
                    raise UserError(
                        f"{location}: labels must be classes of the task{known}, got {name!r}"
                    )
            number = len(set(names))
            if number != len(names) or (single_label and number != 1):
                allowed = (
                    "one, as task.type is single_label," if single_label else "named once each,"
                )
                raise UserError(f"{location}: labels must be {allowed} got {';'.join(names)!r}")
            if not names and not may_be_empty:
                raise UserError(f"{location}: labels must be one or more, as action is relabel")
            corrected[row] = 0
            corrected[row, [columns[name] for name in names]] = 1
    return Corrected(corrected, kept)


def drop_clips(folds: Sequence[Fold], kept: np.ndarray) -> list[Fold]:
    """Return the folds without the clips that are not kept, bool (clips,)."""
    return [Fold(*(clips[kept[clips]] for clips in fold)) for fold in folds]
