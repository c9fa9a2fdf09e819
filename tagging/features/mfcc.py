"""Mel-frequency cepstral coefficients.

Davis, Mermelstein (1980), "Comparison of parametric representations for monosyllabic word
recognition in continuously spoken sentences", as the package `python_speech_features` computes
them: pre-emphasis, rectangular windows, filters whose corners are whole bins of the FFT, a
sinusoidal lifter, and the frame's energy for the first coefficient. The defaults are those of
studies of instruments at 12 kHz: half a second is 49 frames of 13.
"""

import math

import torch
from pydantic import Field
from scipy import fft as transforms
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.features.mel import (
    Band,
    FilteredSpectrum,
    check_sizes,
    highest,
    mel_corners,
    triangles,
)
from tagging.parameters import Float, Int

# What takes the place of powers of 0.
_LEAST = torch.finfo(torch.float64).eps


class Settings(Band):
    """The feature's settings (`features.mfcc`)."""

    sample_rate: Int = Field(12000, description="a whole number of Hz, 1 or more", ge=1)
    window: Int = Field(300, description="a whole number of samples, 1 or more", ge=1)
    fft: Int = Field(512, description="an even number of samples, the window's or more", ge=2)
    hop: Int = Field(120, description="a whole number of samples, 1 or more", ge=1)
    preemphasis: Float = Field(0.97, description="a number from 0 (none) to below 1", ge=0, lt=1)
    filters: Int = Field(26, description="a whole number of mel filters, 1 or more", ge=1)
    coefficients: Int = Field(
        13, description="a whole number of coefficients, from 2 to the number of filters", ge=2
    )
    lifter: Float = Field(22.0, description="a number, 0 (none) or more", ge=0)


class Transform(nn.Module):
    """Waveforms, float32 (batch, samples), to coefficients (batch, 1, frames, coefficients)."""

    channels = 1

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        check_sizes("mfcc", settings.window, settings.fft)
        if settings.coefficients > settings.filters:
            raise UserError(
                f"features.mfcc.coefficients is {settings.coefficients}; it takes at most the "
                f"number of filters, {settings.filters}"
            )
        high = highest("mfcc", settings.sample_rate, settings)
        self.sample_rate, self.bins = settings.sample_rate, settings.coefficients
        hertz = mel_corners(settings.filters, settings.low, high, "htk")
        corners = ((settings.fft + 1) * hertz / settings.sample_rate).floor()
        places = torch.arange(settings.fft // 2 + 1, dtype=torch.float64)
        # The last one lets all through: the energy.
        weights = functional.pad(triangles(corners, places), (0, 1), value=1.0)
        # By the square root of the FFT's size: powers are those of one sample.
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
        """Return how many frames so many samples give, 1 or more."""
        return self.spectrum.frames(samples)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the coefficients, float32 (batch, 1, frames, coefficients)."""
        logs = self.spectrum(waveform).clamp_min(_LEAST).log()  # (batch, frames, filters + 1)
        cepstrum = logs[..., :-1] @ self.to_cepstrum
        return torch.cat([logs[..., -1:], cepstrum], 2).unsqueeze(1)
