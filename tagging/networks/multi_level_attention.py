"""Fully connected layers over each frame; the last ones are each tagged and pooled by attention.

Yu, Barsim, Kong, Yang (2018), "Multi-level attention model for weakly supervised audio
classification", arXiv 1803.02353. Attention pooling not of the last layer alone but of several,
since some labels are told by earlier ones; a linear layer weighs what the levels say. The paper's
best (2-A-1-A) has three layers, the last two of them pooled. A level hands on log odds here, not
the paper's probabilities, of which the linear layer learns much more slowly. Dropout takes whole
channels, as in attention.py.
"""

from itertools import pairwise

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.padding import Rows
from tagging.data.spec import InputSpec
from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    hidden: Int = Field(description="a whole number of channels, 1 or more", ge=1)
    layers: Int = Field(description="a whole number of fully connected layers, 1 or more", ge=1)
    levels: Int = Field(
        description="a whole number of layers, the last ones, that are pooled, from 1 to layers",
        ge=1,
    )
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)


class Layer(nn.Module):
    """A fully connected layer, the same for every frame."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(channels_in, channels_out, bias=False)  # normalized away
        self.norm = nn.BatchNorm1d(channels_out)
        self.dropout = dropout

    def forward(self, h: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Map (real frames, channels) to as many frames."""
        return rows.dropout(self.norm(self.linear(h)).relu_(), self.dropout, self.training)


class Attention(nn.Module):
    """Tags each frame, and takes the mean of its probabilities with weights from the clip."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.attend = nn.Linear(channels, labels, bias=False)  # softmax takes a bias away
        self.classify = nn.Linear(channels, labels)

    def forward(self, h: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Map (real frames, channels) to the mean's log odds, (batch, labels)."""
        # Logarithms of weights, but for a term that all of a clip's share: it cancels out below.
        weights = rows.give(self.attend(h), -torch.inf)  # (batch, frames, labels)
        decisions = rows.give(self.classify(h))
        # In the log domain, so that the log odds are exact near probabilities of 0 and 1.
        log_p = weights + functional.logsigmoid(decisions)
        log_not_p = log_p - decisions
        return log_p.logsumexp(1) - log_not_p.logsumexp(1)


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        if settings.levels > settings.layers:
            raise UserError(
                f"network.levels is {settings.levels}; it takes at most "
                f"network.layers, {settings.layers}"
            )
        channels = [spec.channels * spec.bins] + [settings.hidden] * settings.layers
        self.norm = nn.BatchNorm1d(channels[0])
        self.layers = nn.ModuleList(
            Layer(here, after, settings.dropout) for here, after in pairwise(channels)
        )
        self.levels = nn.ModuleList(
            Attention(settings.hidden, labels) for _ in range(settings.levels)
        )
        self.classify = nn.Linear(settings.levels * labels, labels)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.embed(x, frames))

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the levels' log odds, float32 (batch, levels * labels)."""
        rows = Rows(frames, x.shape[2])
        h = self.norm(rows.take(x.transpose(1, 2).flatten(2)))  # (real frames, channels * bins)
        outputs = []
        for layer in self.layers:
            h = layer(h, rows)  # (real frames, hidden)
            outputs.append(h)
        pooled = [
            attention(output, rows)  # (batch, labels)
            for attention, output in zip(self.levels, outputs[-len(self.levels) :], strict=True)
        ]
        return torch.cat(pooled, 1)
