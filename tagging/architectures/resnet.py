"""A residual network over the clip as an image of seconds x dimensions.

He, Zhang, Ren, Sun (2015), "Deep residual learning for image recognition", arXiv 1512.03385. Basic
blocks of two 3x3 convolutions whose shortcuts are identities without parameters (the paper's
option A: where a block halves the map and doubles the channels, the shortcut skips every other
column and the new channels are zero). Only dimensions are halved, never seconds.
"""

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.padding import MaskedBatchNorm, frame_mask, mean_over_frames
from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    channels: Int = Field(
        description="a whole number of channels of the first stage, 1 or more; "
        "each stage has twice those of the one before",
        ge=1,
    )
    stages: Int = Field(description="a whole number of stages from 1 to 5", ge=1, le=5)
    blocks: Int = Field(description="a whole number of blocks a stage, 1 or more", ge=1)
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)


class Block(nn.Module):
    """Two 3x3 convolutions, and what came in added to what comes out."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.new_channels = channels_out - channels_in
        self.stride = 2 if self.new_channels else 1
        self.conv_1 = nn.Conv2d(
            channels_in, channels_out, 3, stride=(1, self.stride), padding=1, bias=False
        )
        self.norm_1 = MaskedBatchNorm(channels_out)
        self.conv_2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm_2 = MaskedBatchNorm(channels_out)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, seconds, dimensions) to as many, or twice and half of them."""
        h = self.norm_1(self.conv_1(x), mask).relu()
        h = self.norm_2(self.conv_2(h), mask)
        shortcut = functional.pad(x[..., :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return (h + shortcut).relu()


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(128)
        self.stem = nn.Conv2d(
            1, settings.channels, (3, 7), stride=(1, 4), padding=(1, 3), bias=False
        )
        self.stem_norm = MaskedBatchNorm(settings.channels)
        blocks = []
        channels = settings.channels
        for stage in range(settings.stages):
            for _ in range(settings.blocks):
                blocks.append(Block(channels, settings.channels * 2**stage))
                channels = settings.channels * 2**stage
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(channels, labels)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        mask = frame_mask(frames, x.shape[1])  # (batch, seconds)
        h = self.norm(x.transpose(1, 2), mask)  # (batch, 128, seconds)
        h = h.transpose(1, 2).unsqueeze(1)  # (batch, 1, seconds, 128)
        h = self.stem_norm(self.stem(h), mask).relu()  # (batch, channels, seconds, 32)
        for block in self.blocks:
            h = block(h, mask)
        # Of the last of s stages: (batch, channels * 2^(s-1), seconds, 32 / 2^(s-1)).
        h = mean_over_frames(h, mask).mean(2)  # (batch, channels * 2^(s-1))
        return self.classify(self.dropout(h))  # (batch, labels)
