"""The loader: batches of a training split, sampled, read, augmented and mixed.

`BatchLoader`, below, composes two parts. `BatchSampler` draws all random numbers of an epoch's
batches from (seed, epoch) alone, for whole batches; added copies are drawn once, from the seed.
`BatchReader` applies them: it reads originals or copies, augments spectra, and mixes clips, in this
order. Each of several processes reads and changes only the clips that it computes, and the clips
that these are mixed with.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torchdata.nodes import BaseNode, Mapper, Prefetcher, SamplerWrapper

from tagging.base.errors import UserError
from tagging.layers.padding import frame_mask
from tagging.learning import distributed, spectral_augmentation
from tagging.learning.dataset import Batch, ClipDataset
from tagging.learning.sampling import (
    count_added,
    count_batches,
    draw_added_copies,
    sample_order,
    split_batches,
)
from tagging.learning.settings import Train
from tagging.learning.spectral_augmentation import SpectralDraws

# Streams of random numbers of an epoch; `sample_order` draws the order without a stream number.
MIXUP_STREAM, AUGMENTATION_STREAM = 1, 2
# On a GPU alone: a thread that reads ahead costs 0.2 ms a batch.
PREFETCHED_BATCHES = 2


class MixupDraws(NamedTuple):
    """The mixtures of a batch: clip i has the weight `weights[i]`, its partner the rest.

    `weights` is float64 (batch,), 1 for clips that are not mixed; `partners` are positions in the
    batch, int64 (batch,).
    """

    weights: np.ndarray
    partners: np.ndarray


class BatchPlan(NamedTuple):
    """A batch before it is read: its rows of the dataset, int64 (batch,), and all random numbers.

    `copies` is the augmented copy that each clip is read from, -1 for the original, int64 (batch,),
    or None if the training uses no copies. `mixup` is None if the training mixes no clips.
    """

    rows: np.ndarray
    copies: np.ndarray | None
    spectral: SpectralDraws
    mixup: MixupDraws | None


class BatchSampler:
    """Yields the plans of an epoch's batches.

    Args:
        labels: of the dataset, 0 or 1, (clips, classes).
        settings: of the training.
        seed: of the run.
        copies: the number of augmented copies.
    """

    def __init__(self, labels: np.ndarray, settings: Train, seed: int, copies: int = 0) -> None:
        added = settings.augment.added_copies
        self._clips = draw_added_copies(len(labels), copies if added else 0, added, seed)
        self._labels = labels if not added else labels[self._clips.rows]
        self._settings = settings
        self._seed = seed
        self._copies = copies
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, of the next iteration; `SamplerWrapper` calls this."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[BatchPlan]:
        settings, seed, epoch = self._settings, self._seed, self._epoch
        order = sample_order(self._labels, settings.sampling, seed, epoch)
        mixup_rng = np.random.default_rng([seed, epoch, MIXUP_STREAM])
        sequence = np.random.SeedSequence([seed, epoch, AUGMENTATION_STREAM])
        generator = torch.Generator().manual_seed(int(sequence.generate_state(1)[0]))
        for batch in split_batches(order, settings.batch_size):
            size = len(batch)
            copies = draw_copies(size, self._copies, settings.augment.copies_prob, generator)
            if settings.augment.added_copies:
                copies = self._clips.copies[batch]
            yield BatchPlan(
                self._clips.rows[batch],
                copies,
                spectral_augmentation.draw(size, settings.augment, generator),
                draw_mixup(size, settings.mixup_prob, settings.mixup_alpha, mixup_rng),
            )


def draw_copies(
    clips: int, copies: int, prob: float, generator: torch.Generator
) -> np.ndarray | None:
    """Draw for each clip whether it is read from an augmented copy, and from which one."""
    if not prob:
        return None
    numbers = torch.rand(2, clips, generator=generator).numpy()
    return np.where(numbers[0] < prob, (numbers[1] * copies).astype(int), -1)


def draw_mixup(
    clips: int, prob: float, alpha: float, rng: np.random.Generator
) -> MixupDraws | None:
    """Draw the mixtures of a batch: a clip is mixed with the probability `prob`.

    Weights are from the distribution Beta(alpha, alpha).
    """
    if not prob:
        return None
    weights = np.where(rng.random(clips) < prob, rng.beta(alpha, alpha, clips), 1.0)
    return MixupDraws(weights, rng.permutation(clips))


class BatchReader:
    """Reads planned batches, and augments and mixes what this process computes of them.

    Args:
        dataset: the clips.
        copies: the same clips with augmented waveforms.
        settings: of the training.
    """

    def __init__(
        self, dataset: ClipDataset, copies: Sequence[ClipDataset], settings: Train
    ) -> None:
        self._dataset = dataset
        self._copies = copies
        self._augment = settings.augment

    def __call__(self, plan: BatchPlan) -> Batch:
        """Return the batch; clips that other processes compute are zero in `x`."""
        size, computed = len(plan.rows), distributed.computed_rows(len(plan.rows))
        read = needed_positions(plan.mixup, computed, size)
        x = self._read_inputs(plan, read)
        targets = self._dataset.read_targets(plan.rows)
        frames = self._dataset.read_frames(plan.rows)
        if plan.mixup is not None:
            x = mix_inputs(x, frames, plan.mixup, computed, read)
            targets, frames = mix_targets(targets, frames, plan.mixup)
        if len(x) < size:
            own, x = x, x.new_zeros(size, *x.shape[1:])
            x[computed] = own
        return Batch(x, targets, frames)

    def _read_inputs(self, plan: BatchPlan, read: np.ndarray) -> torch.Tensor:
        """Return the augmented inputs at the positions `read` of a batch."""
        rows = plan.rows[read]
        x = self._dataset.read_inputs(rows)
        if plan.copies is not None:
            for number, copy in enumerate(self._copies):
                if len(positions := np.flatnonzero(plan.copies[read] == number)):
                    x[positions] = copy.read_inputs(rows[positions])
        frames = self._dataset.read_frames(rows)
        return spectral_augmentation.augment(x, frames, self._augment, plan.spectral.select(read))


def needed_positions(mixup: MixupDraws | None, computed: slice, batch: int) -> np.ndarray:
    """Return the positions of a batch that a process reads, int64.

    Those that it computes come first, then further ones that they are mixed with.
    """
    own = np.arange(computed.start, computed.stop)
    if mixup is None or len(own) == batch:
        return own
    partners = mixup.partners[own][mixup.weights[own] < 1]
    return np.concatenate([own, np.setdiff1d(partners, own)])


def mix_inputs(
    x: torch.Tensor,
    frames: torch.Tensor | None,
    mixup: MixupDraws,
    computed: slice,
    read: np.ndarray,
) -> torch.Tensor:
    """Mix clips of a batch (Zhang et al., 2017, mixup, arXiv 1710.09412).

    A mixture is as long as the longer of its two clips: after the end of one, it is the other.

    Args:
        x: inputs at the positions `read`, float32 (read, channels, frames, bins).
        frames: the number of frames of each clip of the batch, int64 (batch,), or None.
        mixup: the mixtures of the batch.
        computed: the positions whose mixtures are returned.
        read: positions of the batch, as `needed_positions` returns them.
    """
    own = x[: computed.stop - computed.start]
    weight = torch.from_numpy(mixup.weights[computed]).to(x)
    # Where in `x` each partner is. A partner whose weight is 0 may not have been read: it is
    # replaced by the first clip, which has no influence.
    position = np.zeros(len(mixup.partners), int)
    position[read] = np.arange(len(read))
    other = x[torch.from_numpy(position[mixup.partners[computed]]).to(x.device)]
    real = frame_mask(frames, x.shape[2])  # (batch, frames)
    if real is None:
        return torch.lerp(other, own, weight[:, None, None, None])
    partners = torch.from_numpy(mixup.partners[computed]).to(x.device)
    other_real = real[partners] & (weight < 1)[:, None]
    # In each frame `weight` where both are real, 0 after the clip's own end, 1 after the partner's.
    own_weight = torch.where(real[computed], weight[:, None], 0.0)
    frame_weight = torch.where(other_real, own_weight, 1.0)  # (computed, frames)
    return torch.lerp(other, own, frame_weight[:, None, :, None])


def mix_targets(
    targets: torch.Tensor, frames: torch.Tensor | None, mixup: MixupDraws
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mix the targets of a whole batch, and return the lengths of the mixtures as well."""
    weight = torch.from_numpy(mixup.weights).to(targets)
    partners = torch.from_numpy(mixup.partners).to(targets.device)
    mixed = torch.lerp(targets[partners], targets, weight[:, None])
    if frames is None:
        return mixed, None
    return mixed, torch.where(weight < 1, torch.maximum(frames, frames[partners]), frames)


