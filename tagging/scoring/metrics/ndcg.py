"""NDCG: normalized discounted cumulative gain of each clip's ranking of all classes.

Järvelin and Kekäläinen (2002), with the gain of a label 0 or 1 and the discount log2(rank + 1).
Ties count as the mean over all orders of the tied classes, as scikit-learn counts them in
`ndcg_score`: a network that saturates must not profit from the order of its classes.
"""

import numpy as np
from scipy import stats

from tagging.scoring.metric import Metric


def ndcg(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each clip's NDCG: float64 (clips,), in 0..1; NaN for a clip without a label."""
    discount = 1 / np.log2(np.arange(2, labels.shape[1] + 2))
    cumulative = np.concatenate([[0.0], np.cumsum(discount)])
    falling = -scores.astype(np.float64)  # unsigned integers have no negatives
    first = stats.rankdata(falling, "min", axis=1).astype(int)
    last = stats.rankdata(falling, "max", axis=1).astype(int)
    gain = (cumulative[last] - cumulative[first - 1]) / (last - first + 1)
    ideal = cumulative[labels.sum(axis=1, dtype=int)]
    # A clip without a label has no ranking to be right or wrong about.
    return (gain * labels).sum(axis=1) / np.where(ideal > 0, ideal, np.nan)


METRIC = Metric("NDCG", of_clips=ndcg)
