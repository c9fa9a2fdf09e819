"""3 x 3 convolutions over the clip as an image of frames x bins, then linear layers.

Hershey et al. (2017), "CNN architectures for large-scale audio classification", arXiv 1609.09430,
after Simonyan, Zisserman (2014), "Very deep convolutional networks for large-scale image
recognition", arXiv 1409.1556. Strides or max pooling, batch normalization, the slope of ReLU and
the linear layers are settings. The last map is averaged over its frames and over bands of its bins,
or flattened as it is. `pools` round up: no frame is lost, and the shortest clip keeps one.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.maps import filled, normalize_bins, shorter
from tagging.data.padding import MaskedBatchNorm, frame_mask, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Float, Int, Section

Positive = Annotated[Int, Field(ge=1)]
Pair = tuple[Positive, Positive]  # along frames, along bins


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    channels: list[Positive] = Field(
        description="a list of the channels of each convolution, whole numbers of 1 or more",
        min_length=1,
    )
    strides: list[Pair] = Field(
        [],
        description="a list of each convolution's [frames, bins] from one position to the next, "
        "whole numbers of 1 or more; [] is [1, 1] for all",
    )
    pools: list[Pair] = Field(
        [],
        description="a list of the [frames, bins] of which each convolution's highest value "
        "remains, whole numbers of 1 or more; [] is [1, 1] for all",
    )
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
    input_norm: bool = Field(
        True, description="true or false (batch normalization of each input bin)", strict=True
    )


class Conv(nn.Module):
    """3 x 3 convolution, batch normalization, ReLU (leaky with a slope above 0), max pooling."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: Pair, pool: Pair, settings: Settings
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, 3, stride, int(settings.padding), bias=settings.bias
        )
        self.norm = MaskedBatchNorm(channels_out) if settings.batch_norm else None
        self.slope = settings.slope
        self.pool = pool

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, channels, fewer frames, fewer bins), and how many frames are real.

        Both are divided by stride and pool, rounded up; the map is zero after a clip's end, as `x`.
        """
        h = self.conv(x)
        frames = shorter(frames, self.conv.stride[0])
        mask = frame_mask(frames, h.shape[2])
        h = filled(h, frames) if self.norm is None else self.norm(h, mask)
        h = functional.leaky_relu(h, self.slope)
        if self.pool != (1, 1):
            # Zeros of the padding are above what a leaky ReLU may give.
            h = filled(h, frames, -torch.inf)
            h = functional.max_pool2d(h, self.pool, ceil_mode=True)
            frames = shorter(frames, self.pool[0])
            h = filled(h, frames)
        return h, frames


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if lists do not go with each other, or the clips are too small.
        """
        super().__init__()
        number = len(settings.channels)
        of_settings = {"strides": settings.strides, "pools": settings.pools}
        for name, pairs in of_settings.items():
            if len(pairs) not in (0, number):
                raise UserError(
                    f"network.{name} is {[list(pair) for pair in pairs]}; it takes a list of "
                    f"{number} [frames, bins], one a convolution of network.channels"
                )
        strides, pools = (pairs or [(1, 1)] * number for pairs in of_settings.values())
        # Only where no convolution takes frames away and the last map is averaged over them.
        self.any_length = settings.padding and settings.pooling == "mean"
        self.frames = spec.frames
        self.pooling = settings.pooling
        self.norm = MaskedBatchNorm(spec.channels * spec.bins) if settings.input_norm else None
        self.convs = nn.ModuleList(
            Conv(*of_layer, settings)
            for of_layer in zip(
                [spec.channels, *settings.channels[:-1]],
                settings.channels,
                strides,
                pools,
                strict=True,
            )
        )
        size = [spec.frames, spec.bins]
        for stride, pool in zip(strides, pools, strict=True):
            if not settings.padding and min(size) < 3:
                raise UserError(
                    f"network.padding is false; it takes true where {number} convolutions follow "
                    f"on {spec.frames} frames of {spec.bins} bins"
                )
            lost = 0 if settings.padding else 2
            for axis in (0, 1):
                size[axis] = -(-(size[axis] - lost) // stride[axis])
                size[axis] = -(-size[axis] // pool[axis])
        bins = size[1]
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
        pixels = settings.bands if settings.pooling == "mean" else size[0] * size[1]
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
