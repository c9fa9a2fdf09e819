"""Log-mel spectrograms of several resolutions in time, each a channel.

Palanisamy, Singhania, Yao (2020), "Rethinking CNN models for audio classification", arXiv
2007.11154: an image's three channels are spectrograms of three windows and hops, resized to
one size. Here each hop is as long as its window; the defaults are 10, 20 and 30 ms at 16 kHz. A
homework that does so resizes by PyTorch's default, `nearest`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Float, Int, Section
from tagging.features import log_mel
from tagging.features.base import WaveformTransform


class Settings(Section):
    """The settings of the feature."""

    sample_rate: Int = Field(16000, ge=1)  # Hz
    windows: tuple[Int, ...] = Field((160, 320, 480), min_length=1)
    """Samples of the window and hop of each channel."""
    fft: Int = 512  # samples, even, at least the longest window
    bins: Int = Field(128, ge=1)  # mel filters
    frames: Int = Field(101, ge=1)  # to which the spectrograms are resized
    resize: Literal["nearest", "bilinear"] = "bilinear"  # as in torch.nn.functional.interpolate
    floor: Float = Field(1e-6, gt=0)  # added to powers


class Transform(WaveformTransform):
    """Waveforms, float32 (batch, samples), to spectrograms (batch, windows, frames, bins)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        if settings.fft % 2:
            raise UserError(f"features.multi_log_mel.fft must be even, got {settings.fft}")
        for window in settings.windows:
            if not 2 <= window <= settings.fft:
                raise UserError(
                    "features.multi_log_mel.windows must be from 2 to features.multi_log_mel.fft, "
                    f"{settings.fft}, got {window}"
                )
        self.sample_rate, self.bins = settings.sample_rate, settings.bins
        self.channels, self.size = len(settings.windows), settings.frames
        self.resize = settings.resize
        # torchaudio's default settings, which the paper's program uses.
        self.transforms = nn.ModuleList(
            log_mel.Transform(
                log_mel.Settings.model_validate(
                    {
                        "sample_rate": settings.sample_rate,
                        "window": window,
                        "fft": settings.fft,
                        "hop": window,
                        "framing": "reflect",
                        "bins": settings.bins,
                        "scale": "htk",
                        "mel_norm": False,
                        "floor": settings.floor,
                        "offset_mode": "sum",
                    }
                )
            )
            for window in settings.windows
        )

    def frames(self, samples: int) -> int:
        """Return the number of frames, which is the same for all waveforms."""
        return self.size

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the spectrograms, float32 (batch, windows, frames, bins)."""
        size = (self.size, self.bins)
        channels = [
            functional.interpolate(transform(waveform), size, mode=self.resize)
            for transform in self.transforms
        ]
        return torch.cat(channels, 1)
