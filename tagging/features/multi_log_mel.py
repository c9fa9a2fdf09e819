"""Log-mel spectrograms of several resolutions in time, one a channel.

Palanisamy, Singhania, Yao (2020), "Rethinking CNN models for audio classification", arXiv
2007.11154: an image's three channels are spectrograms of three windows and hops, brought to one
size. Here each hop is as long as its window, and the defaults are 10, 20 and 30 ms of 16 kHz.
"""

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.features import log_mel
from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The feature's settings (`features.multi_log_mel`)."""

    sample_rate: Int = Field(16000, description="a whole number of Hz, 1 or more", ge=1)
    windows: tuple[Int, ...] = Field(
        (160, 320, 480),
        description="a list of whole numbers of samples, each a channel's window and hop",
        min_length=1,
    )
    fft: Int = Field(512, description="an even number of samples, the longest window's or more")
    bins: Int = Field(128, description="a whole number of mel filters, 1 or more", ge=1)
    frames: Int = Field(
        101, description="a whole number of frames, which every clip is brought to", ge=1
    )
    floor: Float = Field(1e-6, description="a number above 0, which powers are raised by", gt=0)


class Transform(nn.Module):
    """Waveforms, float32 (batch, samples), to spectrograms (batch, windows, frames, bins)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        if settings.fft % 2:
            raise UserError(
                f"features.multi_log_mel.fft is {settings.fft}; it takes an even number of samples"
            )
        for window in settings.windows:
            if not 2 <= window <= settings.fft:
                raise UserError(
                    f"features.multi_log_mel.windows has {window}; it takes numbers from 2 to "
                    f"features.multi_log_mel.fft, {settings.fft}"
                )
        self.sample_rate, self.bins = settings.sample_rate, settings.bins
        self.channels, self.size = len(settings.windows), settings.frames
        # torchaudio's settings, which the paper's program leaves as they are.
        self.of_windows = nn.ModuleList(
            log_mel.Transform(
                log_mel.Settings(
                    sample_rate=settings.sample_rate,
                    window=window,
                    fft=settings.fft,
                    hop=window,
                    framing="reflect",
                    bins=settings.bins,
                    scale="htk",
                    area=False,
                    floor=settings.floor,
                    floored="sum",
                )
            )
            for window in settings.windows
        )

    def frames(self, samples: int) -> int:
        """Return how many frames so many samples give: the same for any."""
        return self.size

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the spectrograms, float32 (batch, windows, frames, bins)."""
        size = (self.size, self.bins)
        channels = [
            functional.interpolate(transform(waveform), size, mode="bilinear")
            for transform in self.of_windows
        ]
        return torch.cat(channels, 1)
