"""Mean area under the ROC curve over the classes."""

import numpy as np
from scipy import stats

from tagging.scoring.metric import Metric


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each class's area under the ROC curve; NaN for a class that all or no clips have.

    By the ranks of the clips with the label (Mann and Whitney, 1947): the numbers that
    scikit-learn's `roc_auc_score` gives, in a sixth of the time.
    """
    have = labels.sum(axis=0, dtype=np.int64)
    ranks = stats.rankdata(scores, axis=0)
    above = (ranks * labels).sum(axis=0) - have * (have + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / (have * (len(labels) - have))


def resampled_roc_auc(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return each class's area on each resample: float64 (resamples, classes).

    The share of the pairs of a clip with the label and one without that are ranked right, equal
    scores as half; NaN where a resample has no such pair.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: (clips, classes).
        counts: how often each resample has each clip, integers (clips, resamples).
    """
    out = np.full((counts.shape[1], labels.shape[1]), np.nan)
    for label in np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0)):
        falling = np.argsort(-scores[:, label].astype(np.float64), kind="stable")
        score, drawn = -scores[falling, label].astype(np.float64), counts[falling]
        hits = np.flatnonzero(labels[falling, label])
        without = drawn.astype(np.int64)
        without[hits] = 0
        above = np.concatenate([np.zeros_like(without[:1]), without.cumsum(axis=0)])
        wrong = above[np.searchsorted(score, score[hits], "left")]
        wrong += above[np.searchsorted(score, score[hits], "right")]
        pairs = drawn[hits].sum(axis=0, dtype=np.int64) * above[-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, label] = 1 - (drawn[hits] * wrong).sum(axis=0) / 2 / pairs
    return out


def resampled(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean on each resample: float64 (resamples,)."""
    return np.nanmean(resampled_roc_auc(labels, scores, counts), axis=1)


METRIC = Metric("ROC AUC", of_classes=roc_auc, resampled=resampled)
