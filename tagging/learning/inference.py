"""Outputs of networks: of a batch, of all clips, and as log odds."""

from typing import get_args

import numpy as np
import torch
from torch.nn import functional

from tagging.layers.base import Activation, Distance, TaggingNetwork
from tagging.learning.calibration import Calibration
from tagging.learning.dataset import Batch, ClipDataset
from tagging.learning.model_file import TrainedModel

# Larger batches do not fit the cache of a core, and each layer fetches new pages of memory.
MAX_BATCH_CLIPS = 256
MAX_BATCH_BYTES = 4 << 20

DISTANCES = get_args(Distance)


def compute_outputs(network: TaggingNetwork, batch: Batch, activation: Activation) -> torch.Tensor:
    """Return the outputs of a network, (batch, classes), or embeddings, (batch, width).

    Args:
        network: maybe one that several processes compute together.
        batch: the clips.
        activation: a distance for embeddings, which have length 1 for the cosine; else outputs.
    """
    if activation not in DISTANCES:
        return network(batch.x, batch.frames)
    embeddings = network.embed(batch.x, batch.frames)
    return functional.normalize(embeddings) if activation == "cosine" else embeddings


def batch_clips(clip_values: int) -> int:
    """Return how many clips are computed at once, by the number of values in the input of one."""
    clip_bytes = 4 * clip_values  # float32
    return max(1, min(MAX_BATCH_CLIPS, MAX_BATCH_BYTES // clip_bytes))


@torch.inference_mode()
def score(
    network: TaggingNetwork, dataset: ClipDataset, activation: Activation = "none"
) -> torch.Tensor:
    """Return the outputs of all clips, float32 (clips, classes), or embeddings, (clips, width).

    Except for rounding, those of a clip do not depend on the other clips.

    Args:
        network: is left in evaluation mode.
        dataset: the clips; outputs are on their device.
        activation: as in `compute_outputs`.
    """
    network.eval()
    rows, size = np.arange(len(dataset)), batch_clips(dataset.spec.size)
    pieces = np.split(rows, range(size, len(rows), size))
    batches = (dataset.read(piece) for piece in pieces)
    return torch.cat([compute_outputs(network, batch, activation) for batch in batches])


def log_odds(outputs: torch.Tensor, activation: Activation) -> np.ndarray:
    """Return log(p / (1 - p)) of the probabilities of outputs: float32, finite.

    In this form the outputs of all models can be averaged and compared. A probability of 0 or 1
    counts as one halfway to the next float32.

    Args:
        outputs: (clips, classes).
        activation: sigmoid (outputs are log odds), softmax, or none (probabilities); embeddings
            (cosine, euclidean) stay unchanged.
    """
    if activation in ("sigmoid", *DISTANCES):
        return outputs.float().cpu().numpy()
    result = torch.empty(outputs.shape)
    # In pieces: two million clips of 527 classes have 9 GB in float64.
    for piece, target in zip(
        outputs.split(MAX_BATCH_CLIPS), result.split(MAX_BATCH_CLIPS), strict=True
    ):
        target.copy_(_log_odds(piece.cpu().double(), activation))
    return result.numpy()


def _log_odds(exact: torch.Tensor, activation: Activation) -> torch.Tensor:
    limits = torch.finfo(torch.float32)
    if activation == "none":
        return exact.clamp(limits.tiny * limits.eps / 2, 1 - limits.eps / 4).logit()
    # The highest output is compared with the sum of all others, as 1 - p may round to 0. The
    # probabilities of all others are at most 0.5.
    log_p = exact.log_softmax(1)
    top = exact.argmax(1, keepdim=True)
    others = exact.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)
    odds = log_p - torch.log(-torch.expm1(log_p))
    return odds.scatter(1, top, exact.gather(1, top) - others).clamp(limits.min, limits.max)


def calibrate(scores: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """Return the log odds of calibrated probabilities, float32 (clips, classes).

    Args:
        scores: log odds, (clips, classes).
        calibration: None leaves them unchanged.
    """
    if calibration is None:
        return scores
    exact = torch.from_numpy(scores).double()
    if calibration.offsets is None:
        return log_odds(calibration.slope * functional.logsigmoid(exact), "softmax")
    limit = torch.finfo(torch.float32).max
    scaled = calibration.slope * exact + torch.tensor(calibration.offsets, dtype=torch.float64)
    return log_odds(scaled.clamp(-limit, limit), "sigmoid")


def predict_logits(trained: TrainedModel, dataset: ClipDataset) -> np.ndarray:
    """Return a trained model's log odds, or embeddings, of all clips: float32 (clips, classes)."""
    activation = trained.model_spec.activation
    return log_odds(score(trained.network, dataset, activation), activation)
