"""Batches of clips: which come, in which order, and what of them networks take."""

from typing import Literal, NamedTuple

import numpy as np
import torch

from tagging.data.clips import Features
from tagging.data.padding import frame_mask
from tagging.data.spec import InputSpec

Sampling = Literal["uniform", "balanced", "inverse_frequency"]


class Batch(NamedTuple):
    """What a network takes at once.

    `x` is float32 (batch, channels, frames, bins), 0 after a clip's end; `labels` float32 (batch,
    classes), 0 to 1; `frames` each clip's number of frames, int64 (batch,), None where no clip is
    padded.
    """

    x: torch.Tensor
    labels: torch.Tensor
    frames: torch.Tensor | None = None


class Clips(NamedTuple):
    """Some of a task's clips, read from disk a batch at a time.

    `values` are all clips' features, memory-mapped; `places` int64 (clips,) are those meant,
    `labels` uint8 (clips, classes) and `frames` int64 (clips,) theirs, `frames` None where no clip
    is padded; `targets` is what is learned in place of the labels, float32 (clips, classes), from 0
    to 1.
    """

    values: np.ndarray
    spec: InputSpec
    places: np.ndarray
    labels: np.ndarray
    frames: np.ndarray | None
    device: torch.device
    targets: np.ndarray | None = None

    def batch(self, chosen: np.ndarray) -> Batch:
        """Return the clips at `chosen` (int64, counted among these) on the device."""
        stored = torch.from_numpy(self.values[self.places[chosen]]).to(self.device)
        x = self.spec.as_input(stored)
        targets = self.labels if self.targets is None else self.targets
        labels = torch.from_numpy(targets[chosen]).float().to(self.device)
        if self.frames is None:
            return Batch(x, labels)
        frames = torch.from_numpy(self.frames[chosen]).to(self.device)
        mask = frame_mask(frames, x.shape[2])
        return Batch(x * mask[:, None, :, None], labels, frames)


def to_clips(
    features: Features,
    labels: np.ndarray,
    places: np.ndarray,
    device: torch.device,
    targets: np.ndarray | None = None,
) -> Clips:
    """Return the clips at `places`; `labels` are all clips', uint8 (n, classes)."""
    return Clips(
        np.asarray(features.values),  # a plain view: np.memmap's own indexing is slow
        features.spec,
        places.astype(np.int64),
        labels[places],
        features.frames[places] if features.spec.any_length else None,
        device,
        targets,
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


def count_batches(clips: int, batch_size: int) -> int:
    """Return how many batches `epoch_batches` gives."""
    return clips // batch_size + (clips % batch_size > 1)


def sample_order(labels: np.ndarray, sampling: Sampling, seed: int, epoch: int) -> np.ndarray:
    """Return as many clip places as there are clips, drawn from (seed, epoch) alone.

    Args:
        labels: 0 or 1, (clips, classes).
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
        # Not labels @ ..: that makes a float64 copy of all labels.
        weights = np.einsum("ij,j->i", labels, 1 / np.maximum(counts, 1))
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


def mix(batch: Batch, rate: float, alpha: float, rng: np.random.Generator) -> Batch:
    """Mix clips of a batch with others of it (Zhang et al., 2017, mixup, arXiv 1710.09412).

    A mixture is as long as the longer of the two: where one has ended, it is the other alone.

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
    labels = torch.lerp(batch.labels[other], batch.labels, part[:, None])
    if batch.frames is None:
        return Batch(torch.lerp(batch.x[other], batch.x, part[:, None, None, None]), labels)
    here = frame_mask(batch.frames, batch.x.shape[2])  # (batch, frames)
    there = here[other] & (part < 1)[:, None]
    of_frame = torch.where(there, torch.where(here, part[:, None], 0.0), 1.0)  # (batch, frames)
    frames = torch.where(part < 1, torch.maximum(batch.frames, batch.frames[other]), batch.frames)
    return Batch(torch.lerp(batch.x[other], batch.x, of_frame[:, None, :, None]), labels, frames)
