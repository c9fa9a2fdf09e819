"""A deep LSTM over the frames; its last state, or the last states of all layers, are classified.

Graves, Mohamed, Hinton (2013), "Speech recognition with deep recurrent neural networks", arXiv
1303.5778: layers of long short-term memory, each reading what the one below says at every step.
"""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from tagging.data.maps import InputNorm, Positive, bins_norm
from tagging.data.padding import frame_mask
from tagging.data.spec import InputSpec
from tagging.parameters import Float


class Settings(InputNorm):
    """The network's settings (`models.<name>.network`)."""

    hidden: Positive = Field(description="a whole number of cells a layer, 1 or more")
    layers: Positive = Field(description="a whole number of LSTM layers, 1 or more")
    states: Literal["last", "all"] = Field(
        "last", description="last (the last layer's state is decoded) or all (every layer's)"
    )
    states_norm: bool = Field(
        False,
        description="true or false (batch normalization of the states, each cell's alike in all "
        "layers)",
        strict=True,
    )
    decoder: list[Positive] = Field(
        [], description="a list of the widths of linear layers before the last, 1 or more each"
    )
    dropout: Float = Field(
        description="a number from 0 to below 1, between LSTM layers and before each linear layer "
        "but one after a decoder",
        ge=0,
        lt=1,
    )


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        width = spec.channels * spec.bins
        self.norm = bins_norm(settings.input_norm, spec)
        self.lstm = nn.LSTM(
            width,
            settings.hidden,
            settings.layers,
            batch_first=True,
            # PyTorch's lies between layers, and it warns where there is no between.
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.decoded = settings.layers if settings.states == "all" else 1
        self.states_norm = nn.BatchNorm1d(settings.hidden) if settings.states_norm else None
        widths = [self.decoded * settings.hidden, *settings.decoder]
        decoder: list[nn.Module] = []
        for here, after in pairwise(widths):
            decoder += [nn.Dropout(settings.dropout), nn.Linear(here, after), nn.ReLU()]
        self.decoder = nn.Sequential(*decoder or [nn.Dropout(settings.dropout)])
        self.classify = nn.Linear(widths[-1], labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the last layer classifies: (batch, width)."""
        h = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
        if self.norm is not None:
            h = self.norm(h, frame_mask(frames, x.shape[2]))
        h = h.transpose(1, 2)  # (batch, frames, channels * bins)
        if frames is not None:
            # Every layer's state is then that at a clip's own end.
            h = nn.utils.rnn.pack_padded_sequence(
                h, frames.cpu(), batch_first=True, enforce_sorted=False
            )
        _, (states, _) = self.lstm(h)  # (layers, batch, hidden)
        states = states[-self.decoded :].permute(1, 2, 0)  # (batch, hidden, layers or 1)
        if self.states_norm is not None:
            states = self.states_norm(states)
        states = states.transpose(1, 2).flatten(1)  # (batch, layers or 1 * hidden)
        return self.decoder(states)  # (batch, last of decoder)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.embed(x, frames))  # (batch, labels)
