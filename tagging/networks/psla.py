"""EfficientNet over the clip as an image of frames x bins, then pooling over time.

Gong, Chung, Glass (2021), "PSLA: improving audio tagging with pretraining, sampling, labeling, and
aggregation", arXiv 2102.01243. An EfficientNet (Tan, Le, 2019, arXiv 1905.11946) returns a map with
1/32 of the frames and bins. Its mean over bins is pooled over time by attention with four heads.
The paper's baselines have one head or no attention; mean + max is from PANNs (Kong et al., 2019,
arXiv 1912.10211).

The paper's features are 128 log-mel bins every 10 ms, standardized to mean 0 and standard deviation
1. Its network is B2, as the defaults of the settings are, initialized with the weights of an image
model (`adapt_weights`).
"""

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.data.parameters import Float, Int, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.convolutions import round_channels
from tagging.layers.padding import (
    MaskedBatchNorm,
    frame_mask,
    max_over_frames,
    mean_over_frames,
    normalize_bins,
)


class Stage(NamedTuple):
    """A row of EfficientNet's table: the blocks of a stage in B0, before scaling.

    Only the first block has the stride; the others are residual.
    """

    kernel: int
    stride: int
    expansion: int
    channels: int
    blocks: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
STEM, TOP = 32, 1280  # channels of the first and of the last convolution
SQUEEZE = 4  # input channels of a block per channel of its squeeze and excitation


class Settings(Section):
    """The network's settings (`models.<name>.network`); the defaults are the paper's."""

    width: Float = Field(1.1, gt=0)  # scales the channels of every layer; B0, B1: 1, B2: 1.1
    depth: Float = Field(1.2, gt=0)  # scales the blocks of every stage; B0: 1, B1: 1.1, B2: 1.2
    # mean, mean_max: pool frames by their mean (plus maximum), then classify; attention: classify
    # frames, then pool by attention.
    pooling: Literal["mean", "mean_max", "attention"] = "attention"
    heads: Int = Field(4, ge=1)  # of the attention
    dropout: Float = Field(0.0, ge=0, lt=1)  # before the classifier
    # Probability of dropping the residual branch of the last block in training; it grows linearly
    # from 0 at the first block.
    drop_blocks: Float = Field(0.2, ge=0, lt=1)
    # Of the input: fixed (by mean and spread) or batch (batch normalization of each bin).
    norm: Literal["fixed", "batch"] = "fixed"
    mean: Float = 0.0  # of the features, with norm fixed
    spread: Float = Field(1.0, gt=0)  # standard deviation of the features, with norm fixed


class Conv(nn.Module):
    """Convolution with "same" padding, and batch normalization: n frames become ceil(n / stride).

    The zeros are split evenly before and after the map; an odd one goes after it. The number before
    depends on `size`, the size of the longest clip, only: the kernels then have the same positions
    on the frames of a shorter clip, however it is padded.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        size: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, groups=groups, bias=False)
        self.norm = MaskedBatchNorm(channels_out, eps=1e-3, momentum=0.01)
        self.kernel, self.stride = kernel, stride
        self.before = [self.total_padding(length) // 2 for length in size]

    def total_padding(self, length: int) -> int:
        """Return the number of zeros before and after `length` frames or bins."""
        return max(0, (math.ceil(length / self.stride) - 1) * self.stride + self.kernel - length)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, channels, frames, bins), and its padding mask (batch, frames)."""
        if self.kernel > 1:
            sides = []
            for length, before in zip(x.shape[:1:-1], self.before[::-1], strict=True):
                sides += [before, self.total_padding(length) - before]
            x = functional.pad(x, sides)
        if mask is not None:
            mask = mask[:, :: self.stride]
        return self.norm(self.conv(x), mask), mask


