"""The order in which clips are trained on, drawn from (seed, epoch) alone."""

from typing import Literal

import numpy as np

Sampling = Literal["uniform", "balanced", "inverse_frequency"]


def sample_order(labels: np.ndarray, sampling: Sampling, seed: int, epoch: int) -> np.ndarray:
    """Return the rows of an epoch, as many as there are clips: int64 (clips,).

    Args:
        labels: 0 or 1, (clips, classes).
        sampling: `uniform` takes each clip once. `balanced` cycles through the labels, and for each
            label through its clips, both in random order (Kong et al., 2020, PANNs, arXiv
            1912.10211). `inverse_frequency` draws clips with replacement; the weight of a clip is
            the sum over its labels of 1 / (clips with the label) (Gong et al., 2021, PSLA, arXiv
            2102.01243).
        seed: of the run.
        epoch: number of the epoch, from 0.
    """
    clips = len(labels)
    rng = np.random.default_rng([seed, epoch])
    if sampling == "uniform":
        return rng.permutation(clips)
    counts = labels.sum(axis=0, dtype=int)
    if sampling == "inverse_frequency":
        # labels @ .. would make a float64 copy of all labels.
        weights = np.einsum("ij,j->i", labels, 1 / np.maximum(counts, 1))
        return rng.choice(clips, clips, p=weights / weights.sum())
    present = np.flatnonzero(counts)
    rounds = -(-clips // len(present))
    queues = np.empty((len(present), rounds), int)
    for queue, label in zip(queues, present, strict=True):
        rows = np.flatnonzero(labels[:, label])
        times = -(-rounds // len(rows))
        queue[:] = np.concatenate([rng.permutation(rows) for _ in range(times)])[:rounds]
    # Each round has every label once, in an order of its own.
    return rng.permuted(queues, axis=0).T.ravel()[:clips]


def split_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split an order of rows into batches.

    A last batch of one clip is left out: batch normalization needs two.
    """
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batch for batch in batches if len(batch) > 1]


def count_batches(clips: int, batch_size: int) -> int:
    """Return the number of batches that `split_batches` returns."""
    return clips // batch_size + (clips % batch_size > 1)
