"""Frontends: the feature that a model was trained on, computed from a waveform."""

from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from tagging.base.errors import UserError
from tagging.commands.models import find_model
from tagging.data.spec import InputSpec
from tagging.features import log_mel
from tagging.learning import embedding

DEFAULT_WINDOW_SECONDS = 10.0  # of models whose input is the same for clips of any length


class Frontend(Protocol):
    """Maps waveforms, float32 (batch, samples), to features (batch, channels, frames, bins).

    Attributes:
        sample_rate: of the waveforms (Hz).
    """

    sample_rate: int

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the features."""

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform."""


class Waveform(nn.Module):
    """The frontend of networks that read waveforms."""

    channels, bins = 1, 1

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate

    def frames(self, samples: int) -> int:
        """Return the number of samples: each is a frame."""
        return samples

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Add axes: (batch, samples) to (batch, 1, samples, 1)."""
        return waveform[:, None, :, None]


def build_frontend(features: dict[str, Any], path: Path) -> Frontend | None:
    """Build what computes a network's input; None for AudioSet's embeddings.

    Args:
        features: name and settings of the feature, from the model's file.
        path: of the model's file, for errors.

    Raises:
        UserError: if the feature is unknown.
    """
    settings = dict(features)
    name = settings.pop("name", None)
    if name == "vggish":
        return None
    if name == "waveform":
        return Waveform(settings["sample_rate"])
    if name == "embedding":
        class_names = settings["classes"]
        # The task's classes are in the order of their names, as in the stage `features`.
        ordered = class_names and [class_names[key] for key in sorted(class_names)]
        return embedding.Transform(find_model(settings["weights"]), settings["output"], ordered)
    try:
        return cast(Frontend, embedding.build_transform(name, settings, "features", path))
    except UserError as error:
        raise UserError(
            f"{path}: the model's feature {name!r} cannot be computed: {error}"
        ) from None


def edge_samples(frontend: log_mel.Transform) -> int:
    """Return how far a frame reaches to either side (samples, rounded up to whole hops)."""
    hop = frontend.settings.hop
    return -(-frontend.spectrum.fft // 2 // hop) * hop


def clip_seconds(frontend: Frontend, spec: InputSpec) -> float:
    """Return the duration of clips of `spec.frames`: the roundest number with as many frames."""
    sample_rate, frames = frontend.sample_rate, spec.frames
    low, high = 1, 3600 * sample_rate
    if frontend.frames(high) == frontend.frames(low):  # clips of any length have as many
        return DEFAULT_WINDOW_SECONDS
    # Bisect for the highest number of samples that gives no more frames.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if frontend.frames(middle) <= frames else (low, middle)
    for digits in range(4):
        seconds = round(low / sample_rate, digits)
        if seconds and frontend.frames(round(seconds * sample_rate)) == frames:
            return seconds
    return low / sample_rate
