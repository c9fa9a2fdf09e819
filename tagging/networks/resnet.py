"""A residual network over the clip as an image of frames x bins.

He, Zhang, Ren, Sun (2015), "Deep residual learning for image recognition", arXiv 1512.03385. Basic
blocks of two 3 x 3 convolutions with, where a block changes the map's size, the shortcuts of the
paper's option A (identities: what a stride skips is left out, new channels are zero) or B
(projections by a 1 x 1 convolution).

The stem may have several convolutions side by side. Tall ones and long ones, each answering with
its highest value over the bins, are the front end of Pons et al. (2018), "End-to-end learning for
music audio tagging at scale", arXiv 1711.02520; the blocks after it convolve over time alone.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.maps import (
    InputNorm,
    Pair,
    Positive,
    bins_norm,
    filled,
    normalize_bins,
    shorter,
)
from tagging.data.padding import MaskedBatchNorm, frame_mask, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Float


class Settings(InputNorm):
    """The network's settings (`models.<name>.network`)."""

    stem: list[tuple[Positive, Positive, Positive]] = Field(
        description="a list of [channels, frames, bins] of the kernels of the first convolutions, "
        "side by side; frames and bins are odd (not bins with stem_maximum)",
        min_length=1,
    )
    stem_maximum: bool = Field(
        False,
        description="true (of each of the first convolutions the highest value over the bins "
        "remains) or false",
        strict=True,
    )
    stem_stride: Pair = Field(
        (1, 1), description="the first convolutions' stride, [frames, bins] of 1 or more"
    )
    stem_pool: Pair = Field(
        (1, 1),
        description="the stride of the max pooling after them, [frames, bins] of 1 or more; its "
        "kernel is twice that less one: 3 x 3 for [2, 2]",
    )
    channels: list[Positive] = Field(
        description="a list of the channels of each stage, whole numbers of 1 or more", min_length=1
    )
    blocks: Positive = Field(2, description="a whole number of blocks a stage, 1 or more")
    stride: Pair = Field(
        (2, 2),
        description="the stride with which each stage but the first begins, [frames, bins] of 1 "
        "or more",
    )
    shortcut: Literal["identity", "projection"] = Field(
        "projection",
        description="identity (only with channels that do not become fewer) or projection, where "
        "a block changes the map's size",
    )
    dropout: Float = Field(
        description="a number from 0 to below 1, before the last layer", ge=0, lt=1
    )


class Stem(nn.Module):
    """Convolutions side by side, batch normalization, ReLU, max pooling."""

    def __init__(self, channels_in: int, settings: Settings) -> None:
        super().__init__()
        self.maximum, self.stride = settings.stem_maximum, settings.stem_stride
        self.convs = nn.ModuleList(
            nn.Conv2d(
                channels_in,
                channels,
                (along, across),
                self.stride,
                # A maximum takes the bins that there are: zeros before and after in time alone.
                padding=(along // 2, 0 if self.maximum else across // 2),
                bias=False,
            )
            for channels, along, across in settings.stem
        )
        self.norm = MaskedBatchNorm(sum(conv.out_channels for conv in self.convs))
        self.pool = settings.stem_pool

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, all channels, fewer frames, fewer bins), and its real frames."""
        maps = [conv(x) for conv in self.convs]
        if self.maximum:
            maps = [h.amax(3, keepdim=True) for h in maps]
        h = torch.cat(maps, 1)
        frames = shorter(frames, self.stride[0])
        h = self.norm(h, frame_mask(frames, h.shape[2])).relu()
        if self.pool != (1, 1):
            kernel = tuple(2 * stride - 1 for stride in self.pool)
            padding = tuple(stride - 1 for stride in self.pool)
            # The padding is zero and nothing is below it: it never is the highest value. But the
            # position after a clip's end may still see its last frame.
            h = functional.max_pool2d(h, kernel, self.pool, padding)
            frames = shorter(frames, self.pool[0])
            h = filled(h, frames)
        return h, frames


class Block(nn.Module):
    """Two convolutions, and what came in added to what comes out."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: Pair, stride: Pair, projection: bool
    ) -> None:
        super().__init__()
        self.new_channels, self.stride = channels_out - channels_in, stride
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_1 = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
        self.norm_1 = MaskedBatchNorm(channels_out)
        self.conv_2 = nn.Conv2d(channels_out, channels_out, kernel, 1, padding, bias=False)
        self.norm_2 = MaskedBatchNorm(channels_out)
        self.project = None
        if projection and (self.new_channels or stride != (1, 1)):
            self.project = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.project_norm = MaskedBatchNorm(channels_out)

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, channels, frames, bins), divided by the stride, and its frames."""
        frames = shorter(frames, self.stride[0])
        h = self.conv_1(x)
        mask = frame_mask(frames, h.shape[2])
        h = self.norm_1(h, mask).relu()
        h = self.norm_2(self.conv_2(h), mask)
        if self.project is None:
            skipped = x[:, :, :: self.stride[0], :: self.stride[1]]
            shortcut = functional.pad(skipped, (0, 0, 0, 0, 0, self.new_channels))
        else:
            shortcut = self.project_norm(self.project(x), mask)
        return (h + shortcut).relu(), frames


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if the stem's kernels do not fit the clips, or a shortcut the channels.
        """
        super().__init__()
        for kernel in settings.stem:
            _, along, across = kernel
            maximum = settings.stem_maximum
            if along % 2 == 0 or (across > spec.bins if maximum else across % 2 == 0):
                takes = f"1 to {spec.bins}" if maximum else "an odd number"
                raise UserError(
                    f"network.stem has {list(kernel)}; it takes [channels, frames, bins] with an "
                    f"odd number of frames and {takes} of bins"
                )
        channels = sum(of_kernel for of_kernel, _, _ in settings.stem)
        projection = settings.shortcut == "projection"
        if not projection and [channels, *settings.channels] != sorted(
            [channels, *settings.channels]
        ):
            raise UserError(
                f"network.shortcut is 'identity'; it takes projection where channels become fewer, "
                f"as in {channels} of the stem and then {settings.channels}"
            )
        self.norm = bins_norm(settings.input_norm, spec)
        self.stem = Stem(spec.channels, settings)
        kernel = (3, 1 if settings.stem_maximum else 3)
        blocks = []
        for stage, of_stage in enumerate(settings.channels):
            for place in range(settings.blocks):
                stride = settings.stride if stage > 0 and place == 0 else (1, 1)
                blocks.append(Block(channels, of_stage, kernel, stride, projection))
                channels = of_stage
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(channels, labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last map's mean: (batch, channels of the last stage)."""
        h = normalize_bins(self.norm, x, frames)
        h, frames = self.stem(h, frames)  # (batch, all of stem, fewer frames, fewer bins)
        for block in self.blocks:
            h, frames = block(h, frames)  # (batch, its stage's channels, fewer still)
        return mean_over_frames(h, frame_mask(frames, h.shape[2])).mean(2)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.dropout(self.embed(x, frames)))  # (batch, labels)
