"""How much a metric would differ had other clips been drawn: the bootstrap."""

import numpy as np


def draw(clips: int, resamples: int, seed: int | list[int]) -> np.ndarray:
    """Return how often each resample has each clip: uint8 (clips, resamples).

    A resample draws as many clips as there are, with replacement.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((clips, resamples), np.uint8)
    for column in counts.T:
        column[:] = np.bincount(rng.integers(clips, size=clips), minlength=clips)
    return counts


def mean_over_clips(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of the clips' values on each resample: float64 (resamples,).

    Args:
        values: one a clip, NaN for a clip that has none, (clips,).
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # NaN for a resample without any of them
        return values[known] @ counts[known] / counts[known].sum(axis=0)


def interval(
    value: float, resampled: np.ndarray, lowest: float = -np.inf, highest: float = np.inf
) -> tuple[float, float]:
    """Return the 95% interval of a metric over clips.

    A normal interval with the bootstrap's standard error (Efron and Tibshirani, 1993, "An
    introduction to the bootstrap", chapter 12). Not percentiles: clips of a rare class that are
    drawn twice stand together in the ranking, so that the average precision of resamples is higher
    than that of what they are drawn from, by more than the interval is wide.

    Args:
        value: of the metric.
        resampled: the metric on each resample, (resamples,).
        lowest: what the metric cannot be below: the interval ends there.
        highest: what it cannot be above.
    """
    reach = 1.96 * float(np.nanstd(resampled, ddof=1))
    return max(value - reach, lowest), min(value + reach, highest)
