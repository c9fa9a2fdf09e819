"""Fully connected layers over each frame, then pooling over time, by attention or without.

Kong, Yu, Xu, Iqbal, Wang, Plumbley (2019), "Weakly labelled AudioSet tagging with attention neural
networks", arXiv 1903.00765. A stack of fully connected layers, the same for every frame, then one
weighted mean over the frames for each label, the weights computed from the clip itself; mean and
max pooling are the paper's baselines. Several heads: Gong, Chung, Glass (2021), "PSLA: improving
audio tagging with pretraining, sampling, labeling, and aggregation", arXiv 2102.01243.

Several levels: Yu, Barsim, Kong, Yang (2018), "Multi-level attention model for weakly supervised
audio classification", arXiv 1803.02353. Not the last layer alone is tagged and pooled but several,
since some labels are told by earlier ones; a linear layer weighs what the levels say. The paper's
best (2-A-1-A) has three layers, the last two of them pooled. A level hands on log odds here, not
the paper's probabilities, of which the linear layer learns much more slowly.

Dropout takes whole channels (Tompson et al., 2015, arXiv 1411.4280): as accurate here as single
values, with a tenth of the random numbers.
"""

from itertools import pairwise
from typing import Literal

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
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)
    pooling: Literal["decision", "feature", "mean", "max"] = Field(
        description="decision (each frame is tagged, then pooled by attention), feature (pooled "
        "by attention, then tagged), mean or max (each frame is tagged, then pooled without it)"
    )
    heads: Int = Field(
        1, description="a whole number of attention heads, 1 or more (1 unless decision)", ge=1
    )
    levels: Int = Field(
        1,
        description="a whole number of layers, the last ones, that are each tagged and pooled, "
        "from 1 to layers (1 unless decision with one head)",
        ge=1,
    )


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


class Level(nn.Module):
    """A layer's frames, tagged and pooled over time: (real frames, hidden) to (batch, labels)."""

    def __init__(self, settings: Settings, labels: int) -> None:
        super().__init__()
        self.pooling, self.heads = settings.pooling, settings.heads
        # A softmax over time takes a bias of its logits away.
        if self.pooling == "feature":
            self.attend = nn.Linear(settings.hidden, settings.hidden, bias=False)
        if self.pooling == "decision":
            self.attend = nn.Linear(settings.hidden, labels * self.heads, bias=False)
        self.classify = nn.Linear(settings.hidden, labels * self.heads)
        if self.heads > 1:
            # PSLA's heads have free weights; these go through a softmax: they all begin alike, and
            # the weighted mean of probabilities stays one.
            self.head_weights = nn.Parameter(torch.zeros(self.heads))

    def forward(self, h: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return the clips' logits."""
        if self.pooling == "feature":
            return self.classify(self.pooled(h, rows))
        decisions = self.classify(h)  # (real frames, heads * labels)
        if self.pooling == "max":
            return rows.give(decisions, -torch.inf).amax(1)  # of the highest probability

        # Logarithms of weights, but for a term that all of a clip's share: it cancels out below.
        weights = self.attend(h) if self.pooling == "decision" else torch.zeros_like(decisions)
        weights, decisions = rows.give(weights, -torch.inf), rows.give(decisions)
        if self.heads > 1:
            # Frames and heads become one axis: (batch, frames * heads, labels).
            weights = weights.log_softmax(1).unflatten(2, (self.heads, -1))
            weights = (weights + self.head_weights.log_softmax(0).unsqueeze(1)).flatten(1, 2)
            decisions = decisions.unflatten(2, (self.heads, -1)).flatten(1, 2)
        # The mean of probabilities, in the log domain so that its logit is exact near 0 and 1.
        # Time is not the last axis: it takes half the time or less.
        log_p = weights + functional.logsigmoid(decisions)
        log_not_p = log_p - decisions
        return log_p.logsumexp(1) - log_not_p.logsumexp(1)

    def pooled(self, h: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return the layer's mean, by attention with feature pooling: (batch, hidden)."""
        weights = self.attend(h) if self.pooling == "feature" else torch.zeros_like(h[:, :1])
        weights = rows.give(weights, -torch.inf).softmax(1)  # (batch, frames, hidden or 1)
        return (weights * rows.give(h)).sum(1)


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if heads or levels do not go with the other settings.
        """
        super().__init__()
        levels, pooling = settings.levels, settings.pooling
        for name, number in (("heads", settings.heads), ("levels", levels)):
            if number > 1 and pooling != "decision":
                raise UserError(
                    f"network.{name} is {number}; it takes 1 with network.pooling {pooling!r}"
                )
        if levels > 1 and settings.heads > 1:
            raise UserError(
                f"network.levels is {levels}; it takes 1 with network.heads {settings.heads}"
            )
        if levels > settings.layers:
            raise UserError(
                f"network.levels is {levels}; it takes at most network.layers, {settings.layers}"
            )
        channels = [spec.channels * spec.bins] + [settings.hidden] * settings.layers
        self.norm = nn.BatchNorm1d(channels[0])
        self.layers = nn.ModuleList(
            Layer(here, after, settings.dropout) for here, after in pairwise(channels)
        )
        self.levels = nn.ModuleList(Level(settings, labels) for _ in range(levels))
        self.classify = nn.Linear(levels * labels, labels) if levels > 1 else nn.Identity()
        if pooling == "decision":  # then attention is of labels, too
            self.last = ("classify", "attend", "head_weights")

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self._said(*self._last_layers(x, frames)))

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last layer pooled over time, float32 (batch, hidden).

        By attention with feature pooling, which classifies this; its mean with the others, which
        classify each frame. Of several levels it is their log odds, (batch, levels * labels).
        """
        last, rows = self._last_layers(x, frames)
        return self._said(last, rows) if len(last) > 1 else self.levels[0].pooled(last[0], rows)

    def _last_layers(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], Rows]:
        """Return what the levels are of, each (real frames, hidden)."""
        rows = Rows(frames, x.shape[2])
        h = self.norm(rows.take(x.transpose(1, 2).flatten(2)))  # (real frames, channels * bins)
        outputs = []
        for layer in self.layers:
            h = layer(h, rows)  # (real frames, hidden)
            outputs.append(h)
        return outputs[-len(self.levels) :], rows

    def _said(self, last: list[torch.Tensor], rows: Rows) -> torch.Tensor:
        levels = zip(self.levels, last, strict=True)
        return torch.cat([level(h, rows) for level, h in levels], 1)  # (batch, levels * labels)
