"""Label-weighted label-ranking average precision.

Fonseca et al. (2019), "Audio tagging with noisy labels and minimal supervision", arXiv 1906.02975:
label-ranking average precision in which every label of every clip has the same weight.
"""

import numpy as np

from tagging.learning.metric import Metric


def lwlrap(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Return the metric; clips without labels have no weight, None if no clip has a label."""
    from sklearn.metrics import label_ranking_average_precision_score

    weights = labels.sum(axis=1)
    if not weights.any():
        return None
    return float(label_ranking_average_precision_score(labels, scores, sample_weight=weights))


def metric() -> Metric:
    """Return the metric."""
    return Metric("lwlrap", decimals=3, overall=lwlrap)
