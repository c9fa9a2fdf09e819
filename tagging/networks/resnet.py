"""A residual network over the clip as an image of frames x bins.

He, Zhang, Ren, Sun (2015), "Deep residual learning for image recognition", arXiv 1512.03385. Basic
blocks of two 3 x 3 convolutions. Where a block changes the size of the map, the shortcut is the
paper's option A (identity: strided, new channels are zero) or B (projection by a 1 x 1
convolution).

The stem may have several parallel convolutions. Tall and long kernels, each followed by the maximum
over the bins, are the frontend of Pons et al. (2018), "End-to-end learning for music audio tagging
at scale", arXiv 1711.02520; the blocks after it convolve over time only.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Float
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.convolutions import InputNormSettings, Pair, PositiveInt
from tagging.layers.padding import (
    MaskedBatchNorm,
    downsampled_lengths,
    frame_mask,
    mask_padding,
    mean_over_frames,
    normalize_bins,
)


class Settings(InputNormSettings):
    """The network's settings (`models.<name>.network`)."""

    # [channels, frames, bins] of each parallel convolution; frames and, without stem_maximum, bins
    # are odd.
    stem: list[tuple[PositiveInt, PositiveInt, PositiveInt]] = Field(min_length=1)
    stem_maximum: bool = Field(False, strict=True)  # take the maximum over the bins
    stem_stride: Pair = (1, 1)  # [frames, bins] of the parallel convolutions
    stem_pool: Pair = (1, 1)  # stride of the max pooling after them; kernel 2 * stride - 1
    channels: list[PositiveInt] = Field(min_length=1)  # of each stage
    blocks: PositiveInt = 2  # in each stage
    stride: Pair = (2, 2)  # of the first block of each stage but the first
    # Of blocks that change the size; identity needs channels that never decrease.
    shortcut: Literal["identity", "projection"] = "projection"
    dropout: Float = Field(ge=0, lt=1)  # before the classifier


class Stem(nn.Module):
    """Parallel convolutions, batch normalization, ReLU and max pooling."""

    def __init__(self, channels_in: int, settings: Settings) -> None:
        super().__init__()
        self.maximum, self.stride = settings.stem_maximum, settings.stem_stride
        self.convs = nn.ModuleList(
            nn.Conv2d(
                channels_in,
                channels,
                (frames, bins),
                self.stride,
                # Padding must not enter a maximum over bins.
                padding=(frames // 2, 0 if self.maximum else bins // 2),
                bias=False,
            )
            for channels, frames, bins in settings.stem
        )
        self.norm = MaskedBatchNorm(sum(channels for channels, _, _ in settings.stem))
        self.pool = settings.stem_pool

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, channels, frames, bins), and the number of frames of each clip.

        The channels of all kernels are concatenated; stride and pool divide frames and bins.
        """
        maps = [conv(x) for conv in self.convs]
        if self.maximum:
            maps = [h.amax(3, keepdim=True) for h in maps]
        h = torch.cat(maps, 1)
        frames = downsampled_lengths(frames, self.stride[0])
        h = self.norm(h, frame_mask(frames, h.shape[2])).relu()
        if self.pool != (1, 1):
            frame_stride, bin_stride = self.pool
            kernel = (2 * frame_stride - 1, 2 * bin_stride - 1)
            padding = (frame_stride - 1, bin_stride - 1)
            # The padding is zero, and so never above a ReLU's output. But the first position after
            # the end of a clip may still see the clip's last frame.
            h = functional.max_pool2d(h, kernel, self.pool, padding)
            frames = downsampled_lengths(frames, frame_stride)
            h = mask_padding(h, frames)
        return h, frames


class Block(nn.Module):
    """Two convolutions whose output is added to the input."""

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
        """Return the map (batch, channels, frames, bins) after the stride, and frames of clips."""
        frames = downsampled_lengths(frames, self.stride[0])
        h = self.conv_1(x)
        mask = frame_mask(frames, h.shape[2])
        h = self.norm_1(h, mask).relu()
        h = self.norm_2(self.conv_2(h), mask)
        if self.project is None:
            strided = x[:, :, :: self.stride[0], :: self.stride[1]]
            shortcut = functional.pad(strided, (0, 0, 0, 0, 0, self.new_channels))
        else:
            shortcut = self.project_norm(self.project(x), mask)
        return (h + shortcut).relu(), frames


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if the kernels of the stem do not fit the clips, or identity shortcuts the
                channels.
        """
        super().__init__()
        for kernel in settings.stem:
            _, frames, bins = kernel
            maximum = settings.stem_maximum
            if frames % 2 == 0 or (bins > spec.bins if maximum else bins % 2 == 0):
                allowed = f"1 to {spec.bins}" if maximum else "an odd number of"
                raise UserError(
                    f"network.stem must have kernels with an odd number of frames and {allowed} "
                    f"bins, got [channels, frames, bins] {list(kernel)}"
                )
        channels = sum(kernel_channels for kernel_channels, _, _ in settings.stem)
        projection = settings.shortcut == "projection"
        all_channels = [channels, *settings.channels]
        if not projection and all_channels != sorted(all_channels):
            raise UserError(
                f"network.shortcut must be projection where channels decrease (stem: {channels}, "
                f"stages: {settings.channels}), got 'identity'"
            )
        self.norm = MaskedBatchNorm(spec.channels * spec.bins) if settings.input_norm else None
        self.stem = Stem(spec.channels, settings)
        kernel_size = (3, 1 if settings.stem_maximum else 3)
        blocks = []
        for stage, stage_channels in enumerate(settings.channels):
            for position in range(settings.blocks):
                stride = settings.stride if stage > 0 and position == 0 else (1, 1)
                blocks.append(Block(channels, stage_channels, kernel_size, stride, projection))
                channels = stage_channels
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(channels, labels)

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean of the last map, (batch, channels of the last stage)."""
        h = normalize_bins(self.norm, x, frames)
        h, frames = self.stem(h, frames)  # (batch, channels of all kernels, frames, bins)
        for block in self.blocks:
            h, frames = block(h, frames)  # (batch, channels of the stage, frames, bins)
        return mean_over_frames(h, frame_mask(frames, h.shape[2])).mean(2)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.dropout(self.forward_features(x, frames)))
