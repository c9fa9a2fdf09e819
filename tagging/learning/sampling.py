"""The clips of an epoch and their order, drawn from (seed, epoch) alone."""

from typing import Literal, NamedTuple

import numpy as np

Sampling = Literal["uniform", "balanced", "inverse_frequency"]


# Stream of random numbers of a run, beside those of its epochs.
ADDED_STREAM = 3


class EpochClips(NamedTuple):
    """The clips of an epoch before they are put in order.

    `rows` are rows of the dataset; `copies` has the augmented copy that each is read from, -1 for
    the original. Both are int64 (clips of the epoch,).
    """

    rows: np.ndarray
    copies: np.ndarray


def draw_added_copies(clips: int, copies: int, fraction: float, seed: int) -> EpochClips:
    """Return the clips of every epoch: all originals, and the copies that are added to them.

    Of each augmented copy, a `fraction` of the clips is drawn, once for all epochs: 6,206 clips
    with four copies at a fraction of 1/2 are 6,206 + 4 * 3,103 = 18,618.
    """
    rng = np.random.default_rng([seed, 0, ADDED_STREAM])
    added = [rng.choice(clips, count_added(clips, fraction), replace=False) for _ in range(copies)]
    sizes = [clips, *map(len, added)]
    return EpochClips(
        np.concatenate([np.arange(clips), *added]), np.repeat(np.arange(-1, copies), sizes)
    )


def count_added(clips: int, fraction: float) -> int:
    """Return the number of clips of each augmented copy that are added to an epoch."""
    return round(fraction * clips)


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
