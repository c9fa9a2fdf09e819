"""d': the mean area under the ROC curve, as the distance between two normal distributions.

Hershey et al. (2017), "CNN architectures for large-scale audio classification", arXiv 1609.09430.
"""

import math

import numpy as np
from scipy import stats

from tagging.learning.metric import Metric
from tagging.scoring.metrics import roc_auc


def d_prime(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the distance in standard deviations; None if the area is undefined, 0 or 1."""
    area = roc_auc.metric().value(labels, scores)
    if area is None or not 0 < area < 1:
        return None
    return float(math.sqrt(2) * stats.norm.ppf(area))


def resampled(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the distance on each resample: float64 (resamples,)."""
    return math.sqrt(2) * stats.norm.ppf(roc_auc.resampled(labels, scores, counts))


def metric() -> Metric:
    """Return the metric."""
    return Metric("d′", decimals=3, overall=d_prime, resampled=resampled)
