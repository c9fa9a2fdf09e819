"""A class of a label set."""

from typing import NamedTuple


class Class(NamedTuple):
    """A label that clips can have: its identifier (AudioSet's `/m/04rlf`) and its name."""

    id: str
    name: str
