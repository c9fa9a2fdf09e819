"""Precision at k: the share of the k highest-ranked classes that are labels of the clip.

Equal scores count as the mean over all orders of the tied classes, as in NDCG. A clip without
labels has no value, as in NDCG: no ranking of it is right or wrong.
"""

from functools import partial

import numpy as np

from tagging.learning.metric import Metric


def precision_at_k(labels: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return each clip's precision at k: float64 (clips,), in 0..1; NaN for a clip without labels.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: (clips, classes).
        k: at most the number of classes.
    """
    threshold = np.partition(scores, -k, axis=1)[:, [-k]]
    above, tied = scores > threshold, scores == threshold
    # Of the tied classes, the first k ranks take all or some.
    places = k - above.sum(axis=1)
    hits = (above * labels).sum(axis=1) + (tied * labels).sum(axis=1) * places / tied.sum(axis=1)
    return np.where(labels.any(axis=1), hits / k, np.nan)


def metric(k: int) -> Metric:
    """Return the metric."""
    return Metric(f"P@{k}", per_clip=partial(precision_at_k, k=k))
