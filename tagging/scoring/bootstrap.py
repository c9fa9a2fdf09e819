"""Bootstrap: how much a metric would vary over other draws of test clips."""

import numpy as np
from pydantic import Field

from tagging.data.parameters import Int, Section


class Evaluate(Section):
    """The section `evaluate`: how intervals are computed."""

    resamples: Int = Field(ge=100)
    seed: Int = Field(ge=0)


def draw_resamples(clips: int, resamples: int, seed: int | list[int]) -> np.ndarray:
    """Return how often each resample has each clip: uint8 (clips, resamples).

    Each resample draws `clips` clips with replacement.
    """
    rng = np.random.default_rng(seed)
    counts = np.empty((clips, resamples), np.uint8)
    for column in counts.T:
        column[:] = np.bincount(rng.integers(clips, size=clips), minlength=clips)
    return counts


def mean_over_clips(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean of the clips' values on each resample: float64 (resamples,).

    Args:
        values: one value a clip, NaN where a clip has none, (clips,).
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # NaN for a resample without any known value
        return values[known] @ counts[known] / counts[known].sum(axis=0)


def confidence_interval(
    value: float, resampled: np.ndarray, minimum: float = -np.inf, maximum: float = np.inf
) -> tuple[float, float]:
    """Return the 95% confidence interval of a metric over clips.

    A normal interval with the bootstrap's standard error (Efron and Tibshirani, 1993, "An
    introduction to the bootstrap", chapter 12). Percentiles would be biased: a clip of a rare class
    that is drawn twice has equal neighbouring ranks, so that the average precision of resamples
    exceeds that of the original clips by more than the width of the interval.

    Args:
        value: the metric on all clips.
        resampled: the metric on each resample, (resamples,).
        minimum: the lowest possible value of the metric.
        maximum: the highest possible value.
    """
    margin = 1.96 * float(np.nanstd(resampled, ddof=1))
    return max(value - margin, minimum), min(value + margin, maximum)
