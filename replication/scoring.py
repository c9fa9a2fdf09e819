"""How a run is scored: each clip on its own, ties as their mean and as the study breaks them."""

from typing import NamedTuple

import numpy as np

from tagging.scoring.metrics.ndcg import ndcg
from tagging.scoring.metrics.precision_at_1 import precision_at_1


class Scored(NamedTuple):
    """Means over clips, in the order of the results' columns."""

    ndcg: float
    ndcg_label_order: float
    precision_at_1: float


def score(labels: np.ndarray, outputs: np.ndarray) -> Scored:
    """Score `outputs`, (clips, classes), against `labels`, 0 or 1, (clips, classes)."""
    return Scored(
        float(ndcg(labels, outputs).mean()),
        float(ndcg(labels, ties_in_label_order(outputs)).mean()),
        float(precision_at_1(labels, outputs).mean()),
    )


def ties_in_label_order(outputs: np.ndarray) -> np.ndarray:
    """Break ties by the classes' order, as a stable sort does: the study's lr = 1 rows need it.

    Classes are in the order of their frequency, so that a tie is broken as well as can be.
    """
    ranks = np.argsort(np.argsort(-outputs, axis=1, kind="stable"), axis=1)
    return -ranks.astype(float)
