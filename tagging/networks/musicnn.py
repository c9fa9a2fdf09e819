"""Parallel timbral and temporal convolutions, a dense middle, then maximum and mean over time.

Pons, Serra (2019), "musicnn: pre-trained convolutional neural networks for music audio tagging",
arXiv 1909.06654. The frontend is that of Pons, Nieto, Prockup, Schmidt, Ehmann, Serra (2018),
"End-to-end learning for music audio tagging at scale", arXiv 1711.02520. Timbral filters span many
bins and few frames, temporal filters a single bin and many frames; each is followed by the maximum
over the bins.

The paper's input is log-mel spectrograms with 62 frames per second, with the settings `timbral` 7,
`temporal` 128, 64 and 32, `filters` 51, `middle_frames` 7, `normalize` channels, `eps` 0.001. The
defaults of the settings are for embeddings, one per second: kernels that fit ten frames, and
normalization of each bin, as neighbouring bins are unrelated.
"""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import nn
from torch.nn import functional

from tagging.data.parameters import Float, Int, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.padding import (
    MaskedBatchNorm,
    frame_mask,
    max_over_frames,
    mean_over_frames,
    normalize_bins,
)


def _require_odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("must be an odd number")
    return number


OddInt = Annotated[Int, Field(ge=1), AfterValidator(_require_odd)]


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    filters: Int = Field(ge=1)  # of each temporal convolution; timbral ones have four times more
    middle: Int = Field(ge=1)  # channels of the residual blocks
    hidden: Int = Field(ge=1)  # units before the classifier
    dropout: Float = Field(ge=0, lt=1)
    timbral: OddInt = 3  # frames of the timbral kernels
    # Heights of the timbral kernels as shares of the bins, rounded down.
    heights: tuple[Annotated[Float, Field(gt=0, le=1)], ...] = (0.4, 0.7)
    temporal: tuple[Annotated[Int, Field(ge=1)], ...] = Field((9, 5, 3), min_length=1)  # frames
    middle_frames: OddInt = 3  # of the residual blocks' kernels
    normalize: Literal["bins", "channels"] = "bins"  # the input, with statistics for each
    eps: Float = Field(1e-5, gt=0)  # of batch normalization


class FrontendConv(nn.Module):
    """Convolution, ReLU and batch normalization, then the maximum over the bins."""

    def __init__(self, channels: int, filters: int, kernel: tuple[int, int], eps: float) -> None:
        super().__init__()
        self.frames, self.padding = kernel[0], kernel[0] // 2
        # Padding must not enter the maximum over bins.
        self.conv = nn.Conv2d(channels, filters, kernel, padding=(self.padding, 0))
        # TensorFlow's "same": an even kernel has one zero fewer before the clip than after it.
        self.skip = 1 - kernel[0] % 2
        self.norm = MaskedBatchNorm(filters, eps=eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, frames, bins) to (batch, filters, frames)."""
        if self.training and x.shape[2] < self.frames:
            # The gradient of a convolution in PyTorch 2.13 on CPUs writes out of bounds where its
            # own padding is longer than the clip.
            x = functional.pad(x, (0, 0, self.padding, self.padding))
            h = functional.conv2d(x, self.conv.weight, self.conv.bias)
        else:
            h = self.conv(x)
        return self.norm(h[:, :, self.skip :].relu(), mask).amax(3)


class MiddleConv(nn.Module):
    """Convolution over time, ReLU and batch normalization."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.norm = MaskedBatchNorm(channels_out, eps=eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels_in, frames) to (batch, channels_out, frames)."""
        return self.norm(self.conv(x).relu(), mask)


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        filters, middle, eps = settings.filters, settings.middle, settings.eps
        heights = [max(1, int(share * spec.bins)) for share in settings.heights]
        self.by_bin = settings.normalize == "bins"
        self.norm = MaskedBatchNorm(spec.channels * (spec.bins if self.by_bin else 1), eps=eps)
        # `front` is part of the names of weights in files.
        self.front = nn.ModuleList(
            [
                FrontendConv(spec.channels, 4 * filters, (settings.timbral, height), eps)
                for height in heights
            ]
            + [
                FrontendConv(spec.channels, filters, (length, 1), eps)
                for length in settings.temporal
            ]
        )
        frontend = (4 * len(heights) + len(settings.temporal)) * filters
        self.adapt = MiddleConv(frontend, middle, settings.middle_frames, eps)
        self.residual_1 = MiddleConv(middle, middle, settings.middle_frames, eps)
        self.residual_2 = MiddleConv(middle, middle, settings.middle_frames, eps)
        pooled = 2 * (frontend + 3 * middle)
        self.penultimate = nn.Sequential(
            nn.BatchNorm1d(pooled, eps=eps),
            nn.Dropout(settings.dropout),
            nn.Linear(pooled, settings.hidden),
            nn.ReLU(),
            nn.BatchNorm1d(settings.hidden, eps=eps),
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(settings.hidden, labels)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.dropout(self.forward_features(x, frames)))

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the normalized penultimate layer, (batch, hidden)."""
        mask = frame_mask(frames, x.shape[2])  # (batch, frames)
        x = normalize_bins(self.norm, x, frames) if self.by_bin else self.norm(x, mask)
        frontend = torch.cat([conv(x, mask) for conv in self.front], 1)
        middle_1 = self.adapt(frontend, mask)  # (batch, middle, frames)
        middle_2 = self.residual_1(middle_1, mask) + middle_1
        middle_3 = self.residual_2(middle_2, mask) + middle_2
        # Dense connections: the outputs of all layers are pooled, (batch, channels, frames).
        h = torch.cat([frontend, middle_1, middle_2, middle_3], 1)
        pooled = torch.cat([max_over_frames(h, mask), mean_over_frames(h, mask)], 1)
        return self.penultimate(pooled)
