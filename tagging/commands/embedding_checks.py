"""Checks of embeddings before they are scored: whether they can be AudioSet's.

AudioSet's embeddings are VGGish's 128 numbers a second after PCA and whitening, clipped to -2 .. 2
and rounded to 0 .. 255. The limits are from all 42,531 clips of its balanced training and
evaluation sets: a clip's mean lies between 105 and 153, its standard deviation between 36 and 121,
and 38% to 60% of its numbers are below 127. Neighbouring frames of a clip correlate by 0.04 to
0.90, on average 0.42; of noise by 0, of shuffled frames by 0.01.
"""

from collections.abc import Sequence

import numpy as np

from tagging.base.errors import UserError

BINS = 128
EXPECTED = "embeddings must be AudioSet's: 128 integers of 0 to 255 a second"
ZERO = 127  # the quantized value of 0
MEAN, STD, SHARE_BELOW_ZERO = (95, 165), (25, 128), (0.25, 0.75)
# The mean correlation of neighbouring frames is checked where a file has this many clips.
MIN_CLIPS, MIN_CORRELATION = 16, 0.1


def check_embeddings(clips: Sequence[np.ndarray], name: str) -> list[str | None]:
    """Return for each clip why it cannot be AudioSet's, with the likely cause, or None.

    Args:
        clips: each (frames, 128) if it is valid.
        name: of the file, for errors.

    Raises:
        UserError: if the order of the numbers is not AudioSet's in all clips together.
    """
    problems = [describe_problem(clip) for clip in clips]
    correlations = [
        _frame_correlation(clip)
        for clip, problem in zip(clips, problems, strict=True)
        if problem is None and len(clip) > 1
    ]
    if len(correlations) >= MIN_CLIPS and np.mean(correlations) < MIN_CORRELATION:
        raise UserError(
            f"{name}: neighbouring frames of {len(correlations)} clips are uncorrelated "
            f"({np.mean(correlations):.2f}): the numbers are noise, or not stored frame by frame; "
            f"{EXPECTED}"
        )
    return problems


def describe_problem(clip: np.ndarray) -> str | None:
    """Return why a clip cannot be AudioSet's, with the likely cause, or None."""
    if not clip.size:
        return "the embedding is empty"
    if clip.ndim != 2 or clip.shape[1] != BINS:
        return f"the shape must be (frames, {BINS}), got {clip.shape}"
    if not np.issubdtype(clip.dtype, np.number) or not np.isfinite(clip).all():
        return "the embedding must have finite numbers"
    low, high = clip.min(), clip.max()
    if (clip != np.rint(clip)).any():
        return (
            f"the numbers must be integers, got {low:.3g} to {high:.3g}, likely VGGish's output "
            "before PCA and quantization"
        )
    if low < 0 or high > 255:
        return (
            f"the numbers must be from 0 to 255, got {low:g} to {high:g}, likely signed bytes or "
            "another quantization"
        )
    values = clip.astype(np.float64)
    mean, std, below = values.mean(), values.std(), (values < ZERO).mean()
    if std == 0:
        return f"all numbers are {low:g}, likely a clip that was never filled"
    if below < SHARE_BELOW_ZERO[0] and mean >= ZERO - 1:
        return (
            f"only {below:.0%} of the numbers are below {ZERO}, likely VGGish's output quantized "
            "without PCA, which has none below zero"
        )
    limits = ((mean, MEAN), (std, STD), (below, SHARE_BELOW_ZERO))
    if not all(lowest <= value <= highest for value, (lowest, highest) in limits):
        return (
            f"mean {mean:.0f} and standard deviation {std:.0f} are unlike any clip of AudioSet "
            "(105 to 153, 36 to 121), likely another network or quantization"
        )
    return None


def _frame_correlation(clip: np.ndarray) -> float:
    """Return the correlation of neighbouring frames of a clip, (2 or more frames, 128)."""
    centred = clip - clip.mean(dtype=np.float64)
    return float((centred[1:] * centred[:-1]).mean() / (centred**2).mean())
