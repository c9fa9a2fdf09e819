"""Timbral and temporal convolutions side by side, a dense middle, maximum and mean over time.

Pons, Serra (2019), "musicnn: pre-trained convolutional neural networks for music audio tagging",
arXiv 1909.06654; the front end is that of Pons, Nieto, Prockup, Schmidt, Ehmann, Serra (2018),
"End-to-end learning for music audio tagging at scale", arXiv 1711.02520. Timbral filters span many
bins and few frames, temporal ones a single bin and many frames; each answers with its maximum over
the bins.

The paper's network hears log-mel spectrograms of 62 frames a second: `timbral` 7, `temporal` 128,
64 and 32, `filters` 51, `middle_frames` 7, `normalize` channels, `eps` 0.001. What the settings
default to is for embeddings, one a second: kernels that fit ten frames, and bins that are no
neighbours, each with a mean and a variance of its own.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.padding import MaskedBatchNorm, frame_mask, max_over_frames, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Float, Int, Section


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
    timbral: Int = Field(
        3, description="an odd number of frames of the timbral kernels (the paper's: 7)", ge=1
    )
    heights: tuple[Annotated[Float, Field(gt=0, le=1)], ...] = Field(
        (0.4, 0.7),
        description="a list of shares of the bins, above 0 and up to 1: the heights of the timbral "
        "kernels, rounded down",
    )
    temporal: tuple[Annotated[Int, Field(ge=1)], ...] = Field(
        (9, 5, 3),
        description="a list of numbers of frames, 1 or more: the lengths of the temporal kernels "
        "(the paper's: 128, 64 and 32)",
        min_length=1,
    )
    middle_frames: Int = Field(
        3,
        description="an odd number of frames of the residual blocks' kernels (the paper's: 7)",
        ge=1,
    )
    normalize: Literal["bins", "channels"] = Field(
        "bins",
        description="bins (a mean and a variance for each bin of the input) or channels (one for "
        "all bins of a channel, as in the paper)",
    )
    eps: Float = Field(
        1e-5,
        description="a number above 0 that batch normalization adds to variances (the paper's: "
        "0.001)",
        gt=0,
    )


class FrontConv(nn.Module):
    """Convolution, ReLU and batch normalization, then the maximum over the bins."""

    def __init__(self, channels: int, filters: int, kernel: tuple[int, int], eps: float) -> None:
        super().__init__()
        # Zeros before and after in time alone: the maximum takes the bins that there are.
        self.conv = nn.Conv2d(channels, filters, kernel, padding=(kernel[0] // 2, 0))
        # As TensorFlow's "same": an even kernel has one zero more behind the clip than before it.
        self.skip = 1 - kernel[0] % 2
        self.norm = MaskedBatchNorm(filters, eps=eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, frames, bins) to (batch, filters, frames)."""
        if self.training and x.shape[2] < self.conv.kernel_size[0]:
            # PyTorch 2.13's gradient on CPUs writes past its memory where a convolution itself
            # puts more zeros around a clip than the clip has frames.
            around = self.conv.padding[0]
            x = functional.pad(x, (0, 0, around, around))
            h = functional.conv2d(x, self.conv.weight, self.conv.bias)
        else:
            h = self.conv(x)
        return self.norm(h[:, :, self.skip :].relu(), mask).amax(3)


class MiddleConv(nn.Module):
    """Convolution over time, ReLU and batch normalization."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2)
        self.norm = MaskedBatchNorm(channels_out, eps=eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, frames) to as many frames."""
        return self.norm(self.conv(x).relu(), mask)


class Network(nn.Module):
    """Float32 (batch, channels, frames, bins) to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if a kernel of the timbral or the residual convolutions has no middle.
        """
        super().__init__()
        for name in ("timbral", "middle_frames"):
            if getattr(settings, name) % 2 == 0:
                takes = Settings.model_fields[name].description
                raise UserError(f"network.{name} is {getattr(settings, name)}; it takes {takes}")
        filters, middle, eps = settings.filters, settings.middle, settings.eps
        heights = [max(1, int(share * spec.bins)) for share in settings.heights]
        self.by_bin = settings.normalize == "bins"
        self.norm = MaskedBatchNorm(spec.channels * (spec.bins if self.by_bin else 1), eps=eps)
        self.front = nn.ModuleList(
            [
                FrontConv(spec.channels, 4 * filters, (settings.timbral, height), eps)
                for height in heights
            ]
            + [FrontConv(spec.channels, filters, (length, 1), eps) for length in settings.temporal]
        )
        front = (4 * len(heights) + len(settings.temporal)) * filters
        self.adapt = MiddleConv(front, middle, settings.middle_frames, eps)
        self.residual_1 = MiddleConv(middle, middle, settings.middle_frames, eps)
        self.residual_2 = MiddleConv(middle, middle, settings.middle_frames, eps)
        pooled = 2 * (front + 3 * middle)
        self.penultimate = nn.Sequential(
            nn.BatchNorm1d(pooled, eps=eps),
            nn.Dropout(settings.dropout),
            nn.Linear(pooled, settings.hidden),
            nn.ReLU(),
            nn.BatchNorm1d(settings.hidden, eps=eps),
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(settings.hidden, labels)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.dropout(self.embed(x, frames)))  # (batch, labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the penultimate layer after its normalization, (batch, hidden)."""
        mask = frame_mask(frames, x.shape[2])  # (batch, frames)
        if self.by_bin:
            bins = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
            image = self.norm(bins, mask).unflatten(1, (x.shape[1], -1)).transpose(2, 3)
        else:
            image = self.norm(x, mask)
        # image: (batch, channels, frames, bins)
        front = torch.cat([conv(image, mask) for conv in self.front], 1)  # (batch, front, frames)
        middle_1 = self.adapt(front, mask)  # (batch, middle, frames)
        middle_2 = self.residual_1(middle_1, mask) + middle_1  # (batch, middle, frames)
        middle_3 = self.residual_2(middle_2, mask) + middle_2  # (batch, middle, frames)
        # Dense connections: what every layer found is pooled.
        h = torch.cat([front, middle_1, middle_2, middle_3], 1)  # (batch, front + 3 middle, frames)
        pooled = torch.cat([max_over_frames(h, mask), mean_over_frames(h, mask)], 1)
        return self.penultimate(pooled)  # (batch, hidden)
