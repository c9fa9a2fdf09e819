"""Mean average precision over the classes."""

import numpy as np

from tagging.scoring.metric import Metric


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each class's average precision over the clips; NaN for a class that no clip has."""
    once = np.ones((len(labels), 1), np.uint8)  # of all clips, each once
    return resampled_average_precision(labels, scores, once)[0]


def resampled_average_precision(
    labels: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return each class's average precision on each resample: float64 (resamples, classes).

    What scikit-learn's `average_precision_score` gives for the resample's clips, equal scores as
    one threshold included; NaN where the resample has no clip with the label. Clips are sorted once
    for all resamples, and counted between two clips with the label at a time.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: (clips, classes).
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


def resampled(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean on each resample: float64 (resamples,)."""
    return np.nanmean(resampled_average_precision(labels, scores, counts), axis=1)


METRIC = Metric("mAP", of_classes=average_precision, resampled=resampled)
