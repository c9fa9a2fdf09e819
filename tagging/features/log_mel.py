"""Log-mel spectrograms, with the settings of well-known ones as presets.

`librosa`: McFee et al. (2015), "librosa: audio and music signal analysis in Python": its default
`melspectrogram`, then the logarithm. (Its spectra come of float64. Those of float32 are as good
down to 1e-5 or so; with `log: db` and a floor of 1e-10, that of `power_to_db`, the softest bands of
loud frames differ by hundredths of a decibel.) `efficientat`: Schmid, Koutini, Widmer
(2023), "Efficient large-scale audio tagging via Transformer-to-CNN knowledge distillation", arXiv
2211.04772. `musicnn`: Pons, Serra (2019), "musicnn: pre-trained convolutional neural networks for
music audio tagging", arXiv 1909.06654. `ast`: Gong, Chung, Glass (2021), "AST: Audio Spectrogram
Transformer", arXiv 2104.01778, as `transformers` computes it, without the padding to 1,024 frames.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from tagging.features.mel import Band, FilteredSpectrum, Scale, check_sizes, highest, mel_filters
from tagging.parameters import Float, Int

PRESETS: dict[str, dict[str, Any]] = {
    "librosa": {
        "sample_rate": 22050,
        "window": 2048,
        "hop": 512,
        "bins": 128,
        "floor": 1e-5,
    },
    "efficientat": {
        "sample_rate": 32000,
        "window": 800,
        "symmetric": True,
        "fft": 1024,
        "hop": 320,
        "framing": "reflect",
        "preemphasis": 0.97,
        "bins": 128,
        "high": 15000.0,
        "scale": "kaldi",
        "area": False,
        "floor": 1e-5,
        "floored": "sum",
        "mean": -4.5,
        "deviation": 5.0,
    },
    # log10(10000 p + 1) of a power rounded to float16.
    "musicnn": {
        "sample_rate": 16000,
        "window": 512,
        "hop": 256,
        "bins": 96,
        "half": True,
        "log": "log10",
        "floor": 1e-4,
        "floored": "sum",
        "mean": -4.0,
    },
    # The floor is float32's epsilon, the deviation twice AudioSet's.
    "ast": {
        "sample_rate": 16000,
        "window": 400,
        "symmetric": True,
        "fft": 512,
        "hop": 160,
        "framing": "kaldi",
        "preemphasis": 0.97,
        "bins": 128,
        "low": 20.0,
        "scale": "kaldi",
        "area": False,
        "floor": 2**-23,
        "mean": -4.2677393,
        "deviation": 2 * 4.5689974,
    },
}


class Settings(Band):
    """The feature's settings (`features.log_mel`); what they leave out is librosa's or a preset's.

    With `preset`, any other setting stands in place of the preset's.
    """

    preset: Literal["librosa", "efficientat", "musicnn", "ast"] | None = Field(
        None, description="librosa, efficientat, musicnn, ast or null (none)"
    )
    sample_rate: Int = Field(description="a whole number of Hz, 1 or more", ge=1)
    window: Int = Field(description="a whole number of samples, 2 or more", ge=2)
    symmetric: bool = Field(
        False, description="true (the Hann window is symmetric) or false (periodic)"
    )
    fft: Int | None = Field(
        None, description="an even number of samples, the window's or more, or null (the window's)"
    )
    hop: Int = Field(description="a whole number of samples, 1 or more", ge=1)
    framing: Literal["zeros", "reflect", "kaldi"] = Field(
        "zeros",
        description="zeros or reflect (frames are centred, with zeros or the mirrored waveform "
        "beyond its ends) or kaldi (whole windows alone, each less its mean)",
    )
    preemphasis: Float = Field(0.0, description="a number from 0 (none) to below 1", ge=0, lt=1)
    power: Float = Field(
        2.0, description="a number above 0, such as 2 (power) or 1 (magnitude)", gt=0
    )
    bins: Int = Field(description="a whole number of mel filters, 1 or more", ge=1)
    scale: Scale = Field("slaney", description="slaney, htk or kaldi")
    area: bool = Field(True, description="true (each filter's area is 1) or false (its peak is 1)")
    half: bool = Field(False, description="true (powers are rounded to float16) or false")
    log: Literal["ln", "log10", "db"] = Field("ln", description="ln, log10 or db (decibels)")
    floor: Float = Field(1e-10, description="a number above 0", gt=0)
    floored: Literal["max", "sum"] = Field(
        "max", description="max (what is below the floor is raised to it) or sum (it is added)"
    )
    mean: Float = Field(0.0, description="a number, which is subtracted from the logarithms")
    deviation: Float = Field(
        1.0, description="a number above 0, which the logarithms are divided by", gt=0
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        # A name that is no preset is refused as a field's value.
        return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values


class Transform(nn.Module):
    """Waveforms, float32 (batch, samples), to log-mel spectrograms (batch, 1, frames, bins)."""

    channels = 1

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        fft = settings.window if settings.fft is None else settings.fft
        check_sizes("log_mel", settings.window, fft)
        high = highest("log_mel", settings.sample_rate, settings)
        self.sample_rate, self.bins = settings.sample_rate, settings.bins
        self.settings = settings
        window = torch.hann_window(
            settings.window, periodic=not settings.symmetric, dtype=torch.float64
        )
        weights = mel_filters(
            settings.sample_rate, fft, settings.bins, settings.low, high, settings.scale,
            settings.area,
        )  # fmt: skip
        self.spectrum = FilteredSpectrum(
            window, settings.hop, weights, settings.framing, settings.preemphasis, settings.power
        )

    def frames(self, samples: int) -> int:
        """Return how many frames so many samples give, 1 or more."""
        return self.spectrum.frames(samples)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the spectrograms, float32 (batch, 1, frames, bins)."""
        settings = self.settings
        p = self.spectrum(waveform)  # (batch, frames, bins)
        if settings.half:
            p = p.half().float()
        p = p + settings.floor if settings.floored == "sum" else p.clamp_min(settings.floor)
        logs = p.log() if settings.log == "ln" else p.log10()
        # A decibel is a tenth of a decade of power.
        scale = 20 / settings.power if settings.log == "db" else 1.0
        return ((logs * scale - settings.mean) / settings.deviation).unsqueeze(1)
