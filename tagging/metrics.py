"""Scores of a tagger: each clip's own (NDCG, precision at 1) and each label's (AP, ROC AUC).

Ties count as the mean over all orders of the tied labels, as scikit-learn counts them in
`ndcg_score`: a network that saturates must not profit from the order of its labels.
"""

import warnings

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
    first = stats.rankdata(-scores, "min", axis=1).astype(int)
    last = stats.rankdata(-scores, "max", axis=1).astype(int)
    gain = (cumulative[last] - cumulative[first - 1]) / (last - first + 1)
    ideal = cumulative[labels.sum(axis=1, dtype=int)]
    return (gain * labels).sum(axis=1) / ideal


def precision_at_1(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return, for each clip, the share of its highest-scored labels that it has: mostly 0 or 1.

    Args and result as for `ndcg`.
    """
    best = scores == scores.max(axis=1, keepdims=True)
    return (best * labels).sum(axis=1) / best.sum(axis=1)


def lwlrap(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the label-weighted label-ranking average precision.

    Fonseca et al. (2019), "Audio tagging with noisy labels and minimal supervision",
    arXiv 1906.02975: label-ranking average precision in which each label of each clip, rather than
    each clip, weighs the same.
    """
    from sklearn.metrics import label_ranking_average_precision_score

    weights = labels.sum(axis=1)
    return float(label_ranking_average_precision_score(labels, scores, sample_weight=weights))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each label's average precision over the clips; NaN for a label that no clip has."""
    from sklearn.metrics import average_precision_score

    found = labels.any(axis=0)
    out = np.full(labels.shape[1], np.nan)
    out[found] = average_precision_score(labels[:, found], scores[:, found], average=None)
    return out


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return each label's area under the ROC curve; NaN for a label that all or no clips have."""
    from sklearn.metrics import roc_auc_score

    mixed = labels.any(axis=0) & ~labels.all(axis=0)
    out = np.full(labels.shape[1], np.nan)
    if mixed.any():
        out[mixed] = roc_auc_score(labels[:, mixed], scores[:, mixed], average=None)
    return out


def bootstrap_interval(
    values: np.ndarray, resamples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`, one value a clip.

    Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # all clips alike: no width
        result = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=resamples,
            batch=100,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
