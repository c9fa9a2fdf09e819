"""1x1 convolutions over each second, then attention pooling over time.

Kong, Yu, Xu, Iqbal, Wang, Plumbley (2019), "Weakly labelled AudioSet tagging with attention neural
networks", arXiv 1903.00765. A stack of fully connected layers, the same for every second, then one
weighted mean over the seconds for each label, the weights computed from the clip itself.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    hidden: Int = Field(description="a whole number of channels, 1 or more", ge=1)
    layers: Int = Field(description="a whole number of 1x1 convolutions, 1 or more", ge=1)
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)
    pooling: Literal["decision", "feature"] = Field(
        description="decision (each second is tagged, then pooled) or feature (pooled, then tagged)"
    )


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(128)]
        channels = 128
        for _ in range(settings.layers):
            layers += [
                nn.Conv1d(channels, settings.hidden, 1),
                nn.BatchNorm1d(settings.hidden),
                nn.ReLU(),
                nn.Dropout(settings.dropout),
            ]
            channels = settings.hidden
        self.embed = nn.Sequential(*layers)
        self.pooling = settings.pooling
        pooled = labels if settings.pooling == "decision" else channels
        self.attend = nn.Conv1d(channels, pooled, 1)
        self.classify = nn.Conv1d(channels, labels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        h = self.embed(x.transpose(1, 2))  # (batch, hidden, seconds)
        weights = self.attend(h).softmax(2)  # (batch, labels or hidden, seconds), sum to 1 in time
        if self.pooling == "feature":
            pooled = (weights * h).sum(2, keepdim=True)  # (batch, hidden, 1)
            return self.classify(pooled).squeeze(2)
        # The mean of probabilities, in the log domain so that its logit is exact near 0 and 1.
        decisions = self.classify(h)  # (batch, labels, seconds)
        log_weights = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
        log_p = (log_weights + functional.logsigmoid(decisions)).logsumexp(2)
        log_not_p = (log_weights + functional.logsigmoid(-decisions)).logsumexp(2)
        return log_p - log_not_p
