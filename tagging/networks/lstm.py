"""A deep LSTM over the frames; the last state of the last layer, or of all layers, is classified.

Graves, Mohamed, Hinton (2013), "Speech recognition with deep recurrent neural networks", arXiv
1303.5778: each layer of long short-term memory reads the outputs of the layer below.
"""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from tagging.data.parameters import Float
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.convolutions import InputNormSettings, PositiveInt
from tagging.layers.padding import MaskedBatchNorm, frame_mask


class Settings(InputNormSettings):
    """The network's settings (`models.<name>.network`)."""

    hidden: PositiveInt  # cells of each layer
    layers: PositiveInt
    states: Literal["last", "all"] = "last"  # the layers whose last states are decoded
    states_norm: bool = Field(False, strict=True)  # batch normalization, shared by all layers
    decoder: list[PositiveInt] = Field([])  # widths of linear layers before the classifier
    # Between LSTM layers and before each linear layer, except the classifier after a decoder.
    dropout: Float = Field(ge=0, lt=1)


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        width = spec.channels * spec.bins
        self.norm = MaskedBatchNorm(width) if settings.input_norm else None
        self.lstm = nn.LSTM(
            width,
            settings.hidden,
            settings.layers,
            batch_first=True,
            # PyTorch drops out between layers only, and warns if there is one layer.
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.decoded = settings.layers if settings.states == "all" else 1
        self.states_norm = nn.BatchNorm1d(settings.hidden) if settings.states_norm else None
        widths = [self.decoded * settings.hidden, *settings.decoder]
        decoder: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            decoder += [nn.Dropout(settings.dropout), nn.Linear(width_in, width_out), nn.ReLU()]
        self.decoder = nn.Sequential(*decoder or [nn.Dropout(settings.dropout)])
        self.classify = nn.Linear(widths[-1], labels)

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the decoded states, (batch, width of the last decoder layer)."""
        h = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
        if self.norm is not None:
            h = self.norm(h, frame_mask(frames, x.shape[2]))
        sequence = h.transpose(1, 2)  # (batch, frames, channels * bins)
        if frames is None:
            _, (states, _) = self.lstm(sequence)  # (layers, batch, hidden)
        else:
            # On a packed sequence, the state of every layer is the one at the end of each clip.
            packed = nn.utils.rnn.pack_padded_sequence(
                sequence, frames.cpu(), batch_first=True, enforce_sorted=False
            )
            _, (states, _) = self.lstm(packed)
        states = states[-self.decoded :].permute(1, 2, 0)  # (batch, hidden, decoded layers)
        if self.states_norm is not None:
            states = self.states_norm(states)
        states = states.transpose(1, 2).flatten(1)  # (batch, decoded layers * hidden)
        return self.decoder(states)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.forward_features(x, frames))
