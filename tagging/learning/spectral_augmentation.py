"""Changes of spectrograms that leave a clip's labels as they were.

Spectrograms are x, float32 (batch, channels, frames, bins), zero after a clip's end, and `frames`,
the number of frames of each clip, int64 (batch,), or None if no clip is padded; padding stays zero.

Random numbers are drawn first, for a whole batch (`draw`), and applied to any of its rows
afterwards: of several processes, each changes only the clips that it trains on. A clip's random
numbers do not depend on its padding.
"""

from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field

from tagging.data.parameters import Float, Section
from tagging.layers.padding import frame_mask


class Masks(Section):
    """The widest masks, as fractions of a clip's frames and of the bins.

    The defaults are those of the Audio Spectrogram Transformer: 192 of 1,024 and 48 of 128.
    """

    time: Float = Field(0.1875, ge=0, le=1)
    bins: Float = Field(0.375, ge=0, le=1)


class Augment(Section):
    """The section `train.augment`; by default nothing is changed."""

    roll: Float = Field(0.0, ge=0, le=1)  # the farthest roll in time, as a fraction of the clip
    gain: Float = Field(0.0, ge=0)  # the most that is added, in the unit of the spectrogram
    masks: Masks | None = None
    # Augmented copies of the feature replace clips with this probability, or are added to an epoch:
    # of each copy, this fraction of the clips, drawn once. One of the two must be 0.
    copies_prob: Float = Field(0.0, ge=0, le=1)
    added_copies: Float = Field(0.0, ge=0, le=1)


class SpectralDraws(NamedTuple):
    """Random numbers for the clips of a batch, uniform in [0, 1); None where nothing is changed.

    `roll` and `gain` are float32 (batch,), `masks` float32 (4, batch): width and place of the mask
    in time, width and place of the mask over the bins.
    """

    roll: torch.Tensor | None
    gain: torch.Tensor | None
    masks: torch.Tensor | None

    def select(self, rows: np.ndarray) -> "SpectralDraws":
        """Return the random numbers of some clips."""
        return SpectralDraws(
            *(numbers if numbers is None else numbers[..., rows] for numbers in self)
        )


def draw(clips: int, settings: Augment, generator: torch.Generator) -> SpectralDraws:
    """Draw the random numbers for a batch of `clips` clips."""
    return SpectralDraws(
        torch.rand(clips, generator=generator) if settings.roll else None,
        torch.rand(clips, generator=generator) if settings.gain else None,
        torch.rand(4, clips, generator=generator) if settings.masks is not None else None,
    )


def augment(
    x: torch.Tensor, frames: torch.Tensor | None, settings: Augment, draws: SpectralDraws
) -> torch.Tensor:
    """Return spectrograms changed as the settings say, by random numbers for the same clips."""
    if draws.roll is not None:
        x = roll(x, frames, settings.roll, draws.roll)
    if draws.gain is not None:
        x = add_gain(x, frames, settings.gain, draws.gain)
    if draws.masks is not None and settings.masks is not None:
        x = mask(x, frames, settings.masks, draws.masks)
    return x


def roll(
    x: torch.Tensor, frames: torch.Tensor | None, limit: float, numbers: torch.Tensor
) -> torch.Tensor:
    """Return spectrograms rolled in time within each clip's own frames.

    Args:
        x: the spectrograms.
        frames: the number of frames of each clip.
        limit: the farthest roll either way, as a fraction of a clip's frames, 0 to 1.
        numbers: uniform in [0, 1), float32 (batch,).
    """
    batch, _, length, _ = x.shape
    lengths = torch.full((batch,), length, device=x.device) if frames is None else frames
    farthest = (limit * lengths).floor()
    shifts = (numbers.to(x.device) * (2 * farthest + 1)).floor().long() - farthest.long()
    at = torch.arange(length, device=x.device)
    source = (at - shifts.unsqueeze(1)) % lengths.unsqueeze(1)  # (batch, frames)
    real = frame_mask(frames, length)
    if real is not None:
        source = torch.where(real, source, at)
    rows = torch.arange(batch, device=x.device).unsqueeze(1)
    return x.transpose(1, 2)[rows, source].transpose(1, 2)


def add_gain(
    x: torch.Tensor, frames: torch.Tensor | None, limit: float, numbers: torch.Tensor
) -> torch.Tensor:
    """Return louder or softer clips: a gain adds a constant to a logarithmic spectrogram.

    Args:
        x: the spectrograms.
        frames: the number of frames of each clip.
        limit: the constant is uniform in [-limit, limit], in the unit of the spectrogram.
        numbers: uniform in [0, 1), float32 (batch,).
    """
    louder = x + ((2 * numbers - 1).to(x) * limit)[:, None, None, None]
    real = frame_mask(frames, x.shape[2])
    return louder if real is None else louder * real[:, None, :, None]


def mask(
    x: torch.Tensor, frames: torch.Tensor | None, settings: Masks, numbers: torch.Tensor
) -> torch.Tensor:
    """Return spectrograms with one mask in time and one over the bins of each clip.

    Park et al. (2019), "SpecAugment", arXiv 1904.08779: widths are uniform from 0 to the widest,
    places uniform among those possible, the same in all channels. Masked values are the mean of the
    clip's own frames (the paper's zero is the mean of its normalized features).

    Args:
        x: the spectrograms.
        frames: the number of frames of each clip.
        settings: the widest masks.
        numbers: uniform in [0, 1), float32 (4, batch), as in `SpectralDraws`.
    """
    batch, channels, length, bins = x.shape
    numbers = numbers.to(x.device)
    lengths = torch.full((batch,), length, device=x.device) if frames is None else frames
    in_time = _spans(length, lengths, settings.time, numbers[0], numbers[1])  # (batch, frames)
    in_bins = _spans(bins, torch.full_like(lengths, bins), settings.bins, numbers[2], numbers[3])
    masked = in_time[:, None, :, None] | in_bins[:, None, None, :]  # (batch, 1, frames, bins)
    real = frame_mask(frames, length)
    if real is not None:
        masked &= real[:, None, :, None]
    means = x.sum((1, 2, 3)) / (lengths * channels * bins)
    return torch.where(masked, means[:, None, None, None], x)


def _spans(
    size: int, lengths: torch.Tensor, limit: float, width: torch.Tensor, place: torch.Tensor
) -> torch.Tensor:
    """Return one span in each row, bool (batch, size), within its first `lengths` positions.

    Args:
        size: positions in a row.
        lengths: int64 (batch,).
        limit: the widest span, as a fraction of the length.
        width: uniform in [0, 1), (batch,).
        place: uniform in [0, 1), (batch,).
    """
    # One more, so that the widest is as likely as any other width.
    widths = (width * ((limit * lengths).floor() + 1)).floor()
    starts = (place * (lengths - widths + 1)).floor()
    at = torch.arange(size, device=lengths.device)
    return (at >= starts.unsqueeze(1)) & (at < (starts + widths).unsqueeze(1))
