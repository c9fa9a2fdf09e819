"""Batches of clips: which come, in which order, and what of them networks take."""

from typing import Literal, NamedTuple

import numpy as np
import torch

from tagging.dataset import Split

Sampling = Literal["uniform", "balanced", "inverse_frequency"]


class Clips(NamedTuple):
    """Clips on one device.

    `embeddings` is uint8 (clips, seconds, 128), `labels` float32 (clips, labels); `frames` each
    clip's number of frames, int64 (clips,), None where no clip is padded; `targets` what is
    learned in place of the labels, float32 (clips, labels), 0 to 1.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    frames: torch.Tensor | None = None
    targets: torch.Tensor | None = None


def to_clips(split: Split, device: torch.device, targets: np.ndarray | None = None) -> Clips:
    """Put a split on the device, embeddings as the bytes they are."""
    padded = (split.frames < split.embeddings.shape[1]).any()
    return Clips(
        torch.from_numpy(split.embeddings).to(device),
        torch.from_numpy(split.labels).float().to(device),
        torch.from_numpy(split.frames).long().to(device) if padded else None,
        None if targets is None else torch.from_numpy(targets).to(device),
    )


def epoch_batches(
    clips: int, batch_size: int, seed: int, epoch: int, order: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the epoch's batches of clip places, drawn from (seed, epoch) alone.

    A last batch of one clip is left out: batch normalization takes two.

    Args:
        order: the places in their order; None for each clip once, at random.
    """
    if order is None:
        order = np.random.default_rng([seed, epoch]).permutation(clips)
    batches = np.split(order, range(batch_size, clips, batch_size))
    return [batch for batch in batches if len(batch) > 1]


def sample_order(labels: np.ndarray, sampling: Sampling, seed: int, epoch: int) -> np.ndarray:
    """Return as many clip places as there are clips, drawn from (seed, epoch) alone.

    Args:
        labels: 0 or 1, (clips, labels).
        sampling: `uniform` takes each clip once. `balanced` goes round the labels, each label
            round its clips, both in random order (Kong et al., 2020, PANNs, arXiv 1912.10211).
            `inverse_frequency` draws clips with replacement, with the sum of 1 / clips over their
            labels for weight (Gong et al., 2021, PSLA, arXiv 2102.01243).
    """
    clips = len(labels)
    rng = np.random.default_rng([seed, epoch])
    if sampling == "uniform":
        return rng.permutation(clips)
    counts = labels.sum(axis=0, dtype=int)
    if sampling == "inverse_frequency":
        weights = labels @ (1 / np.maximum(counts, 1))
        return rng.choice(clips, clips, p=weights / weights.sum())
    found = np.flatnonzero(counts)
    rounds = -(-clips // len(found))
    queues = np.empty((len(found), rounds), int)
    for queue, label in zip(queues, found, strict=True):
        of_label = np.flatnonzero(labels[:, label])
        times = -(-rounds // len(of_label))
        queue[:] = np.concatenate([rng.permutation(of_label) for _ in range(times)])[:rounds]
    # A round has every label once, in an order of its own.
    return rng.permuted(queues, axis=0).T.ravel()[:clips]


class Batch(NamedTuple):
    """What a network is trained on at once.

    `x` is embeddings in [0, 1), float32 (batch, seconds, 128); `labels` float32 (batch, labels), 0
    to 1; `frames` each clip's number of frames, int64 (batch,), None where no clip is padded.
    """

    x: torch.Tensor
    labels: torch.Tensor
    frames: torch.Tensor | None = None


def mix(batch: Batch, rate: float, alpha: float, rng: np.random.Generator) -> Batch:
    """Mix clips of a batch with others of it (Zhang et al., 2017, mixup, arXiv 1710.09412).

    A mixture is as long as the longer of the two.

    Args:
        batch: the clips.
        rate: the share of clips that are mixed.
        alpha: of the Beta(alpha, alpha) distribution of a clip's part in its mixture.
        rng: what is drawn comes from it.
    """
    clips = len(batch.x)
    parts = np.where(rng.random(clips) < rate, rng.beta(alpha, alpha, clips), 1.0)
    part = torch.from_numpy(parts).to(batch.x)
    other = torch.from_numpy(rng.permutation(clips)).to(batch.x.device)
    frames = batch.frames
    if frames is not None:
        frames = torch.where(part < 1, torch.maximum(frames, frames[other]), frames)
    return Batch(
        torch.lerp(batch.x[other], batch.x, part[:, None, None]),
        torch.lerp(batch.labels[other], batch.labels, part[:, None]),
        frames,
    )


def as_input(embeddings: torch.Tensor) -> torch.Tensor:
    """Return the bytes of VGGish embeddings as networks take them: float32, byte / 256."""
    return embeddings.float() / 256
