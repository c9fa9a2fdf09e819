"""Accuracy: the share of the clips whose label is ranked first.

Precision at 1 where each clip has one label: equal scores count as the mean over all orders of the
tied classes, and a clip without labels has no value.
"""

import numpy as np

from tagging.learning.metric import Metric


def accuracy(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return, for each clip, the share of its highest-scored classes that are labels: (clips,)."""
    best = scores == scores.max(axis=1, keepdims=True)
    return np.where(labels.any(axis=1), (best * labels).sum(axis=1) / best.sum(axis=1), np.nan)


def metric() -> Metric:
    """Return the metric."""
    return Metric("accuracy", per_clip=accuracy)
