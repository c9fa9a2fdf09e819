"""Power spectra of a waveform's frames, and banks of filters on the mel scales."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.parameters import Float, Section

Scale = Literal["slaney", "htk", "kaldi"]
# How frames lie: centred, with zeros or the mirrored waveform beyond its ends; whole windows alone,
# each less its mean (Kaldi); from the first sample on, the last window filled with zeros ("end").
Framing = Literal["zeros", "reflect", "kaldi", "end"]
# Frames that are transformed at once: more do not stay in a core's cache.
_AT_ONCE = 128


class Band(Section):
    """Settings of features whose filters begin and end where one may say."""

    low: Float = Field(0.0, description="a number of Hz, 0 or more, below high", ge=0)
    high: Float | None = Field(
        None, description="a number of Hz up to half the sample rate, or null (that)"
    )


class FilteredSpectrum(nn.Module):
    """The short-time Fourier transform of waveforms, its powers summed by a bank of filters.

    A waveform too short for one frame is continued by zeros. Pre-emphasis, x[t] - c x[t-1], drops
    the first sample where frames are centred, and leaves it as it is elsewhere.
    """

    def __init__(
        self,
        window: torch.Tensor,
        hop: int,
        weights: torch.Tensor,
        framing: Framing,
        preemphasis: float = 0.0,
        power: float = 2.0,
    ) -> None:
        """Take the window, (samples,), and the filters' weights, (fft // 2 + 1, filters).

        `power` is that of the magnitudes that are summed. The FFT's size is even.
        """
        super().__init__()
        self.size, self.fft, self.hop = len(window), 2 * len(weights) - 2, hop
        self.framing, self.preemphasis, self.power = framing, preemphasis, power
        self.register_buffer("window", window.float(), persistent=False)
        self.filters = FilterBank(weights)
        # The window lies in the middle of what is transformed.
        self.left = (self.fft - self.size) // 2
        self.right = self.fft - self.size - self.left
        self.dropped = int(self.centred and preemphasis != 0)
        if framing == "kaldi":
            # What a frame's mean is in its spectrum. Kaldi takes it off before pre-emphasis, whose
            # first sample differs: a Hann window makes that zero.
            mean = functional.pad(window.double() * (1 - preemphasis), (self.left, self.right))
            spectrum = torch.view_as_real(torch.fft.rfft(mean)).float()  # (fft // 2 + 1, 2)
            self.register_buffer("mean", spectrum, persistent=False)

    @property
    def centred(self) -> bool:
        """Whether a frame's middle lies at a multiple of the hop."""
        return self.framing in ("zeros", "reflect")

    @property
    def fewest(self) -> int:
        """The samples that a frame takes; a shorter waveform is continued by zeros."""
        least = {"zeros": 1, "reflect": self.fft // 2 + 1, "kaldi": self.size, "end": self.size}
        return least[self.framing] + self.dropped

    def frames(self, samples: int) -> int:
        """Return how many frames so many samples give, 1 or more."""
        samples = max(samples, self.fewest) - self.dropped
        if self.centred:
            return 1 + samples // self.hop
        # With "end" a window that is not whole counts as well.
        beyond = samples - self.size + (self.hop - 1 if self.framing == "end" else 0)
        return 1 + beyond // self.hop

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return (batch, frames, filters), float32, of waveforms (batch, samples)."""
        if waveform.shape[1] < self.fewest:
            waveform = functional.pad(waveform, (0, self.fewest - waveform.shape[1]))
        frames = self.frames(waveform.shape[1])
        x = waveform
        if self.preemphasis:
            rest = x[:, 1:] - self.preemphasis * x[:, :-1]
            x = rest if self.dropped else torch.cat([x[:, :1], rest], 1)
        if self.centred:
            mode = "reflect" if self.framing == "reflect" else "constant"
            x = functional.pad(x, (self.fft // 2, self.fft // 2), mode=mode)
        else:
            # As many zeros as the last frame lacks; with "kaldi" it lacks none.
            lacks = max(0, (frames - 1) * self.hop + self.size - waveform.shape[1])
            x = functional.pad(x, (self.left, self.right + lacks))
        means = None
        if self.framing == "kaldi":
            means = functional.avg_pool1d(waveform, self.size, self.hop)  # (batch, frames)
        if torch.compiler.is_exporting():  # a graph has no loop of unknown length
            return self._summed(x, means)
        parts = []
        for first in range(0, frames, _AT_ONCE):
            last = min(first + _AT_ONCE, frames)
            samples = x[:, first * self.hop : (last - 1) * self.hop + self.fft]
            parts.append(self._summed(samples, None if means is None else means[:, first:last]))
        return torch.cat(parts, 1)

    def _summed(self, x: torch.Tensor, means: torch.Tensor | None) -> torch.Tensor:
        """Return (batch, frames, filters) of samples that are padded, and the frames' means."""
        spectra = torch.stft(
            x, self.fft, self.hop, self.size, self.window, center=False, return_complex=True
        )
        parts = torch.view_as_real(spectra.transpose(1, 2))  # (batch, frames, fft // 2 + 1, 2)
        if means is not None:
            parts = parts - means[:, :, None, None] * self.mean
        # In place: a new array of this size takes as long as the transform.
        parts = parts.square_()
        powers = parts[..., 0] + parts[..., 1]
        if self.power != 2:
            powers = powers.sqrt() if self.power == 1 else powers ** (self.power / 2)
        return self.filters(powers)


class FilterBank(nn.Module):
    """Weighted sums of a spectrum: (batch, frames, frequencies) to (batch, frames, filters).

    Filters overlap their neighbours alone: each quarter of them is multiplied by the frequencies
    that it has weights for.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        """Take the weights, (frequencies, filters)."""
        super().__init__()
        self.spans = []
        for part in weights.float().split(math.ceil(weights.shape[1] / 4), dim=1):
            used = part.any(1).nonzero().flatten().tolist() or [0]
            span = slice(used[0], used[-1] + 1)
            self.register_buffer(f"part{len(self.spans)}", part[span].clone(), persistent=False)
            self.spans.append(span)

    def forward(self, spectra: torch.Tensor) -> torch.Tensor:
        """Return what the filters let through, of the type of `spectra`."""
        parts = [spectra[..., s] @ getattr(self, f"part{i}") for i, s in enumerate(self.spans)]
        return torch.cat(parts, -1)


def check_sizes(name: str, window: int, fft: int) -> None:
    """Refuse an FFT that is odd or shorter than the window, both in samples.

    Args:
        name: the feature, as errors call it.

    Raises:
        UserError: saying what it takes.
    """
    if fft < window or fft % 2:
        raise UserError(
            f"features.{name}.fft is {fft}; it takes an even number, the window's {window} or more"
        )


def highest(name: str, sample_rate: int, band: Band) -> float:
    """Return where the last filter ends: `high`, or half the sample rate where that is None, in Hz.

    Args:
        name: the feature, as errors call it.
        sample_rate: in Hz.
        band: the feature's settings.

    Raises:
        UserError: if that is not above `low`, or above half the sample rate.
    """
    nyquist = sample_rate / 2
    high = nyquist if band.high is None else band.high
    if not band.low < high <= nyquist:
        raise UserError(
            f"features.{name}.high is {high:g} Hz; it takes a number above low, which is "
            f"{band.low:g}, up to half the sample rate, {nyquist:g}"
        )
    return high


def mel_filters(
    sample_rate: int, fft: int, filters: int, low: float, high: float, scale: Scale, area: bool
) -> torch.Tensor:
    """Return triangular filters, evenly spaced on a mel scale.

    Slaney's and HTK's triangles are straight in Hz, Kaldi's are in mel.

    Args:
        sample_rate: in Hz, as are `low` and `high`, where the first begins and the last ends.
        area: whether each filter's area in Hz is 1, and not its peak (Slaney).

    Returns:
        float64 (fft // 2 + 1, filters).
    """
    corners = mel_corners(filters, low, high, scale)
    frequencies = torch.arange(fft // 2 + 1, dtype=torch.float64) * sample_rate / fft
    if scale == "kaldi":
        weights = triangles(to_mel(corners, scale), to_mel(frequencies, scale))
    else:
        weights = triangles(corners, frequencies)
    return weights * 2 / (corners[2:] - corners[:-2]) if area else weights


def mel_corners(filters: int, low: float, high: float, scale: Scale) -> torch.Tensor:
    """Return where triangles begin, peak and end, in Hz: float64 (filters + 2,)."""
    first, last = to_mel(torch.tensor([low, high], dtype=torch.float64), scale).tolist()
    return to_hertz(torch.linspace(first, last, filters + 2, dtype=torch.float64), scale)


def triangles(corners: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the heights at `places` of triangles, each from one corner over the next to the third.

    Returns:
        float64 in 0..1, (places, corners - 2).
    """
    places = places.unsqueeze(1)
    widths = corners.diff()
    # 0 / 0 is where two corners are one: the peak, if the triangle falls from there.
    rising = ((places - corners[:-2]) / widths[:-1]).nan_to_num(nan=1.0)
    falling = ((corners[2:] - places) / widths[1:]).nan_to_num(nan=0.0)
    return torch.minimum(rising, falling).clamp_min(0)


def to_mel(hertz: torch.Tensor, scale: Scale) -> torch.Tensor:
    """Return frequencies, float64, on a mel scale.

    HTK's and Kaldi's are 1127 ln(1 + f / 700). Slaney's (Auditory Toolbox, 1998) is linear up to
    1 kHz, which is 15, and has 27 steps to 6.4 kHz.
    """
    if scale != "slaney":
        return 1127 * (hertz / 700).log1p()
    above = 15 + 27 * (hertz.clamp_min(1000) / 1000).log() / math.log(6.4)
    return torch.where(hertz < 1000, hertz * 15 / 1000, above)


def to_hertz(mel: torch.Tensor, scale: Scale) -> torch.Tensor:
    """Return the frequencies of places on a mel scale, float64: what `to_mel` undoes."""
    if scale != "slaney":
        return 700 * (mel / 1127).expm1()
    above = 1000 * ((mel.clamp_min(15) - 15) / 27 * math.log(6.4)).exp()
    return torch.where(mel < 15, mel * 1000 / 15, above)