class Block(nn.Module):
    """Inverted bottleneck: expansion, depthwise convolution, squeeze and excitation, projection."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stage: Stage,
        first: bool,
        size: tuple[int, int],
        drop: float,
    ) -> None:
        super().__init__()
        stride = stage.stride if first else 1
        expanded = channels_in * stage.expansion
        self.expand = Conv(channels_in, expanded, 1) if stage.expansion > 1 else None
        self.depthwise = Conv(expanded, expanded, stage.kernel, stride, expanded, size)
        squeezed = max(1, channels_in // SQUEEZE)
        self.reduce = nn.Linear(expanded, squeezed)
        self.excite = nn.Linear(squeezed, expanded)
        self.project = Conv(expanded, channels_out, 1)
        self.residual = not first
        self.drop = drop

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the map (batch, channels, frames, bins), and its padding mask (batch, frames)."""
        h = x
        if self.expand is not None:
            h = functional.silu(self.expand(h, mask)[0])
        h, mask = self.depthwise(h, mask)
        h = functional.silu(h)
        gate = mean_over_frames(h, mask).mean(2)  # (batch, expanded)
        gate = self.excite(functional.silu(self.reduce(gate))).sigmoid()
        h, _ = self.project(h * gate[:, :, None, None], mask)
        if not self.residual:
            return h, mask
        if self.training and self.drop:
            kept = torch.rand(len(h), 1, 1, 1, device=h.device) >= self.drop
            h = h * kept / (1 - self.drop)
        return x + h, mask


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    classifier_layers = ("classify", "attend", "head_weights")

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        self.mean, self.scale = settings.mean, 1 / settings.spread
        batch_norm = settings.norm == "batch"
        self.input_norm = MaskedBatchNorm(spec.channels * spec.bins) if batch_norm else None
        size = (spec.frames, spec.bins)
        channels = round_channels(STEM * settings.width)
        self.stem = Conv(spec.channels, channels, 3, 2, 1, size)
        size = halve(size)
        depths = [math.ceil(stage.blocks * settings.depth) for stage in STAGES]
        blocks: list[Block] = []
        for stage, depth in zip(STAGES, depths, strict=True):
            for position in range(depth):
                channels_out = round_channels(stage.channels * settings.width)
                drop = settings.drop_blocks * len(blocks) / sum(depths)
                blocks.append(Block(channels, channels_out, stage, position == 0, size, drop))
                channels = channels_out
                if position == 0 and stage.stride == 2:
                    size = halve(size)
        self.blocks = nn.ModuleList(blocks)
        pooled = round_channels(TOP * settings.width)
        self.top = Conv(channels, pooled, 1)
        self.dropout = nn.Dropout(settings.dropout)
        self.pooling, self.heads = settings.pooling, 1
        if settings.pooling == "attention":
            self.heads = settings.heads
            self.attend = nn.Linear(pooled, labels * self.heads)
        # The heads of each label are neighbours.
        self.classify = nn.Linear(pooled, labels * self.heads)
        if self.heads > 1:
            # The paper's weights of heads are unconstrained. With a softmax, as here, they also
            # start equal, and the weighted mean of probabilities is a probability.
            self.head_weights = nn.Parameter(torch.zeros(self.heads))

    def normalize_input(self, x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
        """Return the normalized input, zero in the padding: (batch, channels, frames, bins)."""
        if self.input_norm is None:
            x = (x - self.mean) * self.scale
        return normalize_bins(self.input_norm, x, frames)

    def feature_map(
        self, x: torch.Tensor, frames: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return EfficientNet's last map and its padding mask.

        Returns:
            float32 (batch, width, frames / 32, bins / 32), and a mask, bool (batch, frames / 32),
            None if no clip is padded. Sizes, and the length of each clip, are rounded up.
        """
        mask = frame_mask(frames, x.shape[2])  # (batch, frames)
        h, mask = self.stem(self.normalize_input(x, frames), mask)
        h = functional.silu(h)
        for block in self.blocks:
            h, mask = block(h, mask)
        h, mask = self.top(h, mask)
        return functional.silu(h), mask

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the map's mean over bins, pooled over frames: (batch, width).

        With attention, where frames are classified, the pooling is the mean.
        """
        return self.pool(*self.feature_map(x, frames))

    def pool(self, h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the mean over bins, then the mean, or mean + max, over frames: (batch, width)."""
        h = h.mean(3)  # (batch, width, frames)
        mean = mean_over_frames(h, mask)
        return mean + max_over_frames(h, mask) if self.pooling == "mean_max" else mean

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        h, mask = self.feature_map(x, frames)
        if self.pooling != "attention":
            return self.classify(self.dropout(self.pool(h, mask)))
        h = self.dropout(h.mean(3).transpose(1, 2))  # (batch, frames, width)

        # The mean of probabilities in the log domain, where its logit is exact near 0 and 1. The
        # weights are sigmoids, as in the paper, normalized to sum to 1 over time.
        weights = functional.logsigmoid(self.attend(h))  # (batch, frames, labels * heads)
        if mask is not None:
            weights = weights.masked_fill(~mask.unsqueeze(2), -torch.inf)
        weights = weights.log_softmax(1)
        decisions = self.classify(h)  # (batch, frames, labels * heads)
        if self.heads > 1:
            # Heads and frames become one axis: (batch, frames * heads, labels).
            weights = weights.unflatten(2, (-1, self.heads)) + self.head_weights.log_softmax(0)
            weights = weights.transpose(2, 3).flatten(1, 2)
            decisions = decisions.unflatten(2, (-1, self.heads)).transpose(2, 3).flatten(1, 2)
        log_p = (weights + functional.logsigmoid(decisions)).logsumexp(1)
        log_not_p = (weights + functional.logsigmoid(-decisions)).logsumexp(1)
        return log_p - log_not_p

    def adapt_weights(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return pretrained weights under the names and in the shapes of this network.

        Kernels of the first convolution with several channels are adapted to the network's
        channels: each becomes an equal share of their sum, as if the image had equal channels. The
        image classifier is dropped.

        Args:
            tensors: the state dict of transformers' `EfficientNetModel` or
                `EfficientNetForImageClassification` (for example `google/efficientnet-b2`) of
                the same width and depth; or of this architecture, which is returned unchanged.
        """
        if "stem.conv.weight" in tensors:
            return dict(tensors)
        own = self.state_dict()
        adapted = {name: own[name] for name in own if name.startswith("input_norm.")}
        for name, tensor in tensors.items():
            bare = name.removeprefix("efficientnet.")
            if bare.startswith("classifier."):
                continue
            if (match := re.fullmatch(BLOCK, bare)) and match[2] in PARTS:
                new = f"blocks.{match[1]}.{PARTS[match[2]]}.{match[3]}"
            else:
                part, _, kind = bare.rpartition(".")
                new = f"{ENDS.get(part, part)}.{kind}"
            if new == "stem.conv.weight" and tensor.shape[1] != (channels := own[new].shape[1]):
                tensor = tensor.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
            # The rows of an image are bins here: its kernels are bins x frames.
            tensor = tensor.transpose(2, 3) if tensor.dim() == 4 else tensor
            adapted[new] = tensor.flatten(1) if new in own and own[new].dim() == 2 else tensor
        return adapted


def halve(size: tuple[int, int]) -> tuple[int, int]:
    """Return the frames and bins of a map after a convolution with stride 2."""
    return math.ceil(size[0] / 2), math.ceil(size[1] / 2)


# Names in the state dict of transformers, and in this network.
BLOCK = r"encoder\.blocks\.(\d+)\.(.+)\.(\w+)"
PARTS = {
    "expansion.expand_conv": "expand.conv",
    "expansion.expand_bn": "expand.norm",
    "depthwise_conv.depthwise_conv": "depthwise.conv",
    "depthwise_conv.depthwise_norm": "depthwise.norm",
    "squeeze_excite.reduce": "reduce",
    "squeeze_excite.expand": "excite",
    "projection.project_conv": "project.conv",
    "projection.project_bn": "project.norm",
}
ENDS = {
    "embeddings.convolution": "stem.conv",
    "embeddings.batchnorm": "stem.norm",
    "encoder.top_conv": "top.conv",
    "encoder.top_bn": "top.norm",
}
