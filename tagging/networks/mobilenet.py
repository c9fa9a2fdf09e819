"""MobileNetV3 over spectrograms: inverted residual blocks with squeeze and excitation.

Schmid, Koutini, Widmer (2023), "Efficient large-scale audio tagging via transformer-to-CNN
knowledge distillation", arXiv 2211.04772 (EfficientAT); the network is the large one of Howard et
al. (2019), "Searching for MobileNetV3", arXiv 1905.02244. `width` multiplies all channels: 0.4 is
EfficientAT's mn04, 1 its mn10.

Five convolutions have a stride of 2 in time and bins. A clip of n frames has ceil(n / 2) after
each, with and without padding. The padding is zero before every convolution, since normalization
sets it to zero and every activation maps 0 to 0.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from tagging.data.parameters import Float, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.convolutions import round_channels
from tagging.layers.padding import (
    MaskedBatchNorm,
    downsampled_lengths,
    frame_mask,
    mean_over_frames,
)

STEM = 16  # channels of the first convolution, at width 1
HIDDEN = 1280  # units of the layer before the classifier, at width 1
EPS = 1e-3


class Row(NamedTuple):
    """An inverted residual block in the paper's table 1, with channels at width 1."""

    kernel: int  # frames and bins of the depthwise convolution
    expanded: int
    out: int
    squeeze: bool
    activation: type[nn.Module]
    stride: int  # of frames and bins


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

    width: Float = Field(gt=0)  # multiplies the channels of every layer
    dropout: Float = Field(ge=0, lt=1)  # before the classifier
    head: Literal["mlp", "linear"] = "mlp"  # mlp: a hidden layer before the classifier (published)
    # The share of each batch in the running statistics; short trainings need more than the default.
    momentum: Float = Field(0.01, gt=0, le=1)


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
        """Return the map (batch, channels, frames, bins), and the number of frames of each clip."""
        x = self.conv(x)
        frames = downsampled_lengths(frames, self.stride)
        return self.activation(self.norm(x, frame_mask(frames, x.shape[2]))), frames


class SqueezeExcitation(nn.Module):
    """Scales each channel of a clip by a factor in 0..1, computed from the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels // 4)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(
        self, x: torch.Tensor, frames: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the scaled map (batch, channels, frames, bins), and `frames`."""
        mean = mean_over_frames(x.mean(3), frame_mask(frames, x.shape[2]))  # (batch, channels)
        factors = self.excite(self.squeeze(mean).relu()).sigmoid()  # (batch, channels)
        return x * factors[:, :, None, None], frames


class Block(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection; a residual block."""

    def __init__(self, channels: int, row: Row, width: float, momentum: float) -> None:
        super().__init__()
        expanded, out = round_channels(row.expanded * width), round_channels(row.out * width)
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
        """Return the map (batch, channels, frames, bins), and the number of frames of each clip."""
        h = x
        for layer in self.layers:
            h, frames = layer(h, frames)
        return h + x if self.residual else h, frames


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        width, momentum = settings.width, settings.momentum
        channels = round_channels(STEM * width)
        layers: list[nn.Module] = [
            ConvNorm(spec.channels, channels, nn.Hardswish, momentum, kernel=3, stride=2)
        ]
        for row in BLOCKS:
            layers.append(Block(channels, row, width, momentum))
            channels = round_channels(row.out * width)
        layers.append(ConvNorm(channels, 6 * channels, nn.Hardswish, momentum))
        self.features = nn.ModuleList(layers)
        pooled = 6 * channels
        if settings.head == "mlp":
            hidden = round_channels(HIDDEN * width)
            self.hidden: nn.Module = nn.Sequential(nn.Linear(pooled, hidden), nn.Hardswish())
        else:
            hidden = pooled
            self.hidden = nn.Identity()
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(hidden, labels)
        self._init_weights()

    def _init_weights(self) -> None:
        """Initialize the weights like EfficientAT."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.dropout(self.hidden(self.forward_features(x, frames))))

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return EfficientAT's features, (batch, about 960 * width).

        They are the channel means of the last convolution, before any fully connected layer.
        """
        for layer in self.features:
            x, frames = layer(x, frames)
        # x: (batch, pooled, ceil(frames / 32), ceil(bins / 32))
        return mean_over_frames(x.mean(3), frame_mask(frames, x.shape[2]))
