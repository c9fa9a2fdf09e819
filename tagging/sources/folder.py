"""A folder of recordings, or a zip archive of one, with their labels in `clips.csv`.

`clips.csv` has a header, `file,labels`, and a row for each clip: a file in the folder, and its
labels separated by `;`. Optional columns are `group` (whose clips stay in one split), `fold` (a
whole number), `split` (train, val or test), `start` and `end` (seconds, of a clip that is a part of
its recording).

The table is read with `csv`, because pandas does not tell the lines of wrong rows.
"""

import csv
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tagging.base.errors import UserError
from tagging.sources.container import Container
from tagging.sources.recording import Recording

CLIPS = "clips.csv"
REQUIRED = ("file", "labels")
COLUMNS = (*REQUIRED, "group", "fold", "split", "start", "end")
SPLITS = ("train", "val", "test")
SEPARATOR = ";"


class Source:
    """The clips of a `clips.csv`.

    Args:
        path: the folder of `clips.csv`, or a zip archive with one `clips.csv` in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = Container(path)
        if path.is_dir():
            tables = [CLIPS] if self._files.has(CLIPS) else []
        else:
            names = self._files.names()
            tables = [name for name in names if PurePosixPath(name).name == CLIPS]
        if len(tables) != 1:
            raise UserError(
                f"{path} must have one {CLIPS}, got {len(tables) or 'none'}: a table with the "
                f"columns {', '.join(REQUIRED)}, and optionally {', '.join(COLUMNS[2:])}"
            )
        self._name = tables[0]
        self._root = tables[0].removesuffix(CLIPS)  # the folder in an archive
        self._table = path / tables[0]

    def recordings(self) -> list[Recording]:
        """Return the clips in the order of their rows.

        Clips of one file are a group, unless their rows name groups.

        Raises:
            UserError: if a row is wrong, files are missing, a clip is repeated, a label has two
                spellings, or a group is in two folds or splits.
        """
        rows = self._rows()
        if not rows:
            raise UserError(f"{self._table} must have a row for each clip, got none")
        lines = [line for line, _ in rows]
        clips = [self._clip(line, row) for line, row in rows]
        self._check_files(lines, clips)
        self._check_duplicates(lines, clips)
        self._check_spelling(lines, clips)
        counts = Counter(clip.file for clip in clips)
        clips = [
            clip._replace(
                labels=tuple(label.strip() for label in clip.labels),
                group=clip.group or (clip.file if counts[clip.file] > 1 else ""),
            )
            for clip in clips
        ]
        for column in ("fold", "split"):
            self._check_complete(column, lines, clips)
            self._check_groups(column, lines, clips)
        return clips

    def contents(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, bytes | Path]]:
        """Yield each clip's position in the list, with its file's bytes or (in a folder) path.

        Raises:
            UserError: if a file cannot be read.
        """
        return self._files.contents([self._root + recording.file for recording in recordings])

    def _rows(self) -> list[tuple[int, dict[str, str]]]:
        """Return the number of each row's last line, and its values; missing columns are ""."""
        try:
            text = self._files.read(self._name).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self._table} must be text in UTF-8 ({error})") from None
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise UserError(
                f"{self._table}, line {reader.line_num}: values must be separated by commas, with "
                f'" around a value that has one ({error})'
            ) from None
        for name in header:
            if name not in COLUMNS:
                raise UserError(
                    f"{self._table}: columns must be some of {', '.join(COLUMNS)}, got {name!r}"
                )
            if header.count(name) > 1:
                raise UserError(f"{self._table} has the column {name} twice")
        for name in REQUIRED:
            if name not in header:
                raise UserError(
                    f"{self._table} must have the columns {', '.join(REQUIRED)}, got no {name}; "
                    f"optional are {', '.join(COLUMNS[2:])}"
                )
        for line, row in rows:
            if len(row) != len(header):
                raise UserError(
                    f"{self._table}, line {line} must have {len(header)} values, one for each "
                    f"column, got {len(row)}"
                )
        return [
            (line, dict.fromkeys(COLUMNS, "") | dict(zip(header, row, strict=True)))
            for line, row in rows
        ]

    def _clip(self, line: int, row: dict[str, str]) -> Recording:
        location = f"{self._table}, line {line}"
        file = row["file"]
        name = PurePosixPath(file)
        if not file or name.is_absolute() or ".." in name.parts:
            raise UserError(f"{location}: file must be in the folder, got {file!r}")
        labels = tuple(row["labels"].split(SEPARATOR))
        if not all(label.strip() for label in labels):
            raise UserError(
                f"{location}: labels must be one or more, separated by {SEPARATOR}, got "
                f"{row['labels']!r}"
            )
        split = row["split"]
        if split and split not in SPLITS:
            raise UserError(f"{location}: split must be one of {', '.join(SPLITS)}, got {split!r}")
        fold = None
        if row["fold"]:
            if not re.fullmatch("[0-9]{1,9}", row["fold"]):
                raise UserError(f"{location}: fold must be a whole number, got {row['fold']!r}")
            fold = int(row["fold"])
        start = _parse_seconds(location, "start", row["start"]) if row["start"] else 0.0
        end = _parse_seconds(location, "end", row["end"]) if row["end"] else None
        if end is not None and start >= end:
            raise UserError(f"{location}: start must be less than end, {end}, got {start}")
        part = f"@{start}-{'' if end is None else end}" if row["start"] or row["end"] else ""
        return Recording(f"{name}{part}", str(name), labels, row["group"], fold, split, start, end)

    def _check_files(self, lines: list[int], clips: list[Recording]) -> None:
        missing: dict[str, int] = {}
        for line, clip in zip(lines, clips, strict=True):
            if not self._files.has(self._root + clip.file):
                missing.setdefault(clip.file, line)
        if missing:
            file, line = next(iter(missing.items()))
            more = f" ({len(missing)} files are missing)" if len(missing) > 1 else ""
            raise UserError(f"{self._table}, line {line}: {file} does not exist{more}")

    def _check_duplicates(self, lines: list[int], clips: list[Recording]) -> None:
        seen: dict[tuple[str, float, float | None], tuple[int, Recording]] = {}
        for line, clip in zip(lines, clips, strict=True):
            part = (clip.file, clip.start, clip.end)
            if part in seen:
                first, other = seen[part]
                for column in ("fold", "split"):
                    values = getattr(other, column), getattr(clip, column)
                    if values[0] != values[1]:
                        raise UserError(
                            f"{self._table}, lines {first} and {line}: {clip.id} must be in one "
                            f"{column}, got {values[0]} and {values[1]}"
                        )
                raise UserError(
                    f"{self._table}, lines {first} and {line}: {clip.id} must have one row, with "
                    "all its labels"
                )
            seen[part] = line, clip

    def _check_spelling(self, lines: list[int], clips: list[Recording]) -> None:
        spellings: dict[str, str] = {}
        for line, clip in zip(lines, clips, strict=True):
            for label in clip.labels:
                normalized = unicodedata.normalize("NFKC", label).casefold().strip()
                if spellings.setdefault(normalized, label) != label:
                    raise UserError(
                        f"{self._table}, line {line}: a label must have one spelling, got "
                        f"{spellings[normalized]!r} and {label!r}"
                    )
            if len(set(clip.labels)) < len(clip.labels):
                raise UserError(f"{self._table}, line {line}: {clip.id} has a label twice")

    def _check_complete(self, column: str, lines: list[int], clips: list[Recording]) -> None:
        """Refuse a column that has values for some clips only."""
        absent = [getattr(clip, column) in (None, "") for clip in clips]
        if any(absent) and not all(absent):
            raise UserError(
                f"{self._table}, line {lines[absent.index(True)]}: {column} must be there for all "
                "clips or for none"
            )

    def _check_groups(self, column: str, lines: list[int], clips: list[Recording]) -> None:
        """Refuse a group in two folds or splits."""
        group_values: dict[str, object] = {}
        for line, clip in zip(lines, clips, strict=True):
            value = getattr(clip, column)
            if clip.group and group_values.setdefault(clip.group, value) != value:
                raise UserError(
                    f"{self._table}, line {line}: the group {clip.group} must be in one {column}, "
                    f"got {group_values[clip.group]} and {value}"
                )


def _parse_seconds(location: str, column: str, text: str) -> float:
    # float() also accepts "1_0", "nan" and digits of other alphabets.
    is_number = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text)
    if not is_number or not math.isfinite(float(text)):
        raise UserError(f"{location}: {column} must be seconds, 0 or more, got {text!r}")
    return float(text)
