"""Batches of clips: in which order they come, and what of them networks take."""

import numpy as np
import torch


def epoch_batches(clips: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the epoch's batches of clip places, drawn from (seed, epoch) alone.

    A last batch of one clip is left out: batch normalization takes two.
    """
    order = np.random.default_rng([seed, epoch]).permutation(clips)
    batches = np.split(order, range(batch_size, clips, batch_size))
    return [batch for batch in batches if len(batch) > 1]


def as_input(embeddings: torch.Tensor) -> torch.Tensor:
    """Return the bytes of VGGish embeddings as networks take them: float32, byte / 256."""
    return embeddings.float() / 256
