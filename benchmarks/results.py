"""What a benchmark gives: rows of a table, and targets with what was reached of them."""

from typing import Any, Literal, NamedTuple

from benchmarks.ratios import Spread
from tagging.base.errors import UserError

Cell = str | int | float | Spread | None


class NotMeasured(UserError):
    """What a benchmark takes is not there: the text says what."""


class Target(NamedTuple):
    """A number that was promised.

    Attributes:
        what: the quantity, in words, with its unit.
        bound: whether the limit is to be reached (`at least`) or kept (`at most`).
        limit: the number promised.
        got: the number measured; None where it was not.
        why: what a miss comes from, or why nothing was measured; a sentence without its stop.
    """

    what: str
    bound: Literal["at least", "at most"]
    limit: float
    got: float | None
    why: str = ""


class Result(NamedTuple):
    """A benchmark's result.

    Attributes:
        title: a few words.
        about: what was measured on what, in a sentence or two.
        rows: all with the same columns; None is an empty cell.
        targets: what the numbers are held against; none where a benchmark only informs.
    """

    title: str
    about: str
    rows: list[dict[str, Cell]]
    targets: list[Target]


def as_json(result: Result, machine: dict[str, Any]) -> dict[str, Any]:
    """Return a result and the machine it was measured on as `results.json` holds them."""
    rows = [
        {name: v._asdict() if isinstance(v, Spread) else v for name, v in row.items()}
        for row in result.rows
    ]
    targets = [target._asdict() for target in result.targets]
    return {
        "title": result.title,
        "about": result.about,
        "machine": machine,
        "rows": rows,
        "targets": targets,
    }
