"""EfficientNet over the clip as an image of frames x bins, then pooling over time.

Gong, Chung, Glass (2021), "PSLA: improving audio tagging with pretraining, sampling, labeling, and
aggregation", arXiv 2102.01243: an EfficientNet (Tan, Le, 2019, arXiv 1905.11946) makes a map with
a 32nd of the frames and bins, whose mean over the bins is pooled over time by four heads of
attention. One head or none at all are its baselines; mean + max is of PANNs (Kong et al., 2019,
arXiv 1912.10211).

The paper's features are 128 log mel bins every 10 ms, normalized to a mean of 0 and a spread of 1.
Its network is B2, as the settings' defaults are; it begins with the weights of an image model
(`adapted`).
"""

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.data.maps import bins_norm, normalize_bins
from tagging.data.padding import MaskedBatchNorm, frame_mask, max_over_frames, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Float, Int, Section


class Stage(NamedTuple):
    """A row of the paper's table: what its blocks are, before the network is made wider or deeper.

    The first block alone has the stride; to what the others make, what they take is added.
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
STEM, TOP = 32, 1280  # channels of the first convolution and of the last
SQUEEZE = 4  # the channels that enter a block, over those of its bottleneck


class Settings(Section):
    """The network's settings (`models.<name>.network`); the defaults are the paper's."""

    width: Float = Field(
        1.1,
        description="a number above 0: the channels of every layer, as a share of B0's and B1's "
        "(B2: 1.1)",
        gt=0,
    )
    depth: Float = Field(
        1.2,
        description="a number above 0: the blocks of every stage, as a share of B0's, rounded up "
        "(B1: 1.1, B2: 1.2)",
        gt=0,
    )
    pooling: Literal["mean", "mean_max", "attention"] = Field(
        "attention",
        description="mean (over the frames, then tagged), mean_max (mean + max over the frames, "
        "then tagged) or attention (each frame is tagged, then pooled by attention)",
    )
    heads: Int = Field(
        4, description="a whole number of attention heads, 1 or more (with attention)", ge=1
    )
    dropout: Float = Field(
        0.0, description="a number from 0 to below 1: of what the last layer takes", ge=0, lt=1
    )
    drop_blocks: Float = Field(
        0.2,
        description="a number from 0 to below 1: how often training leaves out a block's own part "
        "of its sum, for the last block; it grows from 0 at the first",
        ge=0,
        lt=1,
    )
    norm: Literal["fixed", "batch"] = Field(
        "fixed",
        description="fixed (the input is normalized by mean and spread, as in the paper) or batch "
        "(by batch normalization, each bin by itself)",
    )
    mean: Float = Field(0.0, description="a number: the features' mean (with norm fixed)")
    spread: Float = Field(
        1.0,
        description="a number above 0: the features' standard deviation (with norm fixed)",
        gt=0,
    )


class Conv(nn.Module):
    """Convolution and batch normalization; of n frames or bins it makes ceil(n / stride).

    Zeros stand before and after a map, as many on both sides as may be and else one more after it
    ("same"). How many before depends on the size of the longest clip alone, so that a shorter
    one's frames meet the kernels alike whatever it is padded to.
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
        self.before = [self.missing(number) // 2 for number in size]

    def missing(self, number: int) -> int:
        """Return how many zeros go with so many frames or bins, before and after."""
        return max(0, (math.ceil(number / self.stride) - 1) * self.stride + self.kernel - number)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (batch, channels, frames, bins); the mask, (batch, frames), goes along."""
        if self.kernel > 1:
            sides = []
            for number, before in zip(x.shape[:1:-1], self.before[::-1], strict=True):
                sides += [before, self.missing(number) - before]
            x = functional.pad(x, sides)
        if mask is not None:
            mask = mask[:, :: self.stride]
        return self.norm(self.conv(x), mask), mask


class Block(nn.Module):
    """An inverted bottleneck: more channels, one filter for each, a gate for each, then fewer."""

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
        inside = channels_in * stage.expansion
        self.expand = Conv(channels_in, inside, 1) if stage.expansion > 1 else None
        self.depthwise = Conv(inside, inside, stage.kernel, stride, inside, size)
        self.reduce = nn.Linear(inside, max(1, channels_in // SQUEEZE))
        self.excite = nn.Linear(max(1, channels_in // SQUEEZE), inside)
        self.project = Conv(inside, channels_out, 1)
        self.adds = not first
        self.drop = drop

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (batch, channels, frames, bins); the mask, (batch, frames), goes along."""
        h = x
        if self.expand is not None:
            h = functional.silu(self.expand(h, mask)[0])
        h, mask = self.depthwise(h, mask)
        h = functional.silu(h)
        gate = mean_over_frames(h, mask).mean(2)  # (batch, channels inside)
        gate = self.excite(functional.silu(self.reduce(gate))).sigmoid()
        h, _ = self.project(h * gate[:, :, None, None], mask)
        if not self.adds:
            return h, mask
        if self.training and self.drop:
            kept = torch.rand(len(h), 1, 1, 1, device=h.device) >= self.drop
            h = h * kept / (1 - self.drop)  # clip by clip
        return x + h, mask


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        self.mean, self.scale = settings.mean, 1 / settings.spread
        self.input_norm = bins_norm(settings.norm == "batch", spec)
        size = (spec.frames, spec.bins)
        channels = widened(STEM, settings.width)
        self.stem = Conv(spec.channels, channels, 3, 2, 1, size)
        size = halved(size)
        depths = [math.ceil(stage.blocks * settings.depth) for stage in STAGES]
        blocks: list[Block] = []
        for stage, depth in zip(STAGES, depths, strict=True):
            for place in range(depth):
                after = widened(stage.channels, settings.width)
                drop = settings.drop_blocks * len(blocks) / sum(depths)
                blocks.append(Block(channels, after, stage, place == 0, size, drop))
                channels = after
                if place == 0 and stage.stride == 2:
                    size = halved(size)
        self.blocks = nn.ModuleList(blocks)
        pooled = widened(TOP, settings.width)
        self.top = Conv(channels, pooled, 1)
        self.dropout = nn.Dropout(settings.dropout)
        self.pooling, self.heads = settings.pooling, 1
        if settings.pooling == "attention":
            self.heads = settings.heads
            self.attend = nn.Linear(pooled, labels * self.heads)
        # For each label its heads side by side.
        self.classify = nn.Linear(pooled, labels * self.heads)
        if self.heads > 1:
            # The paper's are free; these go through a softmax: they all begin alike, as there, and
            # the weighted mean of probabilities stays one.
            self.head_weights = nn.Parameter(torch.zeros(self.heads))
        self.last = ("classify", "attend", "head_weights")

    def normalized(self, x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
        """Return clips (batch, channels, frames, bins), normalized, zero where they are padded."""
        if self.input_norm is None:
            x = (x - self.mean) * self.scale
        return normalize_bins(self.input_norm, x, frames)

    def map_of(
        self, x: torch.Tensor, frames: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return EfficientNet's last map and where it is real.

        Returns:
            (batch, width, a 32nd of the frames, a 32nd of the bins), both rounded up, and a mask
            bool (batch, a 32nd of the frames): a clip's frames there are a 32nd of its own, rounded
            up, so that each of its own is in one. None where no clip is padded.
        """
        mask = frame_mask(frames, x.shape[2])  # (batch, frames)
        h, mask = self.stem(self.normalized(x, frames), mask)
        h = functional.silu(h)
        for block in self.blocks:
            h, mask = block(h, mask)
        h, mask = self.top(h, mask)
        return functional.silu(h), mask

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the map's mean over bins, pooled over frames: (batch, width).

        It is what the last layer classifies; with attention, which classifies each frame, the mean.
        """
        return self.pooled(*self.map_of(x, frames))

    def pooled(self, h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the mean over bins, then the mean, or mean + max, over frames: (batch, width)."""
        h = h.mean(3)  # (batch, width, frames)
        mean = mean_over_frames(h, mask)
        return mean + max_over_frames(h, mask) if self.pooling == "mean_max" else mean

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        h, mask = self.map_of(x, frames)
        if self.pooling != "attention":
            return self.classify(self.dropout(self.pooled(h, mask)))
        h = self.dropout(h.mean(3).transpose(1, 2))  # (batch, frames, width)

        # The mean of probabilities, in the log domain so that its logit is exact near 0 and 1. The
        # weights are sigmoids, as in the paper, made to sum to 1 in time.
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

    def adapted(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights of an EfficientNet of images by this network's names, in its layout.

        The first kernels of several channels become those of this network's (one: their sum, which
        is what the image model makes of three equal channels). What classified images is left out.

        Args:
            weights: the state of transformers' `EfficientNetModel`, or of its
                `EfficientNetForImageClassification` (such as `google/efficientnet-b2`'s), of the
                same width and depth; or of a network of this file, which stay as they are.
        """
        if "stem.conv.weight" in weights:
            return dict(weights)
        own = self.state_dict()
        found = {name: own[name] for name in own if name.startswith("input_norm.")}
        for name, tensor in weights.items():
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
            # An image's rows are bins: its kernels are bins x frames.
            tensor = tensor.transpose(2, 3) if tensor.dim() == 4 else tensor
            found[new] = tensor.flatten(1) if new in own and own[new].dim() == 2 else tensor
        return found


def widened(channels: int, width: float) -> int:
    """Return a layer's channels times `width`, as the nearest multiple of 8.

    It is the next where the nearest were below nine tenths.
    """
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * wanted else nearest


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """Return the frames and bins of a map after a convolution with a stride of 2."""
    return math.ceil(size[0] / 2), math.ceil(size[1] / 2)


# Names in files of transformers, and here.
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
