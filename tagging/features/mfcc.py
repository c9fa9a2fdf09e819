"""Mel-frequency cepstral coefficients.

Davis, Mermelstein (1980), "Comparison of parametric representations for monosyllabic word
recognition in continuously spoken sentences", as the package `python_speech_features` computes
them: pre-emphasis, rectangular windows, filters whose corners are whole bins of the FFT, a
sinusoidal lifter, and the frame's energy as the first coefficient. The defaults are those of
studies of instruments at 12 kHz: half a second is 49 frames of 13 coefficients.
"""

import math

import torch
from pydantic import Field
from scipy import fft as transforms
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Float, Int
from tagging.features.base import WaveformTransform
from tagging.features.mel import (
    Band,
    FilteredSpectrum,
    check_fft,
    highest_frequency,
    mel_corners,
    triangles,
)

_FLOOR = torch.finfo(torch.float64).eps  # replaces smaller powers, so that logarithms are finite


class Settings(Band):
    """The settings of the feature."""

    sample_rate: Int = Field(12000, ge=1)  # Hz
    window: Int = Field(300, ge=1)  # samples
    fft: Int = Field(512, ge=2)  # samples, even, at least the window
    hop: Int = Field(120, ge=1)  # samples
    preemphasis: Float = Field(0.97, ge=0, lt=1)
    filters: Int = Field(26, ge=1)  # mel filters
    coefficients: Int = Field(13, ge=2)  # at most the filters
    lifter: Float = Field(22.0, ge=0)  # 0 for none


class Transform(WaveformTransform):
    """Waveforms, float32 (batch, samples), to coefficients (batch, 1, frames, coefficients)."""

    channels = 1

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        check_fft("mfcc", settings.window, settings.fft)
        if settings.coefficients > settings.filters:
            raise UserError(
                f"features.mfcc.coefficients must be at most the filters, {settings.filters}, got "
                f"{settings.coefficients}"
            )
        high = highest_frequency("mfcc", settings.sample_rate, settings)
        self.sample_rate, self.bins = settings.sample_rate, settings.coefficients
        hertz = mel_corners(settings.filters, settings.low, high, "htk")
        corners = ((settings.fft + 1) * hertz / settings.sample_rate).floor()
        places = torch.arange(settings.fft // 2 + 1, dtype=torch.float64)
        # The last filter passes all frequencies: the energy.
        weights = functional.pad(triangles(corners, places), (0, 1), value=1.0)
        # Divided by the square root of the FFT's size, powers are those of one sample.
        window = torch.full((settings.window,), settings.fft**-0.5)
        self.spectrum = FilteredSpectrum(window, settings.hop, weights, "end", settings.preemphasis)
        cosines = transforms.dct(torch.eye(settings.filters).double().numpy(), norm="ortho")
        order = torch.arange(1, settings.coefficients)
        to_cepstrum = torch.from_numpy(cosines)[:, 1 : settings.coefficients]
        if settings.lifter:
            angles = math.pi * order / settings.lifter
            to_cepstrum = to_cepstrum * (1 + settings.lifter / 2 * angles.sin())
        self.register_buffer("to_cepstrum", to_cepstrum.float(), persistent=False)

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform, 1 or more."""
        return self.spectrum.frames(samples)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the coefficients, float32 (batch, 1, frames, coefficients)."""
        logs = self.spectrum(waveform).clamp_min(_FLOOR).log()  # (batch, frames, filters + 1)
        cepstrum = logs[..., :-1] @ self.to_cepstrum
        return torch.cat([logs[..., -1:], cepstrum], 2).unsqueeze(1)
