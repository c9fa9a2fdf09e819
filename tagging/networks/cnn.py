"""3 x 3 convolutions over the clip as an image of frames x bins, then linear layers.

Hershey et al. (2017), "CNN architectures for large-scale audio classification", arXiv 1609.09430,
after Simonyan, Zisserman (2014), "Very deep convolutional networks for large-scale image
recognition", arXiv 1409.1556. Strides or max pooling, batch normalization, the slope of ReLU and
the linear layers are settings. The last map is averaged over its frames and over bands of its bins,
or flattened as it is. `pools` round up: no frame is lost, and the shortest clip keeps one.
"""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.maps import Convolutions, Positive, bins_norm, convolutions, normalize_bins
from tagging.data.padding import frame_mask, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Float


class Settings(Convolutions):
    """The network's settings (`models.<name>.network`)."""

    padding: bool = Field(
        True,
        description="true (zeros around a map, so that convolutions keep its size) or false (only "
        "with clips of one length)",
        strict=True,
    )
    batch_norm: bool = Field(
        True, description="true or false (batch normalization of each convolution)", strict=True
    )
    bias: bool = Field(False, description="true or false (of each convolution)", strict=True)
    slope: Float = Field(
        0.0, description="a number from 0 (ReLU) to below 1: below zero (leaky ReLU)", ge=0, lt=1
    )
    pooling: Literal["mean", "none"] = Field(
        "mean",
        description="mean (over the last map's frames, and over bands of its bins) or none (the "
        "map is flattened; only with clips of one length)",
    )
    bands: Positive = Field(4, description="a whole number of bands, 1 or more (with pooling mean)")
    decoder: list[Positive] = Field(
        [], description="a list of the widths of linear layers before the last, 1 or more each"
    )
    dropout: Float = Field(
        description="a number from 0 to below 1, before each linear layer but one after a decoder",
        ge=0,
        lt=1,
    )


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if lists do not go with each other, or the clips are too small.
        """
        super().__init__()
        # Only where no convolution takes frames away and the last map is averaged over them.
        self.any_length = settings.padding and settings.pooling == "mean"
        self.frames = spec.frames
        self.pooling = settings.pooling
        self.norm = bins_norm(settings.input_norm, spec)
        self.convs = convolutions(
            settings,
            spec.channels,
            padding=settings.padding,
            batch_norm=settings.batch_norm,
            bias=settings.bias,
            slope=settings.slope,
        )
        frames, bins = spec.frames, spec.bins
        for conv in self.convs:
            if not settings.padding and min(frames, bins) < 3:
                raise UserError(
                    f"network.padding is false; it takes true where {len(self.convs)} convolutions "
                    f"follow on {spec.frames} frames of {spec.bins} bins"
                )
            frames, bins = conv.size(frames, bins)
        if settings.pooling == "mean":
            if settings.bands > bins:
                raise UserError(
                    f"network.bands is {settings.bands}; it takes 1 to {bins}, the bins of the "
                    "last map"
                )
            # Adaptive pooling's mean as a product, whose gradient is deterministic on any device:
            # (bins, bands).
            means = functional.adaptive_avg_pool1d(torch.eye(bins), settings.bands)
            self.register_buffer("means", means, persistent=False)
        pixels = settings.bands if settings.pooling == "mean" else frames * bins
        widths = [settings.channels[-1] * pixels, *settings.decoder]
        decoder: list[nn.Module] = []
        for here, after in pairwise(widths):
            decoder += [
                nn.Dropout(settings.dropout),
                nn.Linear(here, after),
                nn.LeakyReLU(settings.slope),
            ]
        self.decoder = nn.Sequential(*decoder or [nn.Dropout(settings.dropout)])
        self.classify = nn.Linear(widths[-1], labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the last layer classifies: (batch, width).

        Raises:
            ValueError: if clips have another length than the one that the settings allow.
        """
        if not self.any_length:
            if x.shape[2] != self.frames or (frames is not None and (frames != self.frames).any()):
                raise ValueError(f"the network takes clips of {self.frames} frames only")
            frames = None
        h = normalize_bins(self.norm, x, frames)
        for conv in self.convs:
            h, frames = conv(h, frames)  # (batch, its channels, fewer frames, fewer bins)
        if self.pooling == "mean":
            h = mean_over_frames(h, frame_mask(frames, h.shape[2]))  # (batch, channels, bins)
            h = h @ self.means  # (batch, channels, bands)
        return self.decoder(h.flatten(1))  # (batch, last of decoder)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.embed(x, frames))  # (batch, labels)
