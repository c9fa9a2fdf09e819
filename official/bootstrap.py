"""How much mean average precision would differ had other clips been drawn: the bootstrap."""

import warnings

import numpy as np


def draw(clips: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each resample has each clip: uint8 (clips, resamples).

    A resample draws as many clips as there are, with replacement.
    """
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(clips, size=clips) for _ in range(resamples)]
    columns = [np.bincount(places, minlength=clips) for places in drawn]
    return np.stack(columns, axis=1).astype(np.uint8)


def average_precision(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return each label's average precision on each resample: float64 (resamples, labels).

    What scikit-learn's `average_precision_score` gives for the resample's clips, equal scores as
    one threshold included; NaN where the resample has no clip with the label. Clips are sorted once
    for all resamples, and counted between two clips with the label at a time.

    Args:
        labels: 0 or 1, (clips, labels).
        scores: (clips, labels).
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    out = np.full((counts.shape[1], labels.shape[1]), np.nan)
    for label in np.flatnonzero(labels.any(axis=0)):
        falling = np.argsort(-scores[:, label].astype(np.float64), kind="stable")
        score = scores[falling, label]
        hits = np.flatnonzero(labels[falling, label])
        # A threshold takes in all clips of its score; only those with a clip of the label matter.
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
        ends, first_hit = np.unique(last[np.searchsorted(last, hits)], return_index=True)
        taken = _between(counts[falling[: ends[-1] + 1]], np.append(0, ends[:-1] + 1))
        found = _between(counts[falling[hits]], first_hit)  # (thresholds, resamples)
        precision = found.cumsum(axis=0) / np.maximum(taken.cumsum(axis=0), 1)
        with np.errstate(invalid="ignore"):
            out[:, label] = (precision * found).sum(axis=0) / found.sum(axis=0)
    return out


def _between(counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(counts, starts, axis=0, dtype=np.int64)


def interval(
    labels: np.ndarray, scores: np.ndarray, value: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 95% interval of the mean average precision `value` over clips.

    A normal interval with the bootstrap's standard error (Efron and Tibshirani, 1993, "An
    introduction to the bootstrap", chapter 12). Not percentiles: clips of a rare label that are
    drawn twice stand together in the ranking, so that resamples score higher than what they are
    drawn from, by more than the interval is wide.
    """
    by_label = average_precision(labels, scores, draw(len(labels), resamples, seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample without any label
        error = np.nanstd(np.nanmean(by_label, axis=1), ddof=1)
    return float(value - 1.96 * error), float(value + 1.96 * error)
