"""Scores over many clips: each label's average precision and ROC AUC, lwlrap, and intervals.

What training itself looks at, each clip's ranking, is in `ranking.py`: a metric added here has
models evaluated again, not trained again.
"""

import math
import warnings

import numpy as np
from scipy import stats


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


def d_prime(roc_auc: float | None) -> float | None:
    """Return the d' of a mean area under the ROC curve; None if it is unknown, 0 or 1.

    The distance, in standard deviations, of two normal distributions whose scores have that area
    (Hershey et al., 2017, arXiv 1609.09430).
    """
    if roc_auc is None or not 0 < roc_auc < 1:
        return None
    return float(math.sqrt(2) * stats.norm.ppf(roc_auc))


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
