"""Power spectra of a waveform's frames, and mel filter banks."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Float, Section

Scale = Literal["slaney", "htk", "kaldi"]
# zeros, reflect: frames are centred, and the waveform is padded with zeros or mirrored. kaldi:
# whole windows alone, with their mean subtracted. end: the last window is padded with zeros.
Framing = Literal["zeros", "reflect", "kaldi", "end"]
_CHUNK = 128  # frames that are transformed at once: more do not fit a core's cache


class Band(Section):
    """Settings of features with a band of filters."""

    low: Float = Field(0.0, ge=0)  # Hz, where the first filter begins
    high: Float | None = None  # Hz, where the last filter ends; null: half the sample rate


class FilteredSpectrum(nn.Module):
    """The powers of a short-time Fourier transform, summed by a filter bank.

    A waveform too short for one frame is padded with zeros. Pre-emphasis, x[t] - c x[t-1], drops
    the first sample where frames are centred, and keeps it unchanged otherwise.

    Args:
        window: (samples,).
        hop: in samples.
        weights: of the filters, (fft // 2 + 1, filters). The FFT's size is even.
        framing: the position of frames.
        preemphasis: its coefficient, 0 for none.
        power: the exponent of the magnitudes that are summed.
    """

    window: torch.Tensor
    mean: torch.Tensor

    def __init__(
        self,
        window: torch.Tensor,
        hop: int,
        weights: torch.Tensor,
        framing: Framing,
        preemphasis: float = 0.0,
        power: float = 2.0,
    ) -> None:
        super().__init__()
        self.size, self.fft, self.hop = len(window), 2 * len(weights) - 2, hop
        self.framing, self.preemphasis, self.power = framing, preemphasis, power
        self.register_buffer("window", window.float(), persistent=False)
        self.filters = FilterBank(weights)
        # The window is in the middle of the FFT's samples.
        self.left = (self.fft - self.size) // 2
        self.right = self.fft - self.size - self.left
        self.dropped = int(self.centred and preemphasis != 0)
        if framing == "kaldi":
            # The spectrum of a frame's mean. Kaldi subtracts the mean before pre-emphasis, which
            # differs in the first sample alone: there a Hann window is zero.
            mean = functional.pad(window.double() * (1 - preemphasis), (self.left, self.right))
            spectrum = torch.view_as_real(torch.fft.rfft(mean)).float()  # (fft // 2 + 1, 2)
            self.register_buffer("mean", spectrum, persistent=False)

    @property
    def centred(self) -> bool:
        """Whether the middle of each frame is at a multiple of the hop."""
        return self.framing in ("zeros", "reflect")

    @property
    def min_samples(self) -> int:
        """The samples of one frame; a shorter waveform is padded with zeros."""
        samples = {"zeros": 1, "reflect": self.fft // 2 + 1, "kaldi": self.size, "end": self.size}
        return samples[self.framing] + self.dropped

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform, 1 or more."""
        samples = max(samples, self.min_samples) - self.dropped
        if self.centred:
            return 1 + samples // self.hop
        # With "end" the last, incomplete window counts as well.
        rest = samples - self.size + (self.hop - 1 if self.framing == "end" else 0)
        return 1 + rest // self.hop

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return (batch, frames, filters), float32, of waveforms (batch, samples)."""
        if waveform.shape[1] < self.min_samples:
            waveform = functional.pad(waveform, (0, self.min_samples - waveform.shape[1]))
        frames = self.frames(waveform.shape[1])
        x = waveform
        if self.preemphasis:
            rest = x[:, 1:] - self.preemphasis * x[:, :-1]
            x = rest if self.dropped else torch.cat([x[:, :1], rest], 1)
        if self.centred:
            mode = "reflect" if self.framing == "reflect" else "constant"
            x = functional.pad(x, (self.fft // 2, self.fft // 2), mode=mode)
        else:
            # The last frame is padded with zeros; with "kaldi" it is complete.
            missing = max(0, (frames - 1) * self.hop + self.size - waveform.shape[1])
            x = functional.pad(x, (self.left, self.right + missing))
        means = None
        if self.framing == "kaldi":
            means = functional.avg_pool1d(waveform, self.size, self.hop)  # (batch, frames)
        if torch.compiler.is_exporting():  # a graph has no loop of unknown length
            return self._filter(x, means)
        parts = []
        for first in range(0, frames, _CHUNK):
            last = min(first + _CHUNK, frames)
            samples = x[:, first * self.hop : (last - 1) * self.hop + self.fft]
            parts.append(self._filter(samples, None if means is None else means[:, first:last]))
        return torch.cat(parts, 1)

    def _filter(self, x: torch.Tensor, means: torch.Tensor | None) -> torch.Tensor:
        """Return (batch, frames, filters) of padded samples, with the frames' means subtracted."""
        spectra = torch.stft(
            x, self.fft, self.hop, self.size, self.window, center=False, return_complex=True
        )
        parts = torch.view_as_real(spectra.transpose(1, 2))  # (batch, frames, fft // 2 + 1, 2)
        if means is not None:
            parts = parts - means[:, :, None, None] * self.mean
        # In place: allocating another array of this size costs as much as the transform.
        parts = parts.square_()
        powers = parts[..., 0] + parts[..., 1]
        if self.power != 2:
            powers = powers.sqrt() if self.power == 1 else powers ** (self.power / 2)
        return self.filters(powers)


class FilterBank(nn.Module):
    """Weighted sums of a spectrum: (batch, frames, frequencies) to (batch, frames, filters).

    Filters overlap their neighbours alone, so each quarter of them is multiplied by those
    frequencies only that have a weight.

    Args:
        weights: (frequencies, filters).
    """

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.spans: list[slice] = []
        for part in weights.float().split(math.ceil(weights.shape[1] / 4), dim=1):
            used = part.any(1).nonzero().flatten().tolist() or [0]
            span = slice(used[0], used[-1] + 1)
            self.register_buffer(f"part{len(self.spans)}", part[span].clone(), persistent=False)
            self.spans.append(span)

    def forward(self, spectra: torch.Tensor) -> torch.Tensor:
        """Return the outputs of the filters, of the dtype of `spectra`."""
        parts = [spectra[..., s] @ getattr(self, f"part{i}") for i, s in enumerate(self.spans)]
        return torch.cat(parts, -1)


def check_fft(name: str, window: int, fft: int) -> None:
    """Refuse an FFT that is odd or shorter than the window, both in samples.

    Args:
        name: the feature's name in errors.
        window: the size of the window.
        fft: the size of the FFT.

    Raises:
        UserError: if it is.
    """
    if fft < window or fft % 2:
        raise UserError(f"features.{name}.fft must be even and at least {window}, got {fft}")


def highest_frequency(name: str, sample_rate: int, band: Band) -> float:
    """Return the end of the last filter in Hz: `high`, or by default half the sample rate.

    Args:
        name: the feature's name in errors.
        sample_rate: in Hz.
        band: the feature's settings.

    Raises:
        UserError: if it is not above `low`, or is above half the sample rate.
    """
    nyquist = sample_rate / 2
    high = nyquist if band.high is None else band.high
    if not band.low < high <= nyquist:
        raise UserError(
            f"features.{name}.high must be above low, {band.low:g} Hz, and at most half the "
            f"sample rate, {nyquist:g} Hz, got {high:g}"
        )
    return high


def mel_filters(
    sample_rate: int,
    fft: int,
    filters: int,
    low: float,
    high: float,
    scale: Scale,
    mel_norm: bool,
) -> torch.Tensor:
    """Return triangular filters, evenly spaced on a mel scale.

    Slaney's and HTK's triangles are linear in Hz, Kaldi's are linear in mel.

    Args:
        sample_rate: in Hz.
        fft: the size of the FFT.
        filters: their number.
        low: the start of the first filter, in Hz.
        high: the end of the last filter, in Hz.
        scale: the mel scale.
        mel_norm: whether each filter's area in Hz is 1 (Slaney), not its peak.

    Returns:
        float64 (fft // 2 + 1, filters).
    """
    corners = mel_corners(filters, low, high, scale)
    frequencies = torch.arange(fft // 2 + 1, dtype=torch.float64) * sample_rate / fft
    if scale == "kaldi":
        weights = triangles(to_mel(corners, scale), to_mel(frequencies, scale))
    else:
        weights = triangles(corners, frequencies)
    return weights * 2 / (corners[2:] - corners[:-2]) if mel_norm else weights


def mel_corners(filters: int, low: float, high: float, scale: Scale) -> torch.Tensor:
    """Return the starts, peaks and ends of triangles, in Hz: float64 (filters + 2,)."""
    first, last = to_mel(torch.tensor([low, high], dtype=torch.float64), scale).tolist()
    return to_hertz(torch.linspace(first, last, filters + 2, dtype=torch.float64), scale)


def triangles(corners: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the heights at `positions` of triangles over three consecutive corners each.

    Returns:
        float64 in 0..1, (positions, corners - 2).
    """
    positions = positions.unsqueeze(1)
    widths = corners.diff()
    # 0 / 0 occurs where two corners coincide: the peak, if the triangle falls from there.
    rising = ((positions - corners[:-2]) / widths[:-1]).nan_to_num(nan=1.0)
    falling = ((corners[2:] - positions) / widths[1:]).nan_to_num(nan=0.0)
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
    """Return the frequencies in Hz of values on a mel scale, float64: the inverse of `to_mel`."""
    if scale != "slaney":
        return 700 * (mel / 1127).expm1()
    above = 1000 * ((mel.clamp_min(15) - 15) / 27 * math.log(6.4)).exp()
    return torch.where(mel < 15, mel * 1000 / 15, above)
