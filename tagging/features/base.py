"""The interface of transforms of waveforms, which the files of this folder define."""

from torch import nn


class WaveformTransform(nn.Module):
    """Map waveforms, float32 (batch, samples), to features (batch, channels, frames, bins).

    Attributes:
        sample_rate: the rate of the waveforms, in Hz.
    """

    channels: int
    bins: int
    sample_rate: int

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform, 1 or more."""
        raise NotImplementedError
