"""The labels of recordings, wherever they are: a table, tracks beside the recordings, folders."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tagging.base.errors import UserError
from tagging.commands.audio_folder import METADATA, read_metadata
from tagging.commands.folder_names import read_folder_names
from tagging.commands.track_files import (
    RAVEN_SUFFIX,
    find_audacity_tracks,
    find_raven_tracks,
    read_audacity,
    read_raven,
    read_tracks,
)
from tagging.sources.checks import Location
from tagging.sources.folder import CLIPS, Source
from tagging.sources.recording import Recording

SOURCES = ("table", "audiofolder", "audacity", "raven", "folders")  # of --labels
_DESCRIPTIONS = {
    "table": CLIPS,
    "audiofolder": METADATA,
    "audacity": "Audacity's label tracks",
    "raven": "Raven's selection tables",
    "folders": "names of folders",
}
_PARTS = re.compile(r"[\W_]+")  # between the parts of a file's name


class Labels(NamedTuple):
    """The clips of recordings.

    Attributes:
        source: one of SOURCES.
        table: the table to use where it is, or None.
        clips: their files are paths in the folder; groups are those of a column alone.
        locations: where each clip is named.
    """

    source: str
    table: Path | None
    clips: list[Recording]
    locations: list[Location]

    @property
    def description(self) -> str:
        """Say where labels come from."""
        return _DESCRIPTIONS[self.source]


def read_labels(
    folder: Path,
    files: Sequence[str],
    source: str | None = None,
    column: str | None = None,
    group_by: str | None = None,
) -> Labels:
    """Return the clips of a folder of recordings.

    Args:
        folder: the folder.
        files: the recordings' paths in it.
        source: one of SOURCES, or None for the only one that is there; names of folders count
            where there is no table or track.
        column: of the labels, in metadata.csv and selection tables; None for the default.
        group_by: the column of groups in metadata.csv, the number of a part of the files' names,
            or a regular expression with one group; None for none.

    Raises:
        UserError: if there are no labels, or in several places, or they are wrong.
    """
    names = _list_files(folder, files)
    tables = sorted(name for name in names if PurePosixPath(name).name == METADATA)
    raven = find_raven_tracks(files, names)
    audacity = find_audacity_tracks(files, names)
    candidates = {
        "table": CLIPS in names,
        "audiofolder": bool(tables),
        "audacity": bool(audacity),
        "raven": bool(raven),
    }
    available = [name for name, is_there in candidates.items() if is_there]
    if not available and any("/" in file for file in files):
        available = ["folders"]
    if source is None:
        if not available:
            raise UserError(
                f"{folder} has no labels: they must be in {CLIPS}, {METADATA}, a label track a.txt "
                f"or a selection table a{RAVEN_SUFFIX} beside a.wav, or be names of folders"
            )
        if len(available) > 1:
            places = " and ".join(_DESCRIPTIONS[name] for name in available)
            raise UserError(
                f"{folder} has labels in several places, {places}; choose with --labels "
                f"{' or '.join(available)}"
            )
        [source] = available
    elif source != "folders" and not candidates[source]:
        raise UserError(f"--labels {source}: {folder} has no {_DESCRIPTIONS[source]}")
    if column and source not in ("audiofolder", "raven"):
        raise UserError(
            f"--column must come with labels of {METADATA} or selection tables, got "
            f"{_DESCRIPTIONS[source]}"
        )
    values: list[dict[str, str]] = []
    table = None
    if source == "table":
        table = folder / CLIPS
        locations, clips = Source(folder).read()
    elif source == "audiofolder":
        locations, clips, values = read_metadata(folder, tables, column)
    elif source == "audacity":
        locations, clips = read_tracks(folder, audacity, read_audacity)
    elif source == "raven":
        locations, clips = read_tracks(folder, raven, lambda path: read_raven(path, column))
    else:
        locations, clips = read_folder_names(folder, files)
    if not clips:
        raise UserError(f"{folder}: {_DESCRIPTIONS[source]} must have an event, got none")
    if group_by is not None:
        groups = _find_groups(clips, values, group_by)
        clips = [clip._replace(group=group) for clip, group in zip(clips, groups, strict=True)]
        table = None
    return Labels(source, table, clips, locations)


def _list_files(folder: Path, files: Sequence[str]) -> set[str]:
    """Return the paths of all files in the folders of recordings and above, in `folder`."""
    parents = {parent for file in files for parent in PurePosixPath(file).parents}
    return {
        (parent / path.name).as_posix()
        for parent in parents
        for path in (folder / parent).iterdir()
        if not path.name.startswith(".") and path.is_file()
    }


def _find_groups(
    clips: Sequence[Recording], values: Sequence[dict[str, str]], group_by: str
) -> list[str]:
    """Return the group of each clip, as `read_labels` describes.

    Raises:
        UserError: if a clip has none.
    """
    if values and group_by in values[0]:
        groups = [row.get(group_by, "").strip() for row in values]
    elif group_by.isdecimal() and int(group_by):
        number = int(group_by) - 1
        groups = [
            (_PARTS.split(PurePosixPath(clip.file).stem) + [""] * int(group_by))[number]
            for clip in clips
        ]
    elif "(" in group_by:
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise UserError(
                f"--group-by must be a regular expression, got {group_by!r} ({error})"
            ) from None
        if pattern.groups != 1:
            raise UserError(
                f"--group-by must have one group in parentheses, got {pattern.groups} in "
                f"{group_by!r}"
            )
        matches = [pattern.search(clip.file) for clip in clips]
        groups = [(match[1] or "") if match else "" for match in matches]
    else:
        columns = f" ({', '.join(values[0])})" if values else ""
        raise UserError(
            f"--group-by must be a column of {METADATA}{columns}, the number of a part of the "
            f"files' names or a regular expression with one group, got {group_by!r}"
        )
    if "" in groups:
        file = clips[groups.index("")].file
        raise UserError(f"--group-by {group_by} must give each file a group, got none for {file}")
    if len(set(groups)) < 2:
        raise UserError(
            f"--group-by {group_by} must give two groups at least, got {groups[0]!r} for all files"
        )
    return groups


def count_labels(clips: Sequence[Recording]) -> Counter[str]:
    """Return the number of clips of each label."""
    return Counter(label for clip in clips for label in clip.labels)
