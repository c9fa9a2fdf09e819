"""A linear projection of the centred mean features: the smallest model that learns a distance.

The embedding is the projection; the outputs classify it. Without a width, the embedding is the
centred mean itself, and training learns only the centre.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.data.parameters import Int, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.padding import frame_mask, mean_over_frames


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    width: Int | None = Field(None, ge=1)  # of the projection; null: no linear layer


class Network(TaggingNetwork):
    """Features, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        features = spec.channels * spec.bins
        # Only its mean is used: without momentum, the mean over all batches since the start.
        self.statistics = nn.BatchNorm1d(features, momentum=None, affine=False)
        self.project = (
            nn.Linear(features, settings.width, bias=False) if settings.width else nn.Identity()
        )
        self.classify = nn.Linear(settings.width or features, labels)

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the projection of the centred mean, (batch, width)."""
        sequence = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
        mean = mean_over_frames(sequence, frame_mask(frames, x.shape[2]))
        if self.training:
            self.statistics(mean)
        centre = self.statistics.running_mean
        assert centre is not None  # the layer tracks statistics
        return self.project(mean - centre)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.forward_features(x, frames))
