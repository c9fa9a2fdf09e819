"""Timbral and temporal convolutions side by side, residual blocks, mean and max over time.

Pons, Serra (2019), "musicnn: pre-trained convolutional neural networks for music audio tagging",
arXiv 1909.06654. Timbral filters are tall: they span 40% or 70% of the dimensions and few frames;
temporal ones are one dimension wide and long in time. Each answers with its maximum over the
dimensions. The proportions are the paper's; its lengths in time (7 frames, and 32 to 128) are for
spectrograms of 62 frames a second and are shortened to what fits ten frames.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.padding import MaskedBatchNorm, frame_mask, max_over_frames, mean_over_frames
from tagging.parameters import Float, Int, Section

TIMBRAL = ((3, int(0.4 * 128)), (3, int(0.7 * 128)))  # seconds x dimensions
TEMPORAL = ((9, 1), (5, 1), (3, 1))
MIDDLE = 3  # seconds


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    filters: Int = Field(
        description="a whole number of filters of each temporal convolution, 1 or more; "
        "each timbral one has four times as many",
        ge=1,
    )
    middle: Int = Field(
        description="a whole number of channels of the residual blocks, 1 or more", ge=1
    )
    hidden: Int = Field(
        description="a whole number of units before the last layer, 1 or more", ge=1
    )
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)


class FrontConv(nn.Module):
    """Convolution, ReLU and batch normalization, then the maximum over the dimensions."""

    def __init__(self, filters: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        # Zeros before and after in time alone: the maximum takes the dimensions that there are.
        self.conv = nn.Conv2d(1, filters, kernel, padding=(kernel[0] // 2, 0))
        self.norm = MaskedBatchNorm(filters)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, 1, seconds, 128) to (batch, filters, seconds)."""
        return self.norm(self.conv(x).relu(), mask).amax(3)


class MiddleConv(nn.Module):
    """Convolution over time, ReLU and batch normalization."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, MIDDLE, padding=MIDDLE // 2)
        self.norm = MaskedBatchNorm(channels_out)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, seconds) to as many seconds."""
        return self.norm(self.conv(x).relu(), mask)


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(128)
        filters, middle = settings.filters, settings.middle
        self.front = nn.ModuleList(
            [FrontConv(4 * filters, kernel) for kernel in TIMBRAL]
            + [FrontConv(filters, kernel) for kernel in TEMPORAL]
        )
        front = (4 * len(TIMBRAL) + len(TEMPORAL)) * filters
        self.adapt = MiddleConv(front, middle)
        self.residual_1 = MiddleConv(middle, middle)
        self.residual_2 = MiddleConv(middle, middle)
        pooled = 2 * (front + 3 * middle)
        self.decode = nn.Sequential(
            nn.BatchNorm1d(pooled),
            nn.Dropout(settings.dropout),
            nn.Linear(pooled, settings.hidden),
            nn.ReLU(),
            nn.BatchNorm1d(settings.hidden),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, labels),
        )

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        mask = frame_mask(frames, x.shape[1])  # (batch, seconds)
        h = self.norm(x.transpose(1, 2), mask)  # (batch, 128, seconds)
        image = h.transpose(1, 2).unsqueeze(1)  # (batch, 1, seconds, 128)
        front = torch.cat([conv(image, mask) for conv in self.front], 1)  # (batch, 11f, seconds)
        middle_1 = self.adapt(front, mask)  # (batch, middle, seconds)
        middle_2 = self.residual_1(middle_1, mask) + middle_1  # (batch, middle, seconds)
        middle_3 = self.residual_2(middle_2, mask) + middle_2  # (batch, middle, seconds)
        # Dense connections: what every layer found is pooled.
        h = torch.cat([front, middle_1, middle_2, middle_3], 1)  # (batch, 11f + 3 middle, seconds)
        pooled = torch.cat([max_over_frames(h, mask), mean_over_frames(h, mask)], 1)
        return self.decode(pooled)  # (batch, labels)
