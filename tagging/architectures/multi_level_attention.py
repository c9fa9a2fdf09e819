"""1x1 convolutions over each second; the last layers are each tagged and pooled by attention.

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

from tagging.padding import MaskedBatchNorm, frame_mask
from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    hidden: Int = Field(description="a whole number of channels, 1 or more", ge=1)
    layers: Int = Field(description="a whole number of 1x1 convolutions, 1 or more", ge=1)
    levels: Int = Field(
        description="a whole number of layers, the last ones, that are pooled, from 1 to layers",
        ge=1,
    )
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)


class Layer(nn.Module):
    """A fully connected layer, the same for every second."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 1, bias=False)
        self.norm = MaskedBatchNorm(channels_out)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, seconds) to as many seconds."""
        return self.dropout(self.norm(self.conv(x), mask).relu())


class Attention(nn.Module):
    """Tags each second, and takes the mean of its probabilities with weights from the clip."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.attend = nn.Conv1d(channels, labels, 1, bias=False)  # softmax takes a bias away
        self.classify = nn.Conv1d(channels, labels, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, seconds) to the mean's log odds, (batch, labels)."""
        # Time is not the last axis of what follows: half the time that it takes otherwise.
        weights = self.attend(x).transpose(1, 2)  # (batch, seconds, labels)
        if mask is not None:
            weights = weights.masked_fill(~mask.unsqueeze(2), -torch.inf)
        log_weights = weights.log_softmax(1)  # their exponentials sum to 1 in time
        decisions = self.classify(x).transpose(1, 2).contiguous()  # (batch, seconds, labels)
        # In the log domain, so that the log odds are exact near probabilities of 0 and 1.
        log_p = (log_weights + functional.logsigmoid(decisions)).logsumexp(1)
        log_not_p = (log_weights + functional.logsigmoid(-decisions)).logsumexp(1)
        return log_p - log_not_p


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        if settings.levels > settings.layers:
            raise ValueError(
                f"network.levels is {settings.levels}; it takes at most "
                f"network.layers, {settings.layers}"
            )
        self.norm = MaskedBatchNorm(128)
        channels = [128] + [settings.hidden] * settings.layers
        self.layers = nn.ModuleList(
            Layer(here, after, settings.dropout) for here, after in pairwise(channels)
        )
        self.levels = nn.ModuleList(
            Attention(settings.hidden, labels) for _ in range(settings.levels)
        )
        self.classify = nn.Linear(settings.levels * labels, labels)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        mask = frame_mask(frames, x.shape[1])  # (batch, seconds)
        h = self.norm(x.transpose(1, 2), mask)  # (batch, 128, seconds)
        outputs = []
        for layer in self.layers:
            h = layer(h, mask)  # (batch, hidden, seconds)
            outputs.append(h)
        pooled = [
            attention(output, mask)  # (batch, labels)
            for attention, output in zip(self.levels, outputs[-len(self.levels) :], strict=True)
        ]
        return self.classify(torch.cat(pooled, 1))  # (batch, labels)
