"""Embeddings are triplet_statistics before they are scored: whether they can be AudioSet's at all.

AudioSet's are VGGish's 128 numbers a second after PCA and whitening, clipped to -2 .. 2 and rounded
to 0 .. 255. The limits are from all 42,531 clips of its balanced training and evaluation sets: a
clip's mean lies between 105 and 153, its standard deviation between 36 and 121, and 38% to 60% of
its numbers are below 127. In one clip, frames resemble the ones before them: the correlation is
0.04 to 0.90, its mean 0.42; of noise it is 0, of frames in any order 0.01.
"""

from collections.abc import Sequence

import numpy as np

from tagging.base.errors import UserError

BINS = 128
ACCEPTED = "it takes AudioSet's: 128 whole numbers of 0 to 255 a second"
MIDDLE = 127  # what is zero before it is rounded
MEAN, DEVIATION, BELOW = (95, 165), (25, 128), (0.25, 0.75)
CLIPS, FEWEST = 16, 0.1  # so many clips' mean correlation is at least this


def examine(clips: Sequence[np.ndarray], name: str) -> list[str | None]:
    """Return of each clip why it cannot be of AudioSet's embeddings, and what is likely the cause.

    Args:
        clips: each (frames, 128), where it is right.
        name: what errors call them.

    Raises:
        UserError: if all the others together cannot be.
    """
    problems = [find_problem(clip) for clip in clips]
    longer = [
        _likeness(clip)
        for clip, problem in zip(clips, problems, strict=True)
        if problem is None and len(clip) > 1
    ]
    if len(longer) >= CLIPS and np.mean(longer) < FEWEST:
        raise UserError(
            f"{name}: neighbouring frames of {len(longer)} clips are not alike "
            f"(correlation {np.mean(longer):.2f}), so the numbers are noise, or "
            f"laid out otherwise than frame by frame; {ACCEPTED}"
        )
    return problems


def find_problem(clip: np.ndarray) -> str | None:
    """Return why a clip cannot be of AudioSet's embeddings; None if it can."""
    if not clip.size:
        return "the embedding is empty"
    if clip.ndim != 2 or clip.shape[1] != BINS:
        return f"the embedding is of the shape {clip.shape}, not (frames, {BINS})"
    if not np.issubdtype(clip.dtype, np.number) or not np.isfinite(clip).all():
        return "the embedding holds what is no finite number"
    low, high = clip.min(), clip.max()
    if (clip != np.rint(clip)).any():
        return (
            f"the numbers are no whole ones ({low:.3g} to {high:.3g}), likely VGGish's output "
            "before PCA and quantization"
        )
    if low < 0 or high > 255:
        return (
            f"the numbers go from {low:g} to {high:g}, likely of signed bytes or another "
            "quantization"
        )
    values = clip.astype(np.float64)
    mean, deviation, below = values.mean(), values.std(), (values < MIDDLE).mean()
    if deviation == 0:
        return f"all numbers are {low:g}, likely a clip that was never filled"
    if below < BELOW[0] and mean >= MIDDLE - 1:
        return (
            f"only {below:.0%} of the numbers are below {MIDDLE}, likely VGGish's output quantized "
            "without PCA, which has none below zero"
        )
    limits = ((mean, MEAN), (deviation, DEVIATION), (below, BELOW))
    if not all(least <= value <= most for value, (least, most) in limits):
        return (
            f"mean {mean:.0f} and standard deviation {deviation:.0f} are unlike any clip of "
            "AudioSet (105 to 153, 36 to 121), likely of another network or quantization"
        )
    return None


def _likeness(clip: np.ndarray) -> float:
    """Return how alike neighbouring frames are: the correlation, of a clip of two or more."""
    away = clip - clip.mean(dtype=np.float64)
    return float((away[1:] * away[:-1]).mean() / (away**2).mean())
