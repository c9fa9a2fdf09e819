"""Logistic regression on a clip's mean features: a linear probe, where these are embeddings.

Alain, Bengio (2016), "Understanding intermediate layers using linear classifier probes", arXiv
1610.01644. Features are standardized by the mean and spread of all batches that were trained on.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.data.padding import frame_mask, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Float, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    dropout: Float = Field(0.0, description="a number from 0 to below 1", ge=0, lt=1)


class Network(nn.Module):
    """Features, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        width = spec.channels * spec.bins
        # Without momentum: the plain mean over all batches, from the first epoch on.
        self.standardize = nn.BatchNorm1d(width, momentum=None, affine=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(width, labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the standardized mean over a clip's frames, (batch, channels x bins)."""
        sequence = x.transpose(2, 3).flatten(1, 2)  # (batch, channels x bins, frames)
        mask = frame_mask(frames, x.shape[2])
        return self.standardize(mean_over_frames(sequence, mask))

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.dropout(self.embed(x, frames)))
