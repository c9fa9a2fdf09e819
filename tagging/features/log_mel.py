"""Log-mel spectrograms, with the settings of well-known ones as presets.

`librosa`: McFee et al. (2015), "librosa: audio and music signal analysis in Python": its default
`melspectrogram`, then the logarithm. (librosa computes spectra in float64. Those of float32 agree
down to about 1e-5; with `log: db` and a floor of 1e-10, that of `power_to_db`, the softest bands of
loud frames differ by hundredths of a decibel.) `efficientat`: Schmid, Koutini, Widmer
(2023), "Efficient large-scale audio tagging via Transformer-to-CNN knowledge distillation", arXiv
2211.04772. `musicnn`: Pons, Serra (2019), "musicnn: pre-trained convolutional neural networks for
music audio tagging", arXiv 1909.06654. `ast`: Gong, Chung, Glass (2021), "AST: Audio Spectrogram
Transformer", arXiv 2104.01778, as `transformers` computes it, without the padding to 1,024 frames.
"""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from tagging.data.parameters import Float, Int
from tagging.features.base import WaveformTransform
from tagging.features.mel import (
    Band,
    FilteredSpectrum,
    Scale,
    check_fft,
    highest_frequency,
    mel_filters,
)

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
        "mel_norm": False,
        "floor": 1e-5,
        "offset_mode": "sum",
        "mean": -4.5,
        "std": 5.0,
    },
    # log10(10000 p + 1) of a power rounded to float16.
    "musicnn": {
        "sample_rate": 16000,
        "window": 512,
        "hop": 256,
        "bins": 96,
        "float16_power": True,
        "log": "log10",
        "floor": 1e-4,
        "offset_mode": "sum",
        "mean": -4.0,
    },
    # The floor is float32's epsilon; the inputs are divided by twice AudioSet's standard deviation.
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
        "mel_norm": False,
        "floor": 2**-23,
        "mean": -4.2677393,
        "std": 2 * 4.5689974,
    },
}


class Settings(Band):
    """The settings of a log-mel spectrogram; the defaults are librosa's or those of `preset`.

    With `preset`, any other setting replaces the preset's.
    """

    preset: Literal["librosa", "efficientat", "musicnn", "ast"] | None = None
    sample_rate: Int = Field(ge=1)  # Hz
    window: Int = Field(ge=2)  # samples of the Hann window
    symmetric: bool = False  # the window; else it is periodic
    fft: Int | None = None  # samples; null: those of the window
    hop: Int = Field(ge=1)  # samples
    framing: Literal["zeros", "reflect", "kaldi"] = "zeros"
    """zeros, reflect: frames are centred, and the waveform is padded with zeros or mirrored. kaldi:
    whole windows alone, with their mean subtracted."""
    preemphasis: Float = Field(0.0, ge=0, lt=1)
    power: Float = Field(2.0, gt=0)  # of the magnitudes: 2 for power, 1 for magnitude
    bins: Int = Field(ge=1)  # mel filters
    scale: Scale = "slaney"
    mel_norm: bool = True  # each filter's area is 1 (Slaney); else its peak is 1
    float16_power: bool = False  # powers are rounded to float16
    log: Literal["ln", "log10", "db"] = "ln"
    floor: Float = Field(1e-10, gt=0)  # keeps the logarithm finite
    offset_mode: Literal["max", "sum"] = "max"  # powers are raised to the floor, or it is added
    mean: Float = 0.0  # subtracted from the logarithms
    std: Float = Field(1.0, gt=0)  # divides the logarithms

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        # The field's type refuses unknown presets.
        return {**PRESETS.get(preset, {}), **values} if isinstance(preset, str) else values


class Transform(WaveformTransform):
    """Waveforms, float32 (batch, samples), to log-mel spectrograms (batch, 1, frames, bins)."""

    channels = 1

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        fft = settings.window if settings.fft is None else settings.fft
        check_fft("log_mel", settings.window, fft)
        high = highest_frequency("log_mel", settings.sample_rate, settings)
        self.sample_rate, self.bins = settings.sample_rate, settings.bins
        self.settings = settings
        window = torch.hann_window(
            settings.window, periodic=not settings.symmetric, dtype=torch.float64
        )
        weights = mel_filters(
            settings.sample_rate, fft, settings.bins, settings.low, high, settings.scale,
            settings.mel_norm,
        )  # fmt: skip
        self.spectrum = FilteredSpectrum(
            window, settings.hop, weights, settings.framing, settings.preemphasis, settings.power
        )

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform, 1 or more."""
        return self.spectrum.frames(samples)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the spectrograms, float32 (batch, 1, frames, bins)."""
        settings = self.settings
        p = self.spectrum(waveform)  # (batch, frames, bins)
        if settings.float16_power:
            p = p.half().float()
        p = p + settings.floor if settings.offset_mode == "sum" else p.clamp_min(settings.floor)
        logs = p.log() if settings.log == "ln" else p.log10()
        # A decibel is a tenth of a decade of power.
        scale = 20 / settings.power if settings.log == "db" else 1.0
        return ((logs * scale - settings.mean) / settings.std).unsqueeze(1)
