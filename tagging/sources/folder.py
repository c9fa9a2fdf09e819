"""A folder of recordings, or a zip archive of one, with their labels in `clips.csv`.

`clips.csv` has a header, `file,labels`, and a row for each clip: a file in the folder, and its
labels separated by `;`. Optional columns are `group` (whose clips stay in one split), `fold` (a
whole number), `split` (train, val or test), `start` and `end` (seconds, of a clip that is a part of
its recording). Values are in Unicode's composed form, and files are found by either form and with
backslashes, because systems and spreadsheets change both.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from tagging.base.errors import UserError
from tagging.sources.container import Container
from tagging.sources.recording import Recording
from tagging.sources.table import Row, read_table
from tagging.sources.text import clean_text, fold_text, has_control, quote_both

CLIPS = "clips.csv"
REQUIRED = ("file", "labels")
OPTIONAL = ("group", "fold", "split", "start", "end")
SPLITS = ("train", "val", "test")
SEPARATOR = ";"
MAX_MISSING = 20  # files in an error

_OTHER_SEPARATORS = re.compile("[,|/]")  # which people write between labels


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
                f"columns {', '.join(REQUIRED)}, and optionally {', '.join(OPTIONAL)}"
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
        table = read_table(self._files.read(self._name), str(self._table), REQUIRED, OPTIONAL)
        if not table:
            raise UserError(f"{self._table} must have a row for each clip, got none")
        lines = [row.line for row in table]
        clips = [self._clip(row) for row in table]
        clips = self._find_files(lines, clips)
        self._check_duplicates(lines, clips)
        self._check_spelling(lines, clips)
        self._check_separators(lines, clips)
        counts = Counter(clip.file for clip in clips)
        clips = [
            clip._replace(group=clip.group or (clip.file if counts[clip.file] > 1 else ""))
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

    def _clip(self, row: Row) -> Recording:
        """Return the clip of a row; its file and id are as the row names them."""
        location, values = f"{self._table}, line {row.line}", row.values
        file = values["file"]
        name = PurePosixPath(file)
        if not file or name.is_absolute() or ".." in PurePosixPath(file.replace("\\", "/")).parts:
            raise UserError(f"{location}: file must be in the folder, got {file!r}")
        labels = tuple(map(clean_text, values["labels"].split(SEPARATOR)))
        if not all(labels):
            raise UserError(
                f"{location}: labels must be one or more, separated by {SEPARATOR}, got "
                f"{values['labels']!r}"
            )
        for label in labels:
            if has_control(label):
                raise UserError(
                    f"{location}: a label must have no control character, got {label!a}"
                )
        split = values["split"]
        if split and split not in SPLITS:
            raise UserError(f"{location}: split must be one of {', '.join(SPLITS)}, got {split!r}")
        fold = None
        if values["fold"]:
            if not re.fullmatch("[0-9]{1,9}", values["fold"]):
                raise UserError(f"{location}: fold must be a whole number, got {values['fold']!r}")
            fold = int(values["fold"])
        start = _parse_seconds(location, "start", values["start"]) if values["start"] else 0.0
        end = _parse_seconds(location, "end", values["end"]) if values["end"] else None
        if end is not None and start >= end:
            raise UserError(f"{location}: start must be less than end, {end}, got {start}")
        part = f"@{start}-{'' if end is None else end}" if values["start"] or values["end"] else ""
        return Recording(
            part, str(name), labels, clean_text(values["group"]), fold, split, start, end
        )

    def _find_files(self, lines: list[int], clips: list[Recording]) -> list[Recording]:
        """Return the clips with their files' names in the folder, as files and first in ids.

        Raises:
            UserError: naming the files that do not exist.
        """
        files = {clip.file: self._find_file(clip.file) for clip in clips}
        missing: dict[str, int] = {}
        for line, clip in zip(lines, clips, strict=True):
            if files[clip.file] is None:
                missing.setdefault(clip.file, line)
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
        """Refuse labels that look alike or differ in case alone."""
        spellings: dict[str, tuple[int, str]] = {}
        for line, clip in zip(lines, clips, strict=True):
            for label in clip.labels:
                first, spelling = spellings.setdefault(fold_text(label), (line, label))
                if spelling != label:
                    location = f"line {line}" if first == line else f"lines {first} and {line}"
                    raise UserError(
                        f"{self._table}, {location}: a label must have one spelling, got "
                        f"{' and '.join(quote_both(spelling, label))}"
                    )
            if len(set(clip.labels)) < len(clip.labels):
                raise UserError(f"{self._table}, line {line}: {clip.id} has a label twice")

    def _check_separators(self, lines: list[int], clips: list[Recording]) -> None:
        """Refuse a label that has another one between commas, as labels are separated by ;."""
        label_lines: dict[str, int] = {}
        for line, clip in zip(lines, clips, strict=True):
            for label in clip.labels:
                label_lines.setdefault(label, line)
        folded = {fold_text(label): label for label in label_lines}
        for label, line in label_lines.items():
            parts = [clean_text(part) for part in _OTHER_SEPARATORS.split(label)]
            others = [folded[key] for key in map(fold_text, parts) if key in folded]
            if len(parts) > 1 and others:
                known = " and ".join(f"{other!r} (line {label_lines[other]})" for other in others)
                raise UserError(
                    f"{self._table}, line {line}: the label {label!r} has parts that are labels of "
                    f"other rows, {known}; write {SEPARATOR.join(parts)} if these are several "
                    "labels, or rename one if not"
                )

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
