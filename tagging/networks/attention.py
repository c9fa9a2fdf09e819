"""Fully connected layers over each frame, then pooling over time, with or without attention.

Kong, Yu, Xu, Iqbal, Wang, Plumbley (2019), "Weakly labelled AudioSet tagging with attention neural
networks", arXiv 1903.00765. A stack of fully connected layers is shared by all frames; one weighted
mean over the frames for each label follows, with weights computed from the clip itself. Mean and
max pooling are the paper's baselines. Multiple heads: Gong, Chung, Glass (2021), "PSLA: improving
audio tagging with pretraining, sampling, labeling, and aggregation", arXiv 2102.01243.

Multiple levels: Yu, Barsim, Kong, Yang (2018), "Multi-level attention model for weakly supervised
audio classification", arXiv 1803.02353. Several of the last layers are classified and pooled, as
some labels are better recognized from earlier layers; a linear layer combines the levels. The
paper's best model (2-A-1-A) has three layers and pools the last two. The levels here return logits,
not the paper's probabilities, from which the linear layer learns much more slowly.

Dropout drops a channel in all frames of a clip (Tompson et al., 2015, arXiv 1411.4280): as accurate
here as dropping single values, and faster, since a clip of ten frames needs a tenth of the random
numbers.
"""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Float, Int, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.padding import PackedFrames


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    hidden: Int = Field(ge=1)  # channels of each layer
    layers: Int = Field(ge=1)
    dropout: Float = Field(ge=0, lt=1)
    # decision: classify frames, then pool by attention; feature: pool by attention, then classify;
    # mean, max: classify frames, then pool their probabilities.
    pooling: Literal["decision", "feature", "mean", "max"]
    heads: Int = Field(1, ge=1)  # of attention, with pooling decision
    levels: Int = Field(1, ge=1)  # the number of last layers that are classified and pooled


class Layer(nn.Module):
    """A fully connected layer that is shared by all frames."""

    def __init__(self, channels_in: int, channels_out: int, dropout: float) -> None:
        super().__init__()
        # Batch normalization would cancel a bias.
        self.linear = nn.Linear(channels_in, channels_out, bias=False)
        self.norm = nn.BatchNorm1d(channels_out)
        self.dropout = dropout

    def forward(self, h: torch.Tensor, packed: PackedFrames) -> torch.Tensor:
        """Map (real frames, channels_in) to (real frames, channels_out)."""
        return packed.dropout(self.norm(self.linear(h)).relu_(), self.dropout, self.training)


class Level(nn.Module):
    """Classifies the frames of a layer and pools them: (real frames, hidden) to (batch, labels)."""

    def __init__(self, settings: Settings, labels: int) -> None:
        super().__init__()
        self.pooling, self.heads = settings.pooling, settings.heads
        # The softmax over time would cancel a bias.
        if self.pooling == "feature":
            self.attend = nn.Linear(settings.hidden, settings.hidden, bias=False)
        if self.pooling == "decision":
            self.attend = nn.Linear(settings.hidden, labels * self.heads, bias=False)
        self.classify = nn.Linear(settings.hidden, labels * self.heads)
        if self.heads > 1:
            # PSLA's weights of heads are unconstrained. With a softmax, as here, they also start
            # equal, and the weighted mean of probabilities is a probability.
            self.head_weights = nn.Parameter(torch.zeros(self.heads))

    def forward(self, h: torch.Tensor, packed: PackedFrames) -> torch.Tensor:
        """Return the logits of the clips."""
        if self.pooling == "feature":
            return self.classify(self.pool(h, packed))
        decisions = self.classify(h)  # (real frames, heads * labels)
        if self.pooling == "max":
            return packed.unpack(decisions, -torch.inf).amax(1)

        # Log weights up to a constant for each clip, which cancels out below.
        weights = self.attend(h) if self.pooling == "decision" else torch.zeros_like(decisions)
        weights, decisions = packed.unpack(weights, -torch.inf), packed.unpack(decisions)
        if self.heads > 1:
            # Frames and heads become one axis: (batch, frames * heads, labels).
            weights = weights.log_softmax(1).unflatten(2, (self.heads, -1))
            weights = (weights + self.head_weights.log_softmax(0).unsqueeze(1)).flatten(1, 2)
            decisions = decisions.unflatten(2, (self.heads, -1)).flatten(1, 2)
        # The mean of probabilities in the log domain, where its logit is exact near 0 and 1. Time
        # is not the last axis because that takes twice as long or more.
        log_p = weights + functional.logsigmoid(decisions)
        log_not_p = log_p - decisions
        return log_p.logsumexp(1) - log_not_p.logsumexp(1)

    def pool(self, h: torch.Tensor, packed: PackedFrames) -> torch.Tensor:
        """Pool a layer over time by attention (`feature`) or its mean: (batch, hidden)."""
        weights = self.attend(h) if self.pooling == "feature" else torch.zeros_like(h[:, :1])
        weights = packed.unpack(weights, -torch.inf).softmax(1)  # (batch, frames, hidden or 1)
        return (weights * packed.unpack(h)).sum(1)


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if heads or levels are incompatible with the other settings.
        """
        super().__init__()
        levels, pooling = settings.levels, settings.pooling
        for name, number in (("heads", settings.heads), ("levels", levels)):
            if number > 1 and pooling != "decision":
                raise UserError(
                    f"network.{name} must be 1 with network.pooling {pooling!r}, got {number}"
                )
        if levels > 1 and settings.heads > 1:
            raise UserError(
                f"network.levels must be 1 with network.heads {settings.heads}, got {levels}"
            )
        if levels > settings.layers:
            raise UserError(
                f"network.levels must be at most network.layers, {settings.layers}, got {levels}"
            )
        channels = [spec.channels * spec.bins] + [settings.hidden] * settings.layers
        self.norm = nn.BatchNorm1d(channels[0])
        self.layers = nn.ModuleList(
            Layer(channels_in, channels_out, settings.dropout)
            for channels_in, channels_out in pairwise(channels)
        )
        self.levels = nn.ModuleList(Level(settings, labels) for _ in range(levels))
        self.classify = nn.Linear(levels * labels, labels) if levels > 1 else nn.Identity()
        if pooling == "decision":  # The attention has a weight for each label.
            self.classifier_layers = ("classify", "attend", "head_weights")

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self._level_logits(*self._level_inputs(x, frames)))

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last layer pooled over time, (batch, hidden).

        With pooling `feature`, the pooling is the attention; otherwise, where frames are
        classified, it is the mean. Multiple levels return their logits, (batch, levels * labels).
        """
        inputs, packed = self._level_inputs(x, frames)
        if len(inputs) > 1:
            return self._level_logits(inputs, packed)
        level = self.levels[0]
        assert isinstance(level, Level)
        return level.pool(inputs[0], packed)

    def _level_inputs(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], PackedFrames]:
        """Return the layer that each level classifies, (real frames, hidden).

        Padded frames are dropped here. They return in `Level`, where they have no weight.
        """
        packed = PackedFrames(frames, x.shape[2])
        h = self.norm(packed.pack(x.transpose(1, 2).flatten(2)))  # (real frames, channels * bins)
        outputs = []
        for layer in self.layers:
            h = layer(h, packed)  # (real frames, hidden)
            outputs.append(h)
        return outputs[-len(self.levels) :], packed

    def _level_logits(self, inputs: list[torch.Tensor], packed: PackedFrames) -> torch.Tensor:
        """Return the logits of all levels, (batch, levels * labels)."""
        levels = zip(self.levels, inputs, strict=True)
        return torch.cat([level(h, packed) for level, h in levels], 1)
