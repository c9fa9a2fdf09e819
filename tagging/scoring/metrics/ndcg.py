"""NDCG: normalized discounted cumulative gain of the ranking of all classes.

Järvelin and Kekäläinen (2002), with the gain of a label 0 or 1 and the discount log2(rank + 1).
Equal scores count as the mean over all orders of the tied classes, as in scikit-learn's
`ndcg_score`: a saturated network must not profit from the order of the classes. A clip without
labels has no value, as in precision at k: no ranking of it is right or wrong.
"""

import numpy as np
from scipy import stats

from tagging.learning.metric import Metric


def ndcg(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each clip's NDCG: float64 (clips,), in 0..1; NaN for a clip without labels."""
    discount = 1 / np.log2(np.arange(2, labels.shape[1] + 2))
    cumulative = np.concatenate([[0.0], np.cumsum(discount)])
    negated = -scores.astype(np.float64)  # unsigned integers have no negatives
    first = stats.rankdata(negated, "min", axis=1).astype(int)
    last = stats.rankdata(negated, "max", axis=1).astype(int)
    gain = (cumulative[last] - cumulative[first - 1]) / (last - first + 1)
    ideal = cumulative[labels.sum(axis=1, dtype=int)]
    return (gain * labels).sum(axis=1) / np.where(ideal > 0, ideal, np.nan)


def metric() -> Metric:
    """Return the metric."""
    return Metric("NDCG", per_clip=ndcg)
