"""The audit of the published study: functions that recompute its claims from labels and tables.

`printed.csv` contains the 90 numbers of the study's Tables 1 to 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from replication.study import LOSSES
from tagging.scoring.metrics.ndcg import ndcg


def collapsed_scores(labels: np.ndarray, column: int) -> np.ndarray:
    """Return the outputs of a saturated softmax: 1 for one class, 0 for all others, which tie.

    Args:
        labels: (clips, classes); only the shape is used.
        column: the class that gets 1.
    """
    scores = np.zeros(labels.shape)
    scores[:, column] = 1
    return scores


def collapsed_loss(
    labels: np.ndarray, loss: str, column: int, batches: Sequence[np.ndarray] | None = None
) -> float:
    """Return the loss of a softmax that is saturated at the same class for every clip.

    Args:
        labels: 0 or 1, (clips, classes).
        loss: msml or ce.
        column: the class that gets 1.
        batches: the clip positions of each batch; the result is the mean over batches, weighted by
            their sizes, as a training logs it. None computes one loss over all clips: another
            number for cross-entropy, which divides by the label pairs of a batch.
    """
    outputs = torch.from_numpy(collapsed_scores(labels, column)).float()
    targets = torch.from_numpy(labels).float()
    batches = [np.arange(len(labels))] if batches is None else batches
    losses = [float(LOSSES[loss](outputs[batch], targets[batch])) for batch in batches]
    return float(np.average(losses, weights=[len(batch) for batch in batches]))


def collapsed_loss_as_written(labels: np.ndarray, column: int) -> float:
    """Return the same answer's cross-entropy as the study's text defines it.

    The text divides a clip's summed loss by its number of labels; the code divides the outputs.

    Args:
        labels: 0 or 1, (clips, classes); every clip has a label.
        column: the class that gets 1.
    """
    log_p = torch.from_numpy(collapsed_scores(labels, column)).log_softmax(1).numpy()
    return float(-((labels * log_p).sum(1) / labels.sum(1)).mean())


def lowest_softmax_loss(labels: np.ndarray, loss: str) -> float:
    """Return the lowest loss that outputs which went through a softmax can reach.

    Both losses are convex, and alike in a clip's k labels: the best output is 1/k for each of them.

    Args:
        labels: 0 or 1, (clips, classes); every clip has a label.
        loss: msml or ce.
    """
    outputs = torch.from_numpy(labels / labels.sum(1, keepdims=True))
    return float(LOSSES[loss](outputs, torch.from_numpy(labels).double()))


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
    """Return the same ranking for every clip, by class frequency: float64 (clips, classes)."""
    return np.tile(train_labels.sum(axis=0, dtype=float), (clips, 1))


def constant_class(precision: float, labels: np.ndarray, tolerance: float = 1e-6) -> int | None:
    """Return the class that is ranked first for every clip if P@1 equals the class's share.

    Args:
        precision: P@1, as the results store it, with six digits.
        labels: 0 or 1, (clips, classes), of the clips it was computed on.
        tolerance: half a clip is 2e-4 here.

    Returns:
        The column, or None if P@1 equals no class's share.
    """
    errors = np.abs(labels.mean(axis=0) - precision)
    return int(errors.argmin()) if errors.min() < tolerance else None


def flattened_ndcg(labels: np.ndarray, scores: np.ndarray, batch_size: int) -> float:
    """Return NDCG of batches that are flattened to one ranking each.

    `torchmetrics.functional.retrieval_normalized_dcg` flattens its arguments: called with (batch,
    classes) arrays, it ranks the labels of all clips of the batch against each other.
    """
    values = [
        ndcg(
            labels[begin : begin + batch_size].reshape(1, -1),
            scores[begin : begin + batch_size].reshape(1, -1),
        )
        for begin in range(0, len(labels), batch_size)
    ]
    return float(np.mean(values))


def ndcg_as_written(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return NDCG with the gain 2^(rel - 1) of the study's text, in place of 2^rel - 1.

    A class that a clip does not have then gains 1/2, one that it has gains 1.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: (clips, classes), without ties.
    """
    gains = 2.0 ** (labels.astype(float) - 1)
    discounts = 1 / np.log2(np.arange(2, labels.shape[1] + 2))
    ranked = np.take_along_axis(gains, np.argsort(-scores, axis=1), axis=1)
    ideal = -np.sort(-gains, axis=1)
    return float(((ranked @ discounts) / (ideal @ discounts)).mean())
