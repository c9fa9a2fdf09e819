"""A class of a label set."""

from typing import NamedTuple


class Class(NamedTuple):
    """What a clip can be labelled with: an identifier (AudioSet's `/m/04rlf`) and its name."""

    id: str
    name: str
