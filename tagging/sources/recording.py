"""A recording of a source."""

from typing import NamedTuple


class Recording(NamedTuple):
    """A recording or, with `start` or `end` (seconds), a part of one.

    `labels` are names of classes. Recordings of one `group` (an instrument, a tape) stay in one
    split. `fold` and `split` (train, val or test) are the source's own.
    """

    id: str
    file: str
    labels: tuple[str, ...]
    group: str = ""
    fold: int | None = None
    split: str = ""
    start: float = 0.0
    end: float | None = None
