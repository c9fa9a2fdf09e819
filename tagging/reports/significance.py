"""Verdicts on differences: intervals, p-values, and Holm's correction for their number."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEVEL = 0.05  # share of intervals that exclude zero by chance


class Difference(NamedTuple):
    """A mean of paired differences; interval and p-value are None for a single pair."""

    mean: float
    interval: tuple[float, float] | None
    p_value: float | None = None  # two-sided, not corrected

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def format(self, decimals: int) -> str:
        """Return the mean and, in brackets, its interval."""
        mean, *ends = (f"{value:+.{decimals}f}" for value in (self.mean, *(self.interval or ())))
        return f"{mean} ({' to '.join(ends)})" if ends else mean


def paired_difference(new: Sequence[float], old: Sequence[float]) -> Difference:
    """Return how much higher `new` is than `old`, with the t-interval of the mean of the pairs.

    Student (1908), "The probable error of a mean". It assumes normally distributed differences,
    which few runs cannot refute.

    Args:
        new: a score of each run.
        old: the same runs' scores, in the same order.
    """
    pairs = [a - b for a, b in zip(new, old, strict=True)]
    center = mean(pairs)
    if len(pairs) == 1:
        return Difference(center, None)
    error, freedom = stdev(pairs) / len(pairs) ** 0.5, len(pairs) - 1
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    t = abs(center) / error if error else np.inf if center else 0  # without error, pairs are equal
    p_value = 2 * float(stats.t.sf(t, freedom))
    return Difference(center, (center - margin, center + margin), p_value)


def bootstrap_p_value(difference: float, resampled: np.ndarray) -> float:
    """Return the two-sided p-value of a difference, by the bootstrap.

    The resampled differences are centred at zero, as they would be without a difference (Hall and
    Wilson, 1991, "Two guidelines for bootstrap hypothesis testing"). The p-value counts those that
    are as far from zero as the difference; 1 is added to numerator and denominator, so that it is
    never 0 (Davison and Hinkley, 1997, "Bootstrap methods and their application", section 4.2).

    Args:
        difference: on all clips.
        resampled: on each resample, NaN where it is undefined, (resamples,).
    """
    known = resampled[~np.isnan(resampled)]
    count = int((np.abs(known - known.mean()) >= abs(difference)).sum()) if len(known) else 0
    return (count + 1) / (len(known) + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order.

    Holm (1979), "A simple sequentially rejective multiple test procedure": the smallest of n is
    multiplied by n, the next by n - 1, and so on; none is below a smaller one's, nor above 1.
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def find_verdicts(
    family: Sequence[Sequence[Difference]], higher_is_better: bool | Sequence[bool] = True
) -> list[str]:
    """Return the verdict on each comparison of a family, after Holm's correction over the family.

    A comparison is a difference on one split or on several. A gain or a loss has one sign and
    intervals that exclude zero on all splits, and holds after the correction; its p-value is the
    largest of the splits', as all must differ. A hint has one sign on all splits, and an interval
    that excludes zero on at least one. Else the difference is not significant.

    Args:
        family: the differences of each comparison.
        higher_is_better: of the metric of all comparisons, or of each.

    Returns:
        gain, loss, hint of a gain, hint of a loss, not significant, or one run where a difference
        has no interval.
    """
    p_values = [
        [difference.p_value for difference in comparison if difference.p_value is not None]
        for comparison in family
    ]
    is_tested = [len(known) == len(splits) for known, splits in zip(p_values, family, strict=True)]
    corrected = iter(
        holm([max(known) for known, tested in zip(p_values, is_tested, strict=True) if tested])
    )
    if isinstance(higher_is_better, bool):
        higher_is_better = [higher_is_better] * len(family)
    verdicts = []
    for comparison, tested, higher in zip(family, is_tested, higher_is_better, strict=True):
        if not tested:
            verdicts.append("one run")
            continue
        holds = next(corrected) < LEVEL
        excludes_zero = [difference.excludes_zero for difference in comparison]
        signs = {difference.mean > 0 for difference in comparison}
        if len(signs) > 1 or not any(excludes_zero):
            verdicts.append("not significant")
        else:
            name = "gain" if signs == {higher} else "loss"
            verdicts.append(name if holds and all(excludes_zero) else f"hint of a {name}")
    return verdicts


def expected_by_chance(intervals: int) -> str:
    """Return how many intervals would exclude zero without any difference, as text."""
    return f"{LEVEL * intervals:.2g} of {intervals}"
