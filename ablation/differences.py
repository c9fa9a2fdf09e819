"""Differences between two methods that were trained with the same seeds."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Literal, NamedTuple

from scipy import stats

CONFIDENCE = 0.95


class Difference(NamedTuple):
    """A mean of paired differences, and its interval; None where one pair shows no spread."""

    mean: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> Literal["gain", "loss", "none", "unknown"]:
        """Whether the interval lies above zero, below, or has it inside."""
        if self.interval is None:
            return "unknown"
        low, high = self.interval
        return "gain" if low > 0 else "loss" if high < 0 else "none"


def paired_difference(new: Sequence[float], old: Sequence[float]) -> Difference:
    """Return how much higher `new` is than `old`, with the t-interval of the mean of the pairs.

    Student (1908), "The probable error of a mean". It takes the differences for draws from a
    normal distribution, which few seeds cannot show to be wrong.

    Args:
        new: a score a seed.
        old: the same seeds' scores, in the same order.
    """
    pairs = [a - b for a, b in zip(new, old, strict=True)]
    middle = mean(pairs)
    if len(pairs) == 1:
        return Difference(middle, None)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1) * stdev(pairs) / len(pairs) ** 0.5
    return Difference(middle, (middle - float(reach), middle + float(reach)))
