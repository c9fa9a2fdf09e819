"""The audit of the published study as code: each claim is recomputed from the numbers and the data.

`printed.csv` holds the 90 numbers of the study's Tables 1 to 3.
"""

from typing import NamedTuple

import numpy as np
import torch

from tagging.learning.losses import LOSSES
from tagging.scoring.metrics.ndcg import ndcg


def one_hot_loss(labels: np.ndarray, loss: str, column: int) -> float:
    """Return the loss of outputs that a softmax has collapsed to one class, the same for all clips.

    Args:
        labels: 0 or 1, (clips, classes).
        loss: a name in `tagging.learning.losses.LOSSES`.
        column: the class that always gets 1.
    """
    outputs = torch.from_numpy(collapsed_scores(labels, column)).float()
    return float(LOSSES[loss]()(outputs, torch.from_numpy(labels).float()))


def collapsed_scores(labels: np.ndarray, column: int) -> np.ndarray:
    """Return what a collapsed softmax answers: 1 for one class, 0 for all others, all tied."""
    scores = np.zeros(labels.shape)
    scores[:, column] = 1
    return scores


class Fit(NamedTuple):
    """How well a printed share fits a whole number of clips out of `clips`."""

    clips: int
    hits: int
    error: float


def fit_share(share: float, clips: int) -> Fit:
    """Return the whole number of clips out of `clips` that is nearest to a printed share."""
    hits = round(share * clips)
    return Fit(clips, hits, abs(hits / clips - share))


def constant_scores(train_labels: np.ndarray, clips: int) -> np.ndarray:
    """Rank all clips alike, by the classes' frequency: float64 (clips, classes)."""
    return np.tile(train_labels.sum(axis=0, dtype=float), (clips, 1))


def flattened_ndcg(labels: np.ndarray, scores: np.ndarray, batch: int) -> float:
    """Return NDCG as a metric gives it that takes a batch for one long list of labels.

    `torchmetrics.functional.retrieval_normalized_dcg` flattens what it gets; called with (batch,
    classes) arrays, it ranks the pairs of all clips of the batch against each other.
    """
    values = [
        ndcg(
            labels[begin : begin + batch].reshape(1, -1),
            scores[begin : begin + batch].reshape(1, -1),
        )
        for begin in range(0, len(labels), batch)
    ]
    return float(np.mean(values))
