"""The result of a benchmark: rows of a table, and targets with the measured values."""

from typing import Any, Literal, NamedTuple

from benchmarks.timing import Spread
from tagging.base.errors import UserError

Cell = str | int | float | Spread | None


class NotMeasured(UserError):
    """A benchmark lacks something that it needs; the text says what."""


class Target(NamedTuple):
    """A limit that a quantity is compared with.

    Attributes:
        quantity: the quantity, in words, with its unit.
        bound: whether the limit is a minimum (`at least`) or a maximum (`at most`).
        limit: the limit.
        measured: the measured value; None where it was not measured.
        reason: why the limit is missed, or why nothing was measured; without a full stop.
    """

    quantity: str
    bound: Literal["at least", "at most"]
    limit: float
    measured: float | None
    reason: str = ""


class Result(NamedTuple):
    """The result of a benchmark.

    Attributes:
        title: a few words.
        description: what was measured, on which data, in one or two sentences.
        rows: mappings with equal keys, the columns; None is an empty cell.
        targets: limits that the numbers are compared with; empty where there are none.
    """

    title: str
    description: str
    rows: list[dict[str, Cell]]
    targets: list[Target]


def as_json(result: Result, machine: dict[str, Any]) -> dict[str, Any]:
    """Return a result, with the machine it was measured on, as `results.json` stores it."""
    rows = [
        {name: v._asdict() if isinstance(v, Spread) else v for name, v in row.items()}
        for row in result.rows
    ]
    return {
        "title": result.title,
        "description": result.description,
        "machine": machine,
        "rows": rows,
        "targets": [target._asdict() for target in result.targets],
    }
