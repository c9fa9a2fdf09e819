"""Changes that leave a clip's labels as they are: of waveforms, and of batches of spectrograms.

Random numbers come of the generator given alone, as many for a clip whatever it is padded to.

Waveforms are float32 (samples,). They are changed once, before features are computed: a copy of all
clips that training draws from. Spectrograms are x, float32 (batch, channels, frames, bins), zero
after a clip's end, and `frames`, int64 (batch,), each clip's number of real frames, or None where
all of them are; padding stays zero.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from tagging.data.batches import Batch, Clips
from tagging.data.padding import frame_mask
from tagging.parameters import Float, Int, Section


class Masks(Section):
    """The widest masks, as shares of a clip's frames and of the bins.

    The Audio Spectrogram Transformer's are 192 of 1,024 and 48 of 128.
    """

    time: Float = Field(0.1875, description="a share from 0 (none) to 1", ge=0, le=1)
    bins: Float = Field(0.375, description="a share from 0 (none) to 1", ge=0, le=1)


class Augment(Section):
    """What is changed of the spectrograms that are trained on; by default nothing."""

    roll: Float = Field(
        0.0, description="a share from 0 to 1: how far a clip is moved in time", ge=0, le=1
    )
    gain: Float = Field(
        0.0, description="a number of 0 or more, in the spectrogram's unit: how much is added", ge=0
    )
    masks: Masks | None = Field(None, description="a mapping of time and bins, or null")
    changed: Float = Field(
        0.0,
        description="a share from 0 to 1: the clips that are taken from one of the feature's "
        "changed copies",
        ge=0,
        le=1,
    )


class Changed(Section):
    """Copies of all clips, each with changes of its waveform (`features.<name>.changed`)."""

    copies: Int = Field(description="a whole number of copies, 1 or more", ge=1)
    share: Float = Field(
        0.5, description="a share from 0 to 1: the clips of a copy that each change is made to",
        ge=0, le=1,
    )  # fmt: skip
    stretch: list[Annotated[Float, Field(gt=0)]] = Field(
        [], description="a list of numbers above 0, one of which a clip becomes so many times as "
        "fast; what is then too long is cut off, what is too short ends in silence",
    )  # fmt: skip
    shift: Float = Field(
        0.0, description="a number of seconds, 0 or more, by which a clip is moved at most", ge=0
    )
    noise: tuple[Float, Float] | None = Field(
        None, description="a list of two numbers of decibels, the least and the most that white "
        "noise lies below a clip; null for no noise",
    )  # fmt: skip
    gain: Float = Field(
        0.0, description="a number of decibels, 0 or more: how much louder or softer", ge=0
    )
    seed: Int = Field(0, description="a whole number of 0 or more", ge=0)


def augment(
    x: torch.Tensor, frames: torch.Tensor | None, settings: Augment, generator: torch.Generator
) -> torch.Tensor:
    """Return a batch of spectrograms, changed as the settings say."""
    if settings.roll:
        x = roll_spectra(x, frames, settings.roll, generator)
    if settings.gain:
        x = gain_spectra(x, frames, settings.gain, generator)
    return x if settings.masks is None else mask_spectra(x, frames, settings.masks, generator)


def from_copies(
    batch: Batch,
    chosen: np.ndarray,
    copies: Sequence[Clips],
    share: float,
    generator: torch.Generator,
) -> Batch:
    """Return a batch of which a share is read from changed copies instead, each as likely.

    Args:
        batch: the clips at `chosen`.
        chosen: their places among the clips that are trained on, int64 (batch,).
        copies: the same clips, changed; of the same length each.
        share: in 0..1, of the clips.
    """
    draws = torch.rand(2, len(chosen), generator=generator).numpy()
    of_copy = np.where(draws[0] < share, (draws[1] * len(copies)).astype(int), -1)
    x = batch.x.clone()
    for number, copy in enumerate(copies):
        if len(rows := np.flatnonzero(of_copy == number)):
            x[rows] = copy.batch(chosen[rows]).x
    return batch._replace(x=x)


def mask_spectra(
    x: torch.Tensor, frames: torch.Tensor | None, settings: Masks, generator: torch.Generator
) -> torch.Tensor:
    """Return spectrograms with one mask in time and one over the bins of each clip.

    Park et al. (2019), "SpecAugment", arXiv 1904.08779: widths are uniform from 0 to the widest,
    places uniform among those possible, the same in all channels. What is masked takes the mean of
    the clip's real frames (the paper's zero is the mean of its normalized features).
    """
    batch, channels, most, bins = x.shape
    draws = torch.rand(4, batch, generator=generator).to(x.device)
    lengths = torch.full((batch,), most, device=x.device) if frames is None else frames
    in_time = _spans(most, lengths, settings.time, draws[0], draws[1])  # (batch, frames)
    in_bins = _spans(bins, torch.full_like(lengths, bins), settings.bins, draws[2], draws[3])
    masked = in_time[:, None, :, None] | in_bins[:, None, None, :]  # (batch, 1, frames, bins)
    mask = frame_mask(frames, most)
    if mask is not None:
        masked &= mask[:, None, :, None]
    means = x.sum((1, 2, 3)) / (lengths * channels * bins)
    return torch.where(masked, means[:, None, None, None], x)


def _spans(
    size: int, lengths: torch.Tensor, share: float, width: torch.Tensor, place: torch.Tensor
) -> torch.Tensor:
    """Return one span of each row, bool (batch, size), within its first `lengths`.

    Args:
        share: the widest span's, of the length.
        width: uniform in [0, 1), (batch,), as is `place`.
    """
    # One more, so that the widest is as likely as any.
    widths = (width * ((share * lengths).floor() + 1)).floor()
    starts = (place * (lengths - widths + 1)).floor()
    at = torch.arange(size, device=lengths.device)
    return (at >= starts.unsqueeze(1)) & (at < (starts + widths).unsqueeze(1))


def roll_spectra(
    x: torch.Tensor, frames: torch.Tensor | None, share: float, generator: torch.Generator
) -> torch.Tensor:
    """Return spectrograms that begin elsewhere: what leaves at a clip's end comes in at its start.

    Args:
        share: of a clip's frames, in 0..1: the farthest that it is moved, either way.
    """
    batch, _, most, _ = x.shape
    draws = torch.rand(batch, generator=generator).to(x.device)
    lengths = torch.full((batch,), most, device=x.device) if frames is None else frames
    farthest = (share * lengths).floor()
    shifts = (draws * (2 * farthest + 1)).floor().long() - farthest.long()
    at = torch.arange(most, device=x.device)
    moved = (at - shifts.unsqueeze(1)) % lengths.unsqueeze(1)  # (batch, frames)
    mask = frame_mask(frames, most)
    if mask is not None:
        moved = torch.where(mask, moved, at)
    rows = torch.arange(batch, device=x.device).unsqueeze(1)
    return x.transpose(1, 2)[rows, moved].transpose(1, 2)


def gain_spectra(
    x: torch.Tensor, frames: torch.Tensor | None, most: float, generator: torch.Generator
) -> torch.Tensor:
    """Return louder or softer clips: a gain adds the same to all of a logarithmic spectrogram.

    Args:
        most: what is added is uniform in [-most, most], in the spectrogram's own unit.
    """
    gains = (2 * torch.rand(len(x), generator=generator) - 1).to(x) * most
    louder = x + gains[:, None, None, None]
    mask = frame_mask(frames, x.shape[2])
    return louder if mask is None else louder * mask[:, None, :, None]


def change(
    waveform: np.ndarray, rate: int, settings: Changed, rng: np.random.Generator
) -> np.ndarray:
    """Return a waveform with each change made or not, as long as it was.

    Args:
        waveform: float32 (samples,), at `rate` (Hz).
        settings: of the changes.
        rng: what is drawn comes from it.
    """
    samples = len(waveform)
    if settings.stretch and rng.random() < settings.share:
        stretched = stretch(waveform, rng.choice(settings.stretch))[:samples]
        waveform = np.pad(stretched, (0, samples - len(stretched)))
    if settings.shift and rng.random() < settings.share:
        waveform = shift(waveform, round(settings.shift * rate), rng)
    if settings.noise is not None and rng.random() < settings.share:
        waveform = add_noise(waveform, rng.uniform(*settings.noise), rng)
    if settings.gain and rng.random() < settings.share:
        waveform = gain(waveform, settings.gain, rng)
    return waveform


def add_noise(waveform: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Return a waveform with white noise, whose power is `snr_db` (dB) below the waveform's own."""
    power = np.mean(np.square(waveform, dtype=np.float64))
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    return waveform + noise * np.float32(np.sqrt(power * 10 ** (-snr_db / 10)))


