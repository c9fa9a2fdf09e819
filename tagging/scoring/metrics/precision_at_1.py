"""Precision at 1: whether a clip has the class that is ranked first.

Ties count as the mean over all orders of the tied classes, as for NDCG.
"""

import numpy as np

from tagging.scoring.metric import Metric


def precision_at_1(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return, for each clip, the share of its highest-scored classes that it has: (clips,)."""
    best = scores == scores.max(axis=1, keepdims=True)
    return (best * labels).sum(axis=1) / best.sum(axis=1)


METRIC = Metric("P@1", of_clips=precision_at_1)
