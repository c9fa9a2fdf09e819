"""Mean average precision over the classes."""

import numpy as np

from tagging.learning.metric import Metric


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each class's average precision over the clips; NaN for a class without clips."""
    once = np.ones((len(labels), 1), np.uint8)  # each clip once
    return resampled_average_precision(labels, scores, once)[0]


def resampled_average_precision(
    labels: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return each class's average precision on each resample: float64 (resamples, classes).

    Equal to scikit-learn's `average_precision_score` on the resample's clips, with equal scores as
    one threshold; NaN where the resample has no clip with the label. Own code, as it sorts the
    clips once for all resamples and counts them between neighbouring clips with the label.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: (clips, classes).
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    out = np.full((counts.shape[1], labels.shape[1]), np.nan)
    for label in np.flatnonzero(labels.any(axis=0)):
        descending = np.argsort(-scores[:, label].astype(np.float64), kind="stable")
        score = scores[descending, label]
        hits = np.flatnonzero(labels[descending, label])
        # A threshold includes all clips of its score. Only thresholds with a hit matter.
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
        ends, first_hit = np.unique(last[np.searchsorted(last, hits)], return_index=True)
        retrieved = _sum_between(counts[descending[: ends[-1] + 1]], np.append(0, ends[:-1] + 1))
        relevant = _sum_between(counts[descending[hits]], first_hit)  # (thresholds, resamples)
        precision = relevant.cumsum(axis=0) / np.maximum(retrieved.cumsum(axis=0), 1)
        with np.errstate(invalid="ignore"):
            out[:, label] = (precision * relevant).sum(axis=0) / relevant.sum(axis=0)
    return out


def _sum_between(counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(counts, starts, axis=0, dtype=np.int64)


def resampled(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean on each resample: float64 (resamples,)."""
    return np.nanmean(resampled_average_precision(labels, scores, counts), axis=1)


def metric() -> Metric:
    """Return the metric."""
    return Metric("mAP", per_class=average_precision, resampled=resampled)
