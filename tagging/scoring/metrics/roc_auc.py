"""Mean area under the ROC curve over the classes."""

import numpy as np
from scipy import stats

from tagging.learning.metric import Metric


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each class's area under the ROC curve; NaN where all clips have the label, or none.

    Computed from the ranks of the clips with the label (Mann and Whitney, 1947). Equal to
    scikit-learn's `roc_auc_score`, in a sixth of the time.
    """
    positives = labels.sum(axis=0, dtype=np.int64)
    ranks = stats.rankdata(scores, axis=0)
    above = (ranks * labels).sum(axis=0) - positives * (positives + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / (positives * (len(labels) - positives))


def resampled_roc_auc(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return each class's area on each resample: float64 (resamples, classes).

    The share of correctly ranked pairs of a clip with the label and a clip without, with equal
    scores as half; NaN where a resample has no pair.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: (clips, classes).
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    out = np.full((counts.shape[1], labels.shape[1]), np.nan)
    for label in np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0)):
        descending = np.argsort(-scores[:, label].astype(np.float64), kind="stable")
        score, drawn = -scores[descending, label].astype(np.float64), counts[descending]
        hits = np.flatnonzero(labels[descending, label])
        negatives = drawn.astype(np.int64)
        negatives[hits] = 0
        above = np.concatenate([np.zeros_like(negatives[:1]), negatives.cumsum(axis=0)])
        wrong = above[np.searchsorted(score, score[hits], "left")]
        wrong += above[np.searchsorted(score, score[hits], "right")]
        pairs = drawn[hits].sum(axis=0, dtype=np.int64) * above[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, label] = 1 - (drawn[hits] * wrong).sum(axis=0) / 2 / pairs
    return out


def resampled(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean on each resample: float64 (resamples,)."""
    return np.nanmean(resampled_roc_auc(labels, scores, counts), axis=1)


def metric() -> Metric:
    """Return the metric."""
    return Metric("ROC AUC", per_class=roc_auc, resampled=resampled)
