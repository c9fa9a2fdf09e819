"""Maps of convolutions over clips as images, float32 (batch, channels, frames, bins).

`frames` is each clip's number of real frames, int64 (batch,), or None where no clip is padded.
Settings and layers that several networks have are here as well.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.padding import MaskedBatchNorm, frame_mask
from tagging.data.spec import InputSpec
from tagging.parameters import Int, Section

Positive = Annotated[Int, Field(ge=1)]
Pair = tuple[Positive, Positive]  # along frames, along bins


class InputNorm(Section):
    """Settings of networks whose input is normalized, or not."""

    input_norm: bool = Field(
        True, description="true or false (batch normalization of each input bin)", strict=True
    )


class Convolutions(InputNorm):
    """Settings of networks with 3 x 3 convolutions one after the other."""

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


class Conv(nn.Module):
    """3 x 3 convolution, batch normalization, ReLU (leaky with a slope above 0), max pooling."""

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

    def size(self, frames: int, bins: int) -> tuple[int, int]:
        """Return the frames and bins of the map of one with so many."""
        size = []
        for axis, number in enumerate((frames, bins)):
            convolved = number - 2 + 2 * self.conv.padding[axis]
            size.append(-(-convolved // (self.conv.stride[axis] * self.pool[axis])))
        return size[0], size[1]


def convolutions(settings: Convolutions, channels: int, **of_all: float) -> nn.ModuleList:
    """Return each `Conv` of the settings, of maps of so many channels.

    Args:
        settings: the network's.
        channels: of the input.
        of_all: what `Conv` takes besides.

    Raises:
        UserError: if strides or pools are not as many as channels.
    """
    number = len(settings.channels)
    of_settings = {"strides": settings.strides, "pools": settings.pools}
    for name, pairs in of_settings.items():
        if len(pairs) not in (0, number):
            raise UserError(
                f"network.{name} is {[list(pair) for pair in pairs]}; it takes a list of "
                f"{number} [frames, bins], one a convolution of network.channels"
            )
    strides, pools = (pairs or [(1, 1)] * number for pairs in of_settings.values())
    before = [channels, *settings.channels[:-1]]
    return nn.ModuleList(
        Conv(*of_layer, **of_all)
        for of_layer in zip(before, settings.channels, strides, pools, strict=True)
    )


def shorter(frames: torch.Tensor | None, factor: int) -> torch.Tensor | None:
    """Return how many frames are real after a stride: one begun is one."""
    return None if frames is None else (frames + factor - 1) // factor


def filled(x: torch.Tensor, frames: torch.Tensor | None, value: float = 0.0) -> torch.Tensor:
    """Return a map that has `value` after each clip's end."""
    mask = frame_mask(frames, x.shape[2])
    return x if mask is None else x.masked_fill(~mask[:, None, :, None], value)


def bins_norm(wanted: bool, spec: InputSpec) -> MaskedBatchNorm | None:
    """Return what `normalize_bins` takes of an input, or None where it is not wanted."""
    return MaskedBatchNorm(spec.channels * spec.bins) if wanted else None


def normalize_bins(
    norm: nn.Module | None, x: torch.Tensor, frames: torch.Tensor | None
) -> torch.Tensor:
    """Return a map each of whose bins is normalized by itself; zero after each clip's end.

    Args:
        norm: a `MaskedBatchNorm` of channels * bins, or None for the map as it is.
        x: the map.
        frames: of its clips.
    """
    if norm is None:
        return filled(x, frames)
    by_bin = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
    by_bin = norm(by_bin, frame_mask(frames, x.shape[2]))
    return by_bin.unflatten(1, (x.shape[1], -1)).transpose(2, 3)
