"""A folder of recordings, or a zip archive of one, with their labels in `clips.csv`.

`clips.csv` has a header, `file,labels`, and a row for each clip: a file below the folder, and its
labels with `;` in between. More columns are taken where they are: `group` (what must not be torn
apart between splits), `fold` (a whole number), `split` (train, val or test), `start` and `end`
(seconds, of a clip that is a part of its recording).
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
    """The clips that a `clips.csv` lists.

    Args:
        path: the folder that holds `clips.csv`, or a zip archive with one `clips.csv` in it.
    """

    def __init__(self, path: Path) -> None:
        self._files = Container(path)
        if path.is_dir():
            found = [CLIPS] if self._files.has(CLIPS) else []
        else:
            names = self._files.names()
            found = [name for name in names if PurePosixPath(name).name == CLIPS]
        if len(found) != 1:
            raise UserError(
                f"{path} holds {len(found) or 'no'} {CLIPS}; it takes one, a table of "
                f"{', '.join(REQUIRED)} and, where there are, {', '.join(COLUMNS[2:])}"
            )
        self._clips = found[0]
        self._root = found[0].removesuffix(CLIPS)  # in an archive, the folder in it
        self._shown = path / found[0]

    def recordings(self) -> list[Recording]:
        """Return the clips in the order of their rows.

        A file that is listed in several parts is their group, where the row names none.

        Raises:
            UserError: if a row is wrong, files are missing, a clip is listed twice, a label is
                spelled in two ways, or a group lies in two folds or splits.
        """
        rows = self._rows()
        if not rows:
            raise UserError(f"{self._shown} lists no clip; it takes a row for each")
        lines = [line for line, _ in rows]
        listed = [self._recording(line, row) for line, row in rows]
        self._check_files(lines, listed)
        self._check_twice(lines, listed)
        self._check_spelling(listed)
        parts = Counter(recording.file for recording in listed)
        found = [
            recording._replace(
                labels=tuple(label.strip() for label in recording.labels),
                group=recording.group or (recording.file if parts[recording.file] > 1 else ""),
            )
            for recording in listed
        ]
        for what in ("fold", "split"):
            self._check_whole(what, lines, found)
        return found

    def contents(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, bytes | Path]]:
        """Yield each clip's place in the list and its file, the whole recording.

        Of an archive these are the file's bytes, of a folder its path.

        Raises:
            UserError: if a file cannot be read.
        """
        return self._files.contents([self._root + recording.file for recording in recordings])

    def _rows(self) -> list[tuple[int, dict[str, str]]]:
        """Return the number of each row's last line and its values; columns not there are ""."""
        try:
            text = self._files.read(self._clips).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{self._shown} is no text in UTF-8 ({error})") from None
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise UserError(
                f"{self._shown}, line {reader.line_num}: {error}; it takes values with commas in "
                'between, and " around those that hold one'
            ) from None
        for name in header:
            if name not in COLUMNS:
                raise UserError(
                    f"{self._shown} has the column {name!r}; it takes {', '.join(COLUMNS)}"
                )
            if header.count(name) > 1:
                raise UserError(f"{self._shown} has the column {name} twice; it takes one")
        for name in REQUIRED:
            if name not in header:
                raise UserError(
                    f"{self._shown} has no column {name}; it takes {', '.join(REQUIRED)} and, "
                    f"where there are, {', '.join(COLUMNS[2:])}"
                )
        for line, row in rows:
            if len(row) != len(header):
                raise UserError(
                    f"{self._shown}, line {line}: {len(row)} values; it takes {len(header)}, one "
                    "for each column"
                )
        return [
            (line, dict.fromkeys(COLUMNS, "") | dict(zip(header, row, strict=True)))
            for line, row in rows
        ]

    def _recording(self, line: int, row: dict[str, str]) -> Recording:
        where = f"{self._shown}, line {line}"
        file = row["file"]
        name = PurePosixPath(file)
        if not file or name.is_absolute() or ".." in name.parts:
            raise UserError(f"{where}: the file is {file!r}; it takes one below the folder")
        labels = tuple(row["labels"].split(SEPARATOR))
        if not all(label.strip() for label in labels):
            raise UserError(
                f"{where}: {file} has the labels {row['labels']!r}; it takes one or more, with "
                f"{SEPARATOR} in between"
            )
        split = row["split"]
        if split and split not in SPLITS:
            raise UserError(f"{where}: the split is {split!r}; it takes {', '.join(SPLITS)}")
        fold = None
        if row["fold"]:
            if not re.fullmatch("[0-9]{1,9}", row["fold"]):
                raise UserError(f"{where}: the fold is {row['fold']!r}; it takes a whole number")
            fold = int(row["fold"])
        start = _seconds(where, "start", row["start"]) if row["start"] else 0.0
        end = _seconds(where, "end", row["end"]) if row["end"] else None
        if end is not None and start >= end:
            raise UserError(f"{where}: the start {start} is not before the end {end}")
        part = f"@{start}-{'' if end is None else end}" if row["start"] or row["end"] else ""
        return Recording(f"{name}{part}", str(name), labels, row["group"], fold, split, start, end)

    def _check_files(self, lines: list[int], recordings: list[Recording]) -> None:
        missing: dict[str, int] = {}
        for line, recording in zip(lines, recordings, strict=True):
            if not self._files.has(self._root + recording.file):
                missing.setdefault(recording.file, line)
        if missing:
            file, line = next(iter(missing.items()))
            count = f"{len(missing)} files that are" if len(missing) > 1 else "a file that is"
            raise UserError(
                f"{self._shown} names {count} not there, first {file} (line {line}); it takes "
                "files below its folder"
            )

    def _check_twice(self, lines: list[int], recordings: list[Recording]) -> None:
        seen: dict[tuple, tuple[int, Recording]] = {}
        for line, recording in zip(lines, recordings, strict=True):
            clip = (recording.file, recording.start, recording.end)
            if clip in seen:
                first, other = seen[clip]
                for what in ("fold", "split"):
                    pair = getattr(other, what), getattr(recording, what)
                    if pair[0] != pair[1]:
                        raise UserError(
                            f"{self._shown} has the clip {recording.id} in two {what}s, {pair[0]} "
                            f"and {pair[1]} (lines {first} and {line}); it takes it in one"
                        )
                raise UserError(
                    f"{self._shown} has the clip {recording.id} twice, in lines {first} and "
                    f"{line}; it takes one row for each clip, with all its labels"
                )
            seen[clip] = line, recording

    def _check_spelling(self, recordings: list[Recording]) -> None:
        spellings: dict[str, str] = {}
        for recording in recordings:
            for label in recording.labels:
                same = unicodedata.normalize("NFKC", label).casefold().strip()
                if spellings.setdefault(same, label) != label:
                    raise UserError(
                        f"{self._shown} has the labels {spellings[same]!r} and {label!r}; it takes "
                        "one spelling of a label"
                    )
            if len(set(recording.labels)) < len(recording.labels):
                raise UserError(
                    f"{self._shown}: {recording.id} has a label twice; it takes it once"
                )

    def _check_whole(self, what: str, lines: list[int], recordings: list[Recording]) -> None:
        """Refuse a fold or split that some clips have and others not, or that tears a group."""
        values = [getattr(recording, what) for recording in recordings]
        absent = [value in (None, "") for value in values]
        if any(absent) and not all(absent):
            place = absent.index(True)
            raise UserError(
                f"{self._shown}: {recordings[place].id} (line {lines[place]}) has no {what}, but "
                f"others have; it takes a {what} for each clip or for none"
            )
        of_group: dict[str, object] = {}
        for recording, value in zip(recordings, values, strict=True):
            group = recording.group
            if group and of_group.setdefault(group, value) != value:
                raise UserError(
                    f"{self._shown} has the group {group} in two {what}s, {of_group[group]} and "
                    f"{value}; it takes a group in one"
                )


def _seconds(where: str, name: str, text: str) -> float:
    # float() takes "1_0", "nan" and other alphabets' digits as well.
    is_number = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text)
    if not is_number or not math.isfinite(float(text)):
        raise UserError(f"{where}: the {name} is {text!r}; it takes seconds, a number from 0 on")
    return float(text)
