"""Changes of waveforms that leave a clip's labels as they were.

Waveforms are float32 (samples,). They are changed once, before features are computed: the result is
a copy of all clips that training draws from. Random numbers come from the generator passed alone.
"""

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from tagging.data.parameters import Float, Int, Section


class AugmentedCopies(Section):
    """An item of `features.<name>.augmented_copies`: copies of all clips with changed waveforms.

    Each change is made to a clip with the probability `prob`. Items with one change each and a
    `prob` of 1 are copies in which all clips have this change alone.
    """

    copies: Int = Field(1, ge=1)
    prob: Float = Field(0.5, ge=0, le=1)
    # Speeds, one of which is drawn; the clip is then cut off, or padded with silence.
    stretch_rates: tuple[Annotated[Float, Field(gt=0)], ...] = ()
    max_shift_seconds: Float = Field(0.0, ge=0)
    noise_snr_db: tuple[Float, Float] | None = None  # range of white noise's signal-to-noise ratio
    max_gain_db: Float = Field(0.0, ge=0)  # louder or softer
    seed: Int = Field(0, ge=0)


def augment_waveform(
    waveform: np.ndarray, sample_rate: int, settings: AugmentedCopies, rng: np.random.Generator
) -> np.ndarray:
    """Return a waveform of the same length with each change made or not.

    Args:
        waveform: float32 (samples,).
        sample_rate: in Hz.
        settings: of the changes.
        rng: the source of all random numbers.
    """
    samples = len(waveform)
    if settings.stretch_rates and rng.random() < settings.prob:
        stretched = time_stretch(waveform, rng.choice(settings.stretch_rates))[:samples]
        waveform = np.pad(stretched, (0, samples - len(stretched)))
    if settings.max_shift_seconds and rng.random() < settings.prob:
        waveform = time_shift(waveform, round(settings.max_shift_seconds * sample_rate), rng)
    if settings.noise_snr_db is not None and rng.random() < settings.prob:
        waveform = add_noise(waveform, rng.uniform(*settings.noise_snr_db), rng)
    if settings.max_gain_db and rng.random() < settings.prob:
        waveform = apply_gain(waveform, settings.max_gain_db, rng)
    return waveform


def add_noise(waveform: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Return a waveform with white noise, whose power is `snr_db` (dB) below the waveform's."""
    power = np.mean(np.square(waveform, dtype=np.float64))
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    return waveform + noise * np.float32(np.sqrt(power * 10 ** (-snr_db / 10)))


def time_shift(waveform: np.ndarray, max_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Return a waveform rolled by up to `max_samples` samples either way."""
    return np.roll(waveform, rng.integers(-max_samples, max_samples, endpoint=True))


def apply_gain(waveform: np.ndarray, max_db: float, rng: np.random.Generator) -> np.ndarray:
    """Return a waveform that is louder or softer by up to `max_db` (dB), uniformly."""
    return waveform * np.float32(10 ** (rng.uniform(-max_db, max_db) / 20))


def time_stretch(waveform: np.ndarray, rate: float) -> np.ndarray:
    """Return a waveform `rate` times as fast at the same pitch: float32 (samples / rate,).

    The phase vocoder of Flanagan and Golden (1966), as in librosa's `time_stretch`: magnitudes are
    interpolated between two frames, and the phase advances by the difference of their phases.
    (Whole turns do not count, so that the frequency of a bin is not needed.)
    """
    fft, hop = 2048, 512
    window = torch.hann_window(fft)
    spectra = torch.stft(
        torch.from_numpy(waveform), fft, hop, window=window, pad_mode="constant",
        return_complex=True,
    )  # (frequencies, frames)  # fmt: skip
    steps = torch.arange(0, spectra.shape[1], rate, dtype=torch.float64)
    before = steps.long()
    fraction = (steps - before).float()
    spectra = functional.pad(spectra, (0, 1))
    magnitudes, phases = spectra.abs(), spectra.angle()
    magnitudes = torch.lerp(magnitudes[:, before], magnitudes[:, before + 1], fraction)
    advances = phases.diff()[:, before[:-1]]
    phase = torch.cat([phases[:, :1], advances], 1).cumsum(1, dtype=torch.float64) % (2 * math.pi)
    stretched = torch.polar(magnitudes, phase.float())
    length = max(1, round(len(waveform) / rate))
    return torch.istft(stretched, fft, hop, window=window, length=length).numpy()
