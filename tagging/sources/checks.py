"""Checks of clips that people labelled, whose errors name files and lines."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from tagging.base.errors import UserError
from tagging.sources.recording import Recording
from tagging.sources.text import clean_text, fold_text, has_control, quote_both

SPLITS = ("train", "val", "test")
SEPARATOR = ";"

_OTHER_SEPARATORS = re.compile("[,|/]")  # which people write between labels


class Location(NamedTuple):
    """The place that names a clip: a line of a file or, without one, a file or folder."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, line {self.line}"

    def join(self, other: "Location") -> str:
        """Return both places, for a sentence that begins with them."""
        if self == other:
            return str(self)
        if self.file == other.file:
            return f"{self.file}, lines {self.line} and {other.line}"
        return f"{self} and {other}"


def parse_labels(location: Location, text: str) -> tuple[str, ...]:
    """Return the labels that a text names, separated by `;`.

    Raises:
        UserError: if one is empty or has a control character.
    """
    labels = tuple(map(clean_text, text.split(SEPARATOR)))
    if not all(labels):
        raise UserError(
            f"{location}: labels must be one or more, separated by {SEPARATOR}, got {text!r}"
        )
    for label in labels:
        if has_control(label):
            raise UserError(f"{location}: a label must have no control character, got {label!a}")
    return labels


def parse_seconds(location: Location, column: str, text: str) -> float:
    """Return the number of a text.

    Raises:
        UserError: if it is not a finite number of 0 or more.
    """
    # float() also accepts "1_0", "nan" and digits of other alphabets.
    is_number = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?", text)
    if not is_number or not math.isfinite(float(text)):
        raise UserError(f"{location}: {column} must be seconds, 0 or more, got {text!r}")
    return float(text)


def check_duplicates(locations: Sequence[Location], clips: Sequence[Recording]) -> None:
    """Refuse a clip that is named twice.

    Raises:
        UserError: naming both places.
    """
    seen: dict[tuple[str, float, float | None], tuple[Location, Recording]] = {}
    for location, clip in zip(locations, clips, strict=True):
        part = (clip.file, clip.start, clip.end)
        if part in seen:
            first, other = seen[part]
            for column in ("fold", "split"):
                values = getattr(other, column), getattr(clip, column)
                if values[0] != values[1]:
                    raise UserError(
                        f"{first.join(location)}: {clip.id} must be in one {column}, got "
                        f"{values[0]} and {values[1]}"
                    )
            raise UserError(
                f"{first.join(location)}: {clip.id} must have one row, with all its labels"
            )
        seen[part] = location, clip


def check_spelling(locations: Sequence[Location], clips: Sequence[Recording]) -> None:
    """Refuse labels that look alike or differ in case alone, and repeated labels of a clip.

    Raises:
        UserError: naming the places.
    """
    spellings: dict[str, tuple[Location, str]] = {}
    for location, clip in zip(locations, clips, strict=True):
        for label in clip.labels:
            first, spelling = spellings.setdefault(fold_text(label), (location, label))
            if spelling != label:
                raise UserError(
                    f"{first.join(location)}: a label must have one spelling, got "
                    f"{' and '.join(quote_both(spelling, label))}"
                )
        if len(set(clip.labels)) < len(clip.labels):
            raise UserError(f"{location}: {clip.id} has a label twice")


def check_separators(locations: Sequence[Location], clips: Sequence[Recording]) -> None:
    """Refuse a label that has another one between commas, as labels are separated by `;`.

    Raises:
        UserError: naming the places.
    """
    label_locations: dict[str, Location] = {}
    for location, clip in zip(locations, clips, strict=True):
        for label in clip.labels:
            label_locations.setdefault(label, location)
    folded = {fold_text(label): label for label in label_locations}
    for label, location in label_locations.items():
        parts = [clean_text(part) for part in _OTHER_SEPARATORS.split(label)]
        others = [folded[key] for key in map(fold_text, parts) if key in folded]
        if len(parts) > 1 and others:
            known = " and ".join(
                f"{other!r} ({_describe_near(label_locations[other], location)})"
                for other in others
            )
            raise UserError(
                f"{location}: the label {label!r} has parts that are labels of other rows, "
                f"{known}; write {SEPARATOR.join(parts)} if these are several labels, or rename "
                "one if not"
            )


def _describe_near(location: Location, other: Location) -> str:
    """Return a place without its file where the other place is in the same one."""
    is_near = location.file == other.file and location.line is not None
    return f"line {location.line}" if is_near else str(location)


def check_splits(locations: Sequence[Location], clips: Sequence[Recording]) -> None:
    """Refuse folds and splits of some clips only, and groups in two of them.

    Raises:
        UserError: naming the place.
    """
    for column in ("fold", "split"):
        absent = [getattr(clip, column) in (None, "") for clip in clips]
        if any(absent) and not all(absent):
            raise UserError(
                f"{locations[absent.index(True)]}: {column} must be there for all clips or for none"
            )
        group_values: dict[str, object] = {}
        for location, clip in zip(locations, clips, strict=True):
            value = getattr(clip, column)
            if clip.group and group_values.setdefault(clip.group, value) != value:
                raise UserError(
                    f"{location}: the group {clip.group} must be in one {column}, got "
                    f"{group_values[clip.group]} and {value}"
                )