def count_epoch_batches(clips: int, copies: int, settings: Train) -> int:
    """Return the number of batches of an epoch of `clips` clips with augmented copies."""
    added = copies * count_added(clips, settings.augment.added_copies)
    return count_batches(clips + added, settings.batch_size)


class BatchLoader:
    """Iterates over the batches of one epoch after the other; each iteration is the next epoch.

    Args:
        dataset: the clips to train on.
        settings: of the training.
        seed: of the run.
        copies: the same clips with augmented waveforms.
        prefetch: the number of batches that a thread reads ahead; None for the device's default.

    Raises:
        UserError: if copies are to be used and there are none, or in two ways.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        settings: Train,
        seed: int,
        copies: Sequence[ClipDataset] = (),
        prefetch: int | None = None,
    ) -> None:
        prob, added = settings.augment.copies_prob, settings.augment.added_copies
        for key, value in (("copies_prob", prob), ("added_copies", added)):
            if value and not copies:
                raise UserError(
                    f"params.yaml: train.augment.{key} must be 0 for a feature without "
                    f"augmented_copies, got {value:g}"
                )
        if prob and added:
            raise UserError(
                f"params.yaml: train.augment.copies_prob must be 0 with added_copies, got {prob:g}"
            )
        self._batches = count_epoch_batches(len(dataset), len(copies), settings)
        if prefetch is None:
            prefetch = PREFETCHED_BATCHES if dataset.device.type == "cuda" else 0
        sampler = BatchSampler(dataset.labels, settings, seed, len(copies))
        reader = BatchReader(dataset, copies, settings)
        node: BaseNode[Batch] = Mapper(SamplerWrapper(sampler), reader)
        self._node = Prefetcher(node, prefetch) if prefetch else node
        self._resumed = False

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch, or the remaining ones of a resumed epoch."""
        if self._resumed:
            self._resumed = False
            # A state at the end of an epoch has no batch left: the next epoch begins below.
            if (batch := next(self._node, None)) is not None:
                yield batch
                yield from self._node
                return
        self._node.reset()
        yield from self._node

    # Not torchdata's `Loader`: after a resumption, its state is outdated until the next epoch.
    def state_dict(self) -> dict[str, Any]:
        """Return the epoch and the number of batches yielded, JSON-able."""
        return self._node.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which `state_dict` returned `state`."""
        self._node.reset(state)
        self._resumed = True
