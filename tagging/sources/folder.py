"""A folder of recordings, or a zip archive of one, with their labels in a table, `clips.csv`.

`clips.csv` has a header, `file,labels`, and a row for each clip: a file in the folder, and its
labels separated by `;`. Optional columns are `group` (whose clips stay in one split), `fold` (a
whole number), `split` (train, val or test), `start` and `end` (seconds, of a clip that is a part of
its recording). Values are in Unicode's composed form, and files are found by either form and with
backslashes, because systems and spreadsheets change both.
"""

import csv
import io
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from tagging.base.errors import UserError
from tagging.sources.checks import (
    SPLITS,
    Location,
    check_duplicates,
    check_separators,
    check_spelling,
    check_splits,
    parse_labels,
    parse_seconds,
)
from tagging.sources.container import Container
from tagging.sources.recording import Recording
from tagging.sources.table import Row, read_table
from tagging.sources.text import clean_text, fold_text, quote_both

CLIPS = "clips.csv"
REQUIRED = ("file", "labels")
OPTIONAL = ("group", "fold", "split", "start", "end")
MAX_MISSING = 20  # files in an error


class Source:
    """The clips of a table.

    Args:
        path: the folder of recordings, or a zip archive of one.
        table: the table of the folder's clips; None for the `clips.csv` in the folder, or for the
            only one in the archive, whose folder there is that of the recordings.
    """

    def __init__(self, path: Path, table: Path | None = None) -> None:
        self.path = path
        self._files = Container(path)
        self._root = ""  # the folder in an archive
        if table is not None:
            if not table.is_file():
                raise UserError(f"{table} must be the table of the clips, but does not exist")
            self._table, self._content = table, table.read_bytes()
            return
        if path.is_dir():
            tables = [CLIPS] if self._files.has(CLIPS) else []
        else:
            names = self._files.names()
            tables = [name for name in names if PurePosixPath(name).name == CLIPS]
        if len(tables) != 1:
            raise UserError(
                f"{path} must have one {CLIPS}, got {len(tables) or 'none'}: a table with the "
                f"columns {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)}"
            )
        self._root = tables[0].removesuffix(CLIPS)
        self._table, self._content = path / tables[0], self._files.read(tables[0])

    def recordings(self) -> list[Recording]:
        """Return the clips in the order of their rows.

        Clips of one file are a group, unless their rows name groups.

        Raises:
            UserError: if a row is wrong, files are missing, a clip is repeated, a label has two
                spellings, or a group is in two folds or splits.
        """
        return group_by_file(self.read()[1])

    def read(self) -> tuple[list[Location], list[Recording]]:
        """Return the clips as `recordings` does, but with the groups of the table, and their rows.

        Raises:
            UserError: as `recordings` does.
        """
        table = read_table(self._content, str(self._table), REQUIRED, OPTIONAL)
        if not table:
            raise UserError(f"{self._table} must have a row for each clip, got none")
        locations = [Location(str(self._table), row.line) for row in table]
        clips = [self._clip(*pair) for pair in zip(locations, table, strict=True)]
        clips = self._find_files(locations, clips)
        check_duplicates(locations, clips)
        check_spelling(locations, clips)
        check_separators(locations, clips)
        check_splits(locations, group_by_file(clips))
        return locations, clips

    def contents(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, bytes | Path]]:
        """Yield each clip's position in the list, with its file's bytes or (in a folder) path.

        Raises:
            UserError: if a file cannot be read.
        """
        return self._files.contents([self._root + recording.file for recording in recordings])

    def _clip(self, location: Location, row: Row) -> Recording:
        """Return the clip of a row; its file and id are as the row names them."""
        values = row.values
        file = values["file"]
        name = PurePosixPath(file)
        if not file or name.is_absolute() or ".." in PurePosixPath(file.replace("\\", "/")).parts:
            raise UserError(f"{location}: file must be in the folder, got {file!r}")
        labels = parse_labels(location, values["labels"])
        split = values["split"]
        if split and split not in SPLITS:
            raise UserError(f"{location}: split must be one of {', '.join(SPLITS)}, got {split!r}")
        fold = None
        if values["fold"]:
            if not re.fullmatch("[0-9]{1,9}", values["fold"]):
                raise UserError(f"{location}: fold must be a whole number, got {values['fold']!r}")
            fold = int(values["fold"])
        start = parse_seconds(location, "start", values["start"]) if values["start"] else 0.0
        end = parse_seconds(location, "end", values["end"]) if values["end"] else None
        if end is not None and start >= end:
            raise UserError(f"{location}: start must be less than end, {end}, got {start}")
        part = f"@{start}-{'' if end is None else end}" if values["start"] or values["end"] else ""
        return Recording(
            part, str(name), labels, clean_text(values["group"]), fold, split, start, end
        )

    def _find_files(self, locations: list[Location], clips: list[Recording]) -> list[Recording]:
        """Return the clips with their files' names in the folder, as files and first in ids.

        Raises:
            UserError: naming the files that do not exist.
        """
        files = {clip.file: self._find_file(clip.file) for clip in clips}
        missing: dict[str, int | None] = {}
        for location, clip in zip(locations, clips, strict=True):
            if files[clip.file] is None:
                missing.setdefault(clip.file, location.line)
        if missing:
            problems = [
                f"line {line}: {self._describe_missing(name)}"
                for name, line in list(missing.items())[:MAX_MISSING]
            ]
            if len(missing) == 1:
                raise UserError(f"{self._table}, {problems[0]}")
            if len(missing) > MAX_MISSING:
                problems.append(f"{len(missing) - MAX_MISSING:,} more")
            listed = "\n  ".join(problems)
            raise UserError(f"{self._table}: {len(missing):,} files do not exist\n  {listed}")
        return [
            clip._replace(file=file, id=f"{file}{clip.id}")
            for clip in clips
            if (file := files[clip.file]) is not None
        ]

    def _find_file(self, name: str) -> str | None:
        """Return a file's name in the folder, which may have another Unicode form and slashes."""
        if self._files.has(self._root + name):
            return name
        for other in (name, str(PurePosixPath(name.replace("\\", "/")))):
            names = self._composed_names.get(unicodedata.normalize("NFC", other), [])
            if len(names) == 1:
                return names[0]
        return None

    def _describe_missing(self, file: str) -> str:
        """Say that a file does not exist, and which one looks alike."""
        near = self._folded_names.get(fold_text(file.replace("\\", "/")), [])
        if not near:
            return f"{file} does not exist"
        one, other = quote_both(file, near[0])
        return f"{one} does not exist, but {other} does"

    @cached_property
    def _names(self) -> list[str]:
        """The names of all files in the folder, relative to it."""
        names = self._files.names()
        return [name.removeprefix(self._root) for name in names if name.startswith(self._root)]

    @cached_property
    def _composed_names(self) -> dict[str, list[str]]:
        names = defaultdict(list)
        for name in self._names:
            names[unicodedata.normalize("NFC", name)].append(name)
        return names

    @cached_property
    def _folded_names(self) -> dict[str, list[str]]:
        names = defaultdict(list)
        for name in self._names:
            names[fold_text(name)].append(name)
        return names


def group_by_file(clips: Sequence[Recording]) -> list[Recording]:
    """Return the clips with those of one file as a group, unless they have groups."""
    counts = Counter(clip.file for clip in clips)
    return [
        clip._replace(group=clip.group or (clip.file if counts[clip.file] > 1 else ""))
        for clip in clips
    ]


def format_table(clips: Sequence[Recording]) -> str:
    """Return the table of clips, with the optional columns that have values."""
    rows = [
        {
            "file": clip.file,
            "labels": ";".join(clip.labels),
            "group": clip.group,
            "fold": "" if clip.fold is None else clip.fold,
            "split": clip.split,
            "start": "" if not clip.start and clip.end is None else _format_seconds(clip.start),
            "end": "" if clip.end is None else _format_seconds(clip.end),
        }
        for clip in clips
    ]
    columns = [*REQUIRED, *(name for name in OPTIONAL if any(row[name] != "" for row in rows))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
