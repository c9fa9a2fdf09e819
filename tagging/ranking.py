"""Scores of a clip's ranking of the labels: NDCG and precision at 1.

Ties count as the mean over all orders of the tied labels, as scikit-learn counts them in
`ndcg_score`: a network that saturates must not profit from the order of its labels.
"""

import numpy as np
from scipy import stats


def ndcg(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each clip's normalized discounted cumulative gain over all its labels.

    Järvelin and Kekäläinen (2002), with the gain of a label 0 or 1 and the discount log2(rank + 1).

    Args:
        labels: 0 or 1, (clips, labels), at least one 1 a clip.
        scores: (clips, labels), higher is more likely.

    Returns:
        float64, (clips,), in 0..1.
    """
    discount = 1 / np.log2(np.arange(2, labels.shape[1] + 2))
    cumulative = np.concatenate([[0.0], np.cumsum(discount)])
    falling = -scores.astype(np.float64)  # unsigned integers have no negatives
    first = stats.rankdata(falling, "min", axis=1).astype(int)
    last = stats.rankdata(falling, "max", axis=1).astype(int)
    gain = (cumulative[last] - cumulative[first - 1]) / (last - first + 1)
    ideal = cumulative[labels.sum(axis=1, dtype=int)]
    return (gain * labels).sum(axis=1) / ideal


def precision_at_1(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return, for each clip, the share of its highest-scored labels that it has: mostly 0 or 1.

    Args and result as for `ndcg`.
    """
    best = scores == scores.max(axis=1, keepdims=True)
    return (best * labels).sum(axis=1) / best.sum(axis=1)
