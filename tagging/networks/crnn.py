"""3 x 3 convolutions whose features, frame by frame, go into an LSTM.

Choi, Fazekas, Sandler, Cho (2016), "Convolutional recurrent neural networks for music
classification", arXiv 1609.04243: convolutions extract local features, the recurrent layers (LSTM
here) sum them up over time. The paper's convolutions, on spectrograms, are followed by max pooling.
On embeddings they rather stride: dimensions are no frequencies, and which of them answers must not
get lost. Without strides and pools over frames the LSTM has every one of them.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.maps import normalize_bins, shorter
from tagging.data.padding import MaskedBatchNorm, frame_mask, last_frame
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
    hidden: Positive = Field(description="a whole number of cells a layer, 1 or more")
    layers: Positive = Field(description="a whole number of LSTM layers, 1 or more")
    dropout: Float = Field(
        description="a number from 0 to below 1, before and between LSTM layers and before the "
        "last",
        ge=0,
        lt=1,
    )
    input_norm: bool = Field(
        True, description="true or false (batch normalization of each input bin)", strict=True
    )


class Conv(nn.Module):
    """3 x 3 convolution, batch normalization, ReLU, max pooling."""

    def __init__(self, channels_in: int, channels_out: int, stride: Pair, pool: Pair) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm = MaskedBatchNorm(channels_out)
        self.pool = pool

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, channels, fewer frames, fewer bins), and how many frames are real.

        Both are divided by stride and pool, rounded up; the map is zero after a clip's end, as `x`.
        """
        h = self.conv(x)
        frames = shorter(frames, self.conv.stride[0])
        h = self.norm(h, frame_mask(frames, h.shape[2])).relu()
        if self.pool != (1, 1):
            # The padding is zero and nothing is below it: it never is the highest value.
            h = functional.max_pool2d(h, self.pool, ceil_mode=True)
        return h, shorter(frames, self.pool[0])


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if strides or pools are not as many as channels.
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
        self.norm = MaskedBatchNorm(spec.channels * spec.bins) if settings.input_norm else None
        channels, bins = spec.channels, spec.bins
        convs = []
        for of_layer, stride, pool in zip(settings.channels, strides, pools, strict=True):
            convs.append(Conv(channels, of_layer, stride, pool))
            channels = of_layer
            for factor in (stride[1], pool[1]):
                bins = -(-bins // factor)
        self.convs = nn.ModuleList(convs)
        self.lstm = nn.LSTM(
            channels * bins,
            settings.hidden,
            settings.layers,
            batch_first=True,
            # PyTorch's lies between layers, and it warns where there is no between.
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(settings.hidden, labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the LSTM's last state: (batch, hidden)."""
        h = normalize_bins(self.norm, x, frames)
        for conv in self.convs:
            h, frames = conv(h, frames)  # (batch, its channels, fewer frames, fewer bins)
        h = h.transpose(1, 2).flatten(2)  # (batch, fewer frames, channels * bins)
        h, _ = self.lstm(self.dropout(h))  # (batch, fewer frames, hidden)
        # It reads forward only: no state at or before a clip's end has seen the padding.
        return last_frame(h, frames)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.dropout(self.embed(x, frames)))  # (batch, labels)
