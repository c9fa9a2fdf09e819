"""A clip's mean features, centred, through one linear layer: the least that can learn a distance.

Its outputs classify the projection; what is compared is the projection. Without a width it is the
centred mean itself, of which training learns the centre alone.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.data.padding import frame_mask, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    width: Int | None = Field(
        None, description="a whole number of 1 or more, or null for no linear layer", ge=1
    )


class Network(nn.Module):
    """Features, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        given = spec.channels * spec.bins
        # Keeps the mean over all batches, from the first epoch on; its spread is not asked for.
        self.statistics = nn.BatchNorm1d(given, momentum=None, affine=False)
        self.project = (
            nn.Linear(given, settings.width, bias=False) if settings.width else nn.Identity()
        )
        self.classify = nn.Linear(settings.width or given, labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the projection of the centred mean, (batch, width)."""
        sequence = x.transpose(2, 3).flatten(1, 2)  # (batch, channels x bins, frames)
        mean = mean_over_frames(sequence, frame_mask(frames, x.shape[2]))
        if self.training:
            self.statistics(mean)
        return self.project(mean - self.statistics.running_mean)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.embed(x, frames))
