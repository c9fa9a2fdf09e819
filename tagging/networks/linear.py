"""Logistic regression on the mean features of a clip; a linear probe if these are embeddings.

Alain, Bengio (2016), "Understanding intermediate layers using linear classifier probes", arXiv
1610.01644. Features are standardized with mean and standard deviation over all training batches.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.data.parameters import Float, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.padding import frame_mask, mean_over_frames


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    dropout: Float = Field(0.0, ge=0, lt=1)


class Network(TaggingNetwork):
    """Features, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        width = spec.channels * spec.bins
        # Without momentum, the statistics are the plain mean over all batches since the start.
        self.standardize = nn.BatchNorm1d(width, momentum=None, affine=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(width, labels)

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the standardized mean over frames, (batch, channels * bins)."""
        sequence = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
        mask = frame_mask(frames, x.shape[2])
        return self.standardize(mean_over_frames(sequence, mask))

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.dropout(self.forward_features(x, frames)))
