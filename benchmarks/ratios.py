"""Ways timed in turns, and the ratios of their times: each with the other's time of its own turn.

A machine that gets slower for a while slows all ways of a turn, so ratios stay what they are.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from tagging.base.progress import Progress


class Spread(NamedTuple):
    """The median, the lowest and the highest of some numbers."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Return the median and the ends of one number or more."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def ratios(upper: Iterable[float], lower: Iterable[float]) -> list[float]:
    """Return the ratio of two times in each turn.

    Raises:
        ValueError: if one has more turns than the other.
    """
    return [a / b for a, b in zip(upper, lower, strict=True)]


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def alternate(
    ways: Mapping[str, Callable[[], float]], turns: int, progress: Progress
) -> dict[str, list[float]]:
    """Call each way once a turn, one after the other.

    Args:
        ways: each does its work once and returns the seconds it took.
        turns: how often.
        progress: advanced by a unit a call.

    Returns:
        Each way's seconds, a number a turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            seconds[name].append(way())
            progress.advance()
    return seconds


def after_a_warm_up(
    name: str, ways: Mapping[str, Callable[[], float]], turns: int
) -> dict[str, list[float]]:
    """Do as `alternate`, after a turn that does not count; `name` is the progress bar's."""
    with Progress(name, (turns + 1) * len(ways), "run") as progress:
        alternate(ways, 1, progress)
        return alternate(ways, turns, progress)
