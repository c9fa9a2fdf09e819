"""Interleaved timing: implementations run one after the other in each round.

A machine that slows down for a while slows all implementations of a round, so the ratios of their
times within a round are stable.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from tagging.base.progress import Progress

Key = TypeVar("Key")


class Spread(NamedTuple):
    """The median, the lowest and the highest of some numbers."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Return the median and the extremes of at least one number."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Iterable[float], denominators: Iterable[float]) -> list[float]:
    """Return the ratio of two times in each round.

    Raises:
        ValueError: if their numbers of rounds differ.
    """
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def measure_seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleave(
    implementations: Mapping[Key, Callable[[], float]], rounds: int, progress: Progress
) -> dict[Key, list[float]]:
    """Call each implementation once in every round.

    Args:
        implementations: each does its work once and returns the seconds it took.
        rounds: number of rounds.
        progress: advanced by one after each call.

    Returns:
        The seconds of each implementation, one number per round.
    """
    seconds: dict[Key, list[float]] = {name: [] for name in implementations}
    for _ in range(rounds):
        for name, run in implementations.items():
            seconds[name].append(run())
            progress.advance()
    return seconds


def interleave_after_warm_up(
    name: str, implementations: Mapping[Key, Callable[[], float]], rounds: int
) -> dict[Key, list[float]]:
    """Call `interleave` after a round that does not count; `name` labels the progress bar."""
    with Progress(name, (rounds + 1) * len(implementations), "run") as progress:
        interleave(implementations, 1, progress)
        return interleave(implementations, rounds, progress)
