"""The audit of the published study as code: each claim is recomputed from the numbers and the data.

`printed.csv` holds the 90 numbers of the study's Tables 1 to 3.
"""

from typing import NamedTuple

import numpy as np
import torch

from tagging.losses import LOSSES
from tagging.ranking import ndcg, precision_at_1


def one_hot_loss(labels: np.ndarray, loss: str, label: int) -> float:
    """Return the loss of outputs that a softmax has collapsed to one label, the same for all clips.

    Args:
        labels: 0 or 1, (clips, labels).
        loss: a name in `tagging.losses.LOSSES`.
        label: the column that always gets 1.
    """
    outputs = torch.zeros(labels.shape)
    outputs[:, label] = 1
    return float(LOSSES[loss](outputs, torch.from_numpy(labels).float()))


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
    """Return the same ranking for every clip, by the labels' frequency: float64 (clips, labels)."""
    return np.tile(train_labels.sum(axis=0, dtype=float), (clips, 1))


def collapsed_scores(labels: np.ndarray, label: int) -> np.ndarray:
    """Return what a collapsed softmax answers: 1 for one label, 0 for all others, all tied."""
    scores = np.zeros(labels.shape)
    scores[:, label] = 1
    return scores


def ties_in_label_order(scores: np.ndarray) -> np.ndarray:
    """Break ties by the labels' order, as a stable sort does: the study's lr = 1 rows need it.

    Labels are in the order of their frequency, so that a tie is broken as well as can be.
    """
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return -ranks.astype(float)


def flattened_ndcg(labels: np.ndarray, scores: np.ndarray, batch: int) -> float:
    """Return NDCG as a metric gives it that takes a batch for one long list of labels.

    `torchmetrics.functional.retrieval_normalized_dcg` flattens what it gets; called with (batch,
    labels) arrays, it ranks the pairs of all clips of the batch against each other.
    """
    values = [
        ndcg(
            labels[begin : begin + batch].reshape(1, -1),
            scores[begin : begin + batch].reshape(1, -1),
        )
        for begin in range(0, len(labels), batch)
    ]
    return float(np.mean(values))


def clip_scores(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return NDCG and precision at 1, each clip on its own."""
    return float(ndcg(labels, scores).mean()), float(precision_at_1(labels, scores).mean())