def shift(waveform: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return a waveform moved by up to `most` samples either way; what leaves comes in again."""
    return np.roll(waveform, rng.integers(-most, most, endpoint=True))


def gain(waveform: np.ndarray, most_db: float, rng: np.random.Generator) -> np.ndarray:
    """Return a waveform that is louder or softer by up to `most_db` (dB), uniformly."""
    return waveform * np.float32(10 ** (rng.uniform(-most_db, most_db) / 20))


def stretch(waveform: np.ndarray, rate: float) -> np.ndarray:
    """Return a waveform that is `rate` times as fast, of the same pitch: samples / rate.

    The phase vocoder of Flanagan and Golden (1966), as in librosa's `time_stretch`: magnitudes
    between two frames are interpolated, and a phase goes on by what it gains between the two. (As
    whole turns of a phase do not count, its frequency need not be reckoned.)
    """
    fft, hop = 2048, 512
    window = torch.hann_window(fft)
    spectra = torch.stft(
        torch.from_numpy(waveform), fft, hop, window=window, pad_mode="constant",
        return_complex=True,
    )  # (frequencies, frames)  # fmt: skip
    steps = torch.arange(0, spectra.shape[1], rate, dtype=torch.float64)
    before = steps.long()
    between = (steps - before).float()
    spectra = functional.pad(spectra, (0, 1))
    magnitudes, phases = spectra.abs(), spectra.angle()
    magnitudes = torch.lerp(magnitudes[:, before], magnitudes[:, before + 1], between)
    gains = phases.diff()[:, before[:-1]]
    phase = torch.cat([phases[:, :1], gains], 1).cumsum(1, dtype=torch.float64) % (2 * math.pi)
    stretched = torch.polar(magnitudes, phase.float())
    length = max(1, round(len(waveform) / rate))
    return torch.istft(stretched, fft, hop, window=window, length=length).numpy()
