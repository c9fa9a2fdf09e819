"""Convolutions over clips as images, float32 (batch, channels, frames, bins), and their settings.

`frames` is the number of frames of each clip, int64 (batch,), or None if no clip is padded.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Int, Section
from tagging.layers.padding import (
    MaskedBatchNorm,
    downsampled_lengths,
    frame_mask,
    mask_padding,
)

PositiveInt = Annotated[Int, Field(ge=1)]
Pair = tuple[PositiveInt, PositiveInt]  # frames, bins


class InputNormSettings(Section):
    """Settings of networks that can normalize their input."""

    input_norm: bool = Field(True, strict=True)  # batch normalization of each bin of the input


class ConvSettings(InputNormSettings):
    """Settings of networks with a sequence of 3 x 3 convolutions."""

    channels: list[PositiveInt] = Field(min_length=1)  # of each convolution
    # [frames, bins] for each convolution; an empty list means [1, 1] for all.
    strides: list[Pair] = Field([])
    pools: list[Pair] = Field([])  # max pooling


class Conv(nn.Module):
    """3 x 3 convolution, batch normalization, ReLU (leaky if `slope` > 0) and max pooling."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: Pair,
        pool: Pair,
        padding: bool = True,
        batch_norm: bool = True,
        bias: bool = False,
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, int(padding), bias=bias)
        self.norm = MaskedBatchNorm(channels_out) if batch_norm else None
        self.slope = slope
        self.stride, self.pool = stride, pool
        self.padding = int(padding)

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, channels, frames, bins), and the number of frames of each clip.

        Frames and bins are divided by stride and pool, rounded up. The padding is zero in `x` and
        in the result.
        """
        h = self.conv(x)
        frames = downsampled_lengths(frames, self.stride[0])
        mask = frame_mask(frames, h.shape[2])
        h = mask_padding(h, frames) if self.norm is None else self.norm(h, mask)
        h = functional.leaky_relu(h, self.slope)
        if self.pool != (1, 1):
            # The padding's zeros are above the negative values of a leaky ReLU.
            h = mask_padding(h, frames, -torch.inf)
            h = functional.max_pool2d(h, self.pool, ceil_mode=True)
            frames = downsampled_lengths(frames, self.pool[0])
            h = mask_padding(h, frames)
        return h, frames

    def output_size(self, frames: int, bins: int) -> tuple[int, int]:
        """Return the frames and bins of the output for an input of this size."""
        frames, bins = (
            -(-(size - 2 + 2 * self.padding) // (stride * pool))
            for size, stride, pool in zip((frames, bins), self.stride, self.pool, strict=True)
        )
        return frames, bins


def build_convs(
    settings: ConvSettings,
    channels_in: int,
    padding: bool = True,
    batch_norm: bool = True,
    bias: bool = False,
    slope: float = 0.0,
) -> list[Conv]:
    """Return the `Conv` layers of the settings.

    Args:
        settings: of the network.
        channels_in: the channels of the input.
        padding: as the following, for `Conv`.

    Raises:
        UserError: if `strides` or `pools` differ in length from `channels`.
    """
    number = len(settings.channels)
    lists = {"strides": settings.strides, "pools": settings.pools}
    for name, pairs in lists.items():
        if len(pairs) not in (0, number):
            raise UserError(
                f"network.{name} must have one [frames, bins] for each of the {number} "
                f"convolutions, got {[list(pair) for pair in pairs]}"
            )
    strides, pools = (pairs or [(1, 1)] * number for pairs in lists.values())
    inputs = [channels_in, *settings.channels[:-1]]
    return [
        Conv(*sizes, padding, batch_norm, bias, slope)
        for sizes in zip(inputs, settings.channels, strides, pools, strict=True)
    ]


def round_channels(channels: float) -> int:
    """Return the multiple of 8 nearest to `channels`, at least 8 and at least 0.9 of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
