"""A recording as a source of sound lists it."""

from typing import NamedTuple


class Recording(NamedTuple):
    """A recording or, with `start` or `end` (seconds), a part of one.

    `labels` are names of classes. `group` names what must not be torn apart between splits (an
    instrument, a tape), `fold` and `split` (train, val or test) what the source itself prescribes.
    """

    id: str
    file: str
    labels: tuple[str, ...]
    group: str = ""
    fold: int | None = None
    split: str = ""
    start: float = 0.0
    end: float | None = None
