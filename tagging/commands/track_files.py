"""Labels from tracks beside the recordings: Audacity's label tracks, Raven's selection tables.

`a.txt` beside `a.wav` has a line `start<tab>end<tab>label` for each event, in seconds.
`a.selections.txt`, or Raven's own `a.Table.1.selections.txt`, has a header and the columns `Begin
Time (s)`, `End Time (s)` and one of labels.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tagging.base.errors import UserError
from tagging.sources.checks import (
    Location,
    check_separators,
    check_spelling,
    parse_labels,
    parse_seconds,
)
from tagging.sources.recording import Recording
from tagging.sources.table import decode_text, read_table

BEGIN, END = "Begin Time (s)", "End Time (s)"
ANNOTATION = "Annotation"  # the default column of Raven's labels
RAVEN_SUFFIX = ".selections.txt"

_RAVEN = re.compile(r"(.+?)(\.Table\.\d+)?\.selections\.txt", re.IGNORECASE)
_TOLERANCE = 1e-6  # seconds; tracks have six digits


class Event(NamedTuple):
    """A line of a track: from `start` to `end` (seconds)."""

    location: Location
    start: float
    end: float
    labels: tuple[str, ...]


def find_audacity_tracks(files: Sequence[str], names: set[str]) -> dict[str, list[str]]:
    """Return the label tracks of recordings that have one, by the recordings.

    Args:
        files: the paths of the recordings in their folder.
        names: the paths of all files in it.
    """
    tracks = {file: str(PurePosixPath(file).with_suffix(".txt")) for file in files}
    return {file: [track] for file, track in tracks.items() if track in names}


def find_raven_tracks(files: Sequence[str], names: set[str]) -> dict[str, list[str]]:
    """Return the selection tables of recordings that have some, as `find_audacity_tracks` does."""
    stems: dict[str, list[str]] = {}
    for name in sorted(names):
        if match := _RAVEN.fullmatch(name):
            stems.setdefault(match[1], []).append(name)
    tracks = {file: stems.get(str(PurePosixPath(file).with_suffix("")), []) for file in files}
    return {file: tables for file, tables in tracks.items() if tables}


def read_audacity(path: Path) -> list[Event]:
    """Return the events of a label track; lines of frequencies, after a backslash, are left out.

    Raises:
        UserError: if a line is not an event.
    """
    events = []
    lines = decode_text(path.read_bytes(), str(path)).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("\\"):
            continue
        location = Location(str(path), number)
        start, end, label = (*line.split("\t", 2), "", "")[:3]
        if not label.strip():
            raise UserError(
                f"{location} must be start, end and label, separated by tabs, got {line!r}"
            )
        events.append(_make_event(location, start, end, label))
    return events


def read_raven(path: Path, column: str | None) -> list[Event]:
    """Return the events of a selection table; a selection in several views is one event.

    Raises:
        UserError: if it is not a selection table, or lacks the column.
    """
    column = column or ANNOTATION
    rows = read_table(path.read_bytes(), str(path), [BEGIN, END], None, tabs=True)
    if rows and column not in rows[0].values:
        raise UserError(
            f"{path} must have a column {column} with the labels, got the columns "
            f"{', '.join(rows[0].values)}; --column names another one"
        )
    events: dict[tuple[str, ...], Event] = {}
    for row in rows:
        location = Location(str(path), row.line)
        cells = (row.values[BEGIN], row.values[END], row.values[column])
        selection = row.values.get("Selection", "") if "View" in row.values else str(row.line)
        events.setdefault((selection, *cells), _make_event(location, *cells))
    return list(events.values())


def _make_event(location: Location, start: str, end: str, label: str) -> Event:
    first, last = (
        parse_seconds(location, name, text.strip())
        for name, text in (("start", start), ("end", end))
    )
    if first >= last:
        raise UserError(f"{location}: start must be less than end, {last:g}, got {first:g}")
    return Event(location, first, last, parse_labels(location, label))


def read_tracks(
    folder: Path,
    tracks: dict[str, list[str]],
    read: Callable[[Path], list[Event]],
) -> tuple[list[Location], list[Recording]]:
    """Return a clip for each event, in the order of the recordings and of time.

    A clip has the labels of all events that cover at least half of it. Events of the same start and
    end are one clip.

    Args:
        folder: the folder of recordings.
        tracks: the paths in it of the tracks of each recording.
        read: reads a track.

    Raises:
        UserError: if a track is that of two recordings, is not valid, or has events of one label
            that overlap.
    """
    owners: dict[str, str] = {}
    for file, names in tracks.items():
        for name in names:
            if (other := owners.setdefault(name, file)) != file:
                raise UserError(
                    f"{folder / name} must be the track of one recording, got {other} and {file}; "
                    "rename one"
                )
    locations: list[Location] = []
    clips: list[Recording] = []
    named: list[Recording] = []  # with the labels of their own lines alone
    for file, names in tracks.items():
        events = sorted(
            (event for name in names for event in read(folder / name)),
            key=lambda event: (event.start, event.end),
        )
        _refuse_overlaps(events)
        for event, labels in _merge(events):
            id = f"{file}@{event.start}-{event.end}"
            clip = Recording(id, file, labels, start=event.start, end=event.end)
            locations.append(event.location)
            named.append(clip._replace(labels=event.labels))
            clips.append(clip)
    check_spelling(locations, named)
    check_separators(locations, clips)
    return locations, clips


def _refuse_overlaps(events: Sequence[Event]) -> None:
    latest: dict[str, Event] = {}
    for event in events:
        for label in event.labels:
            other = latest.get(label)
            if other and other.end - event.start > _TOLERANCE:
                raise UserError(
                    f"{other.location.join(event.location)}: events of {label!r} must not overlap, "
                    f"got {other.start:g} to {other.end:g} s and {event.start:g} to {event.end:g} s"
                )
            latest[label] = event


def _merge(events: Sequence[Event]) -> Iterator[tuple[Event, tuple[str, ...]]]:
    """Yield one event of each start and end, with the labels of those that cover half of it.

    Args:
        events: sorted by their starts.
    """
    seen: set[tuple[float, float]] = set()
    open_events: list[Event] = []
    for number, event in enumerate(events):
        open_events = [other for other in open_events if other.end > event.start]
        if (event.start, event.end) not in seen:
            seen.add((event.start, event.end))
            later = []
            for other in events[number:]:
                if other.start >= event.end:
                    break
                later.append(other)
            labels = dict.fromkeys(
                label
                for other in (*open_events, *later)
                if 2 * (min(other.end, event.end) - max(other.start, event.start))
                >= event.end - event.start
                for label in other.labels
            )
            yield event, tuple(labels)
        open_events.append(event)
