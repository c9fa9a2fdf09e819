"""3x3 convolutions over the clip as an image of seconds x dimensions.

Hershey et al. (2017), "CNN architectures for large-scale audio classification", arXiv 1609.09430,
after Simonyan, Zisserman (2014), "Very deep convolutional networks for large-scale image
recognition", arXiv 1409.1556. Two convolutions and a linear layer; or, deeper, five convolutions
with LeakyReLU and a decoder whose layers narrow. Both take any number of seconds: nothing strides
over time, and the last map is averaged over it.
"""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.padding import MaskedBatchNorm, frame_mask, mean_over_frames
from tagging.parameters import Float, Int, Section

BANDS = 4  # along the dimensions, after adaptive pooling


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    variant: Literal["basic", "deep"] = Field(
        description="basic (two convolutions, one linear layer) or deep (five and three)"
    )
    channels: Int = Field(
        description="a whole number of channels of the first convolution, 1 or more", ge=1
    )
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)


class Conv(nn.Module):
    """3x3 convolution, batch normalization, ReLU (leaky with a slope above 0)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, slope: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, 3, stride=(1, stride), padding=1, bias=False
        )
        self.norm = MaskedBatchNorm(channels_out)
        self.slope = slope

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, seconds, dimensions) to dimensions / stride."""
        return functional.leaky_relu(self.norm(self.conv(x), mask), self.slope)


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        c = settings.channels
        deep = settings.variant == "deep"
        channels = [1, c, 2 * c, 4 * c, 4 * c, 8 * c] if deep else [1, c, 2 * c]
        strides = [2, 2, 2, 2, 1] if deep else [2, 4]
        slope = 0.01 if deep else 0.0
        self.norm = MaskedBatchNorm(128)
        self.convs = nn.ModuleList(
            Conv(*of_layer, slope)
            for of_layer in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        pooled = channels[-1] * BANDS
        if deep:
            widths = [pooled, pooled // 4, pooled // 16]
            decoder: list[nn.Module] = []
            for here, after in pairwise(widths):
                decoder += [
                    nn.Dropout(settings.dropout),
                    nn.Linear(here, after),
                    nn.LeakyReLU(slope),
                ]
            self.decode = nn.Sequential(*decoder, nn.Linear(widths[-1], labels))
        else:
            self.decode = nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(pooled, labels))

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        mask = frame_mask(frames, x.shape[1])  # (batch, seconds)
        h = self.norm(x.transpose(1, 2), mask)  # (batch, 128, seconds)
        h = h.transpose(1, 2).unsqueeze(1)  # (batch, 1, seconds, 128)
        for conv in self.convs:
            h = conv(h, mask)
        # basic: (batch, 2 * channels, seconds, 16); deep: (batch, 8 * channels, seconds, 8)
        h = mean_over_frames(h, mask)  # (batch, 2 or 8 * channels, 16 or 8)
        h = h.unflatten(2, (BANDS, -1)).mean(3)  # (batch, 2 or 8 * channels, 4)
        return self.decode(h.flatten(1))  # (batch, labels)
