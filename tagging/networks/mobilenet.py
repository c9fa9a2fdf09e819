"""MobileNetV3 over spectrograms: inverted residual blocks with squeeze and excitation.

Schmid, Koutini, Widmer (2023), "Efficient large-scale audio tagging via transformer-to-CNN
knowledge distillation", arXiv 2211.04772 (EfficientAT); the network is the large one of Howard et
al. (2019), "Searching for MobileNetV3", arXiv 1905.02244. Every number of channels is multiplied by
`width`: 0.4 is EfficientAT's mn04, 1 its mn10.

Five convolutions have a stride of 2 in time and bins. A clip of n frames has ceil(n / 2) after
each, as it has without padding; what lies beyond is zero before the next convolution, since
normalization leaves zeros there and every activation keeps them.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from tagging.data.maps import shorter
from tagging.data.padding import MaskedBatchNorm, frame_mask, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Float, Section

STEM = 16  # channels of the first convolution, before the width multiplies them
EMBEDDING = 1280  # units of the layer before the last, likewise
EPS = 1e-3


class Row(NamedTuple):
    """One inverted residual block of the paper's table 1: channels before the width multiplies."""

    kernel: int  # frames and bins of the depthwise convolution
    expanded: int
    out: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int  # in frames and in bins


BLOCKS = (
    Row(3, 16, 16, False, nn.ReLU, 1),
    Row(3, 64, 24, False, nn.ReLU, 2),
    Row(3, 72, 24, False, nn.ReLU, 1),
    Row(5, 72, 40, True, nn.ReLU, 2),
    Row(5, 120, 40, True, nn.ReLU, 1),
    Row(5, 120, 40, True, nn.ReLU, 1),
    Row(3, 240, 80, False, nn.Hardswish, 2),
    Row(3, 200, 80, False, nn.Hardswish, 1),
    Row(3, 184, 80, False, nn.Hardswish, 1),
    Row(3, 184, 80, False, nn.Hardswish, 1),
    Row(3, 480, 112, True, nn.Hardswish, 1),
    Row(3, 672, 112, True, nn.Hardswish, 1),
    Row(5, 672, 160, True, nn.Hardswish, 2),
    Row(5, 960, 160, True, nn.Hardswish, 1),
    Row(5, 960, 160, True, nn.Hardswish, 1),
)


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    width: Float = Field(
        description="a number above 0 that multiplies the channels of every layer", gt=0
    )
    dropout: Float = Field(
        description="a number from 0 to below 1, before the last layer", ge=0, lt=1
    )
    head: Literal["mlp", "linear"] = Field(
        "mlp",
        description="mlp (a hidden layer before the last, as published) or linear (none)",
    )
    momentum: Float = Field(
        0.01,
        description="a number above 0 and up to 1: the share of each batch in the mean and the "
        "variance that batch normalization keeps (the published: 0.01; more for short training)",
        gt=0,
        le=1,
    )


def divisible(channels: float) -> int:
    """Return the multiple of 8 nearest to `channels`, at least 8 and above 0.9 of it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalization, activation."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        activation: type[nn.Module],
        momentum: float,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = MaskedBatchNorm(channels_out, eps=EPS, momentum=momentum)
        self.activation = activation()

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (batch, channels, frames, bins); return also each clip's number of frames."""
        x = self.conv(x)
        frames = shorter(frames, self.stride)
        return self.activation(self.norm(x, frame_mask(frames, x.shape[2]))), frames


class SqueezeExcitation(nn.Module):
    """One factor in 0..1 for each channel of a clip, of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = divisible(channels // 4)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (batch, channels, frames, bins) to the same shape; `frames` stays."""
        mean = mean_over_frames(x.mean(3), frame_mask(frames, x.shape[2]))  # (batch, channels)
        factors = self.excite(self.squeeze(mean).relu()).sigmoid()  # (batch, channels)
        return x * factors[:, :, None, None], frames


class Block(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection; what came is added."""

    def __init__(self, channels: int, row: Row, width: float, momentum: float) -> None:
        super().__init__()
        expanded, out = divisible(row.expanded * width), divisible(row.out * width)
        self.residual = row.stride == 1 and channels == out
        layers: list[nn.Module] = []
        if expanded != channels:
            layers.append(ConvNorm(channels, expanded, row.activation, momentum))
        layers.append(
            ConvNorm(expanded, expanded, row.activation, momentum, row.kernel, row.stride, expanded)
        )
        if row.squeeze:
            layers.append(SqueezeExcitation(expanded))
        layers.append(ConvNorm(expanded, out, nn.Identity, momentum))
        self.layers = nn.ModuleList(layers)

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (batch, channels, frames, bins); return also each clip's number of frames."""
        h = x
        for layer in self.layers:
            h, frames = layer(h, frames)
        return h + x if self.residual else h, frames


class Network(nn.Module):
    """Float32 (batch, channels, frames, bins) to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        width, momentum = settings.width, settings.momentum
        channels = divisible(STEM * width)
        layers: list[nn.Module] = [
            ConvNorm(spec.channels, channels, nn.Hardswish, momentum, kernel=3, stride=2)
        ]
        for row in BLOCKS:
            layers.append(Block(channels, row, width, momentum))
            channels = divisible(row.out * width)
        layers.append(ConvNorm(channels, 6 * channels, nn.Hardswish, momentum))
        self.features = nn.ModuleList(layers)
        pooled = 6 * channels
        if settings.head == "mlp":
            hidden = divisible(EMBEDDING * width)
            self.hidden = nn.Sequential(nn.Linear(pooled, hidden), nn.Hardswish())
        else:
            hidden = pooled
            self.hidden = nn.Identity()
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(hidden, labels)
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Draw the weights as EfficientAT does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.dropout(self.hidden(self.embed(x, frames))))  # (batch, labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the means of the last convolution's channels, before any fully connected layer.

        These are EfficientAT's features: (batch, 960 times the width, about).
        """
        for layer in self.features:
            x, frames = layer(x, frames)
        # x: (batch, pooled, ceil(frames / 32), ceil(bins / 32))
        return mean_over_frames(x.mean(3), frame_mask(frames, x.shape[2]))
