"""1x1 convolutions over each second, then pooling over time, by attention or without.

Kong, Yu, Xu, Iqbal, Wang, Plumbley (2019), "Weakly labelled AudioSet tagging with attention neural
networks", arXiv 1903.00765. A stack of fully connected layers, the same for every second, then one
weighted mean over the seconds for each label, the weights computed from the clip itself; mean and
max pooling are the paper's baselines. Several heads: Gong, Chung, Glass (2021), "PSLA: improving
audio tagging with pretraining, sampling, labeling, and aggregation", arXiv 2102.01243. Dropout
takes whole channels (Tompson et al., 2015, arXiv 1411.4280): as accurate here as single values,
with a tenth of the random numbers.
"""

from typing import Literal

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
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)
    pooling: Literal["decision", "feature", "mean", "max"] = Field(
        description="decision (each second is tagged, then pooled by attention), feature (pooled "
        "by attention, then tagged), mean or max (each second is tagged, then pooled without it)"
    )
    heads: Int = Field(
        1, description="a whole number of attention heads, 1 or more (1 unless decision)", ge=1
    )


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        if settings.heads > 1 and settings.pooling != "decision":
            raise ValueError(
                f"network.heads is {settings.heads}; "
                f"it takes 1 with network.pooling {settings.pooling!r}"
            )
        layers: list[nn.Module] = [MaskedBatchNorm(128)]
        channels = 128
        for _ in range(settings.layers):
            layers += [
                nn.Conv1d(channels, settings.hidden, 1),
                MaskedBatchNorm(settings.hidden),
                nn.ReLU(),
                nn.Dropout1d(settings.dropout),
            ]
            channels = settings.hidden
        self.embed = nn.ModuleList(layers)
        self.pooling = settings.pooling
        self.heads = settings.heads
        # For each label (or channel) its heads side by side.
        if settings.pooling in ("decision", "feature"):
            pooled = labels if settings.pooling == "decision" else channels
            self.attend = nn.Conv1d(channels, pooled * settings.heads, 1)
        self.classify = nn.Conv1d(channels, labels * settings.heads, 1)
        if settings.heads > 1:
            # PSLA's heads have free weights; these go through a softmax: they all begin alike, and
            # the weighted mean of probabilities stays one.
            self.head_weights = nn.Parameter(torch.zeros(settings.heads))

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        mask = frame_mask(frames, x.shape[1])  # (batch, seconds)
        h = x.transpose(1, 2)  # (batch, 128, seconds)
        for layer in self.embed:
            h = layer(h, mask) if isinstance(layer, MaskedBatchNorm) else layer(h)
        # h: (batch, hidden, seconds)
        if mask is not None:
            mask = mask.unsqueeze(1)  # (batch, 1, seconds)

        if self.pooling == "max":
            decisions = self.classify(h)  # (batch, labels, seconds)
            if mask is not None:
                decisions = decisions.masked_fill(~mask, -torch.inf)
            return decisions.amax(2)  # the logit of the highest probability
        if self.pooling == "mean":
            real = torch.ones_like(h[:, :1]) if mask is None else mask.to(h.dtype)
            weights = real / real.sum(2, keepdim=True)  # (batch, 1, seconds)
        else:
            weights = self.attend(h)  # (batch, labels * heads or hidden, seconds)
            if mask is not None:
                weights = weights.masked_fill(~mask, -torch.inf)
            # They sum to 1 in time; over an axis that is not the last it takes a tenth of the time.
            weights = weights.transpose(1, 2).softmax(1).transpose(1, 2)
        if self.pooling == "feature":
            pooled = (weights * h).sum(2, keepdim=True)  # (batch, hidden, 1)
            return self.classify(pooled).squeeze(2)

        # The mean of probabilities, in the log domain so that its logit is exact near 0 and 1.
        decisions = self.classify(h)  # (batch, labels * heads, seconds)
        log_weights = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        if self.heads > 1:
            # Heads and seconds become one axis: (batch, labels, heads * seconds).
            of_heads = self.head_weights.log_softmax(0).unsqueeze(1)  # (heads, 1)
            log_weights = (log_weights.unflatten(1, (-1, self.heads)) + of_heads).flatten(2)
            decisions = decisions.unflatten(1, (-1, self.heads)).flatten(2)
        log_p = (log_weights + functional.logsigmoid(decisions)).logsumexp(2)
        log_not_p = (log_weights + functional.logsigmoid(-decisions)).logsumexp(2)
        return log_p - log_not_p
