"""A transformer over overlapping patches of the clip as an image of frames x bins.

Gong, Chung, Glass (2021), "AST: audio spectrogram transformer", arXiv 2104.01778. Patches are
projected to tokens, each with a learned position; the last state of a class token is classified.
Optionally there is a distillation token (Touvron et al., 2020, arXiv 2012.12877), as in image
transformers trained with a teacher; then the mean of both states is classified.

The paper's features are 128 log-mel bins of windows of 25 ms every 10 ms, normalized to mean 0 and
standard deviation 0.5. The defaults of the settings are its base model: 1,024 frames are 12 x 101
patches. Frames after the last complete patch of a clip are ignored.

The network may start from the weights of an image transformer, as the paper's do, or of this
architecture for clips of another length (`adapt_weights`).
"""

import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Float, Int, Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.padding import MaskedBatchNorm, frame_mask, normalize_bins

SPREAD = 0.5  # standard deviation of the normalized input, as in the paper
EPS = 1e-12  # of layer normalization, as in the published model
INIT_STD = 0.02  # of tokens and positions


class Settings(Section):
    """The network's settings (`models.<name>.network`); the defaults are the paper's."""

    patch: tuple[Int, Int] = (16, 16)  # frames, bins; the paper also has [2, 128] and [32, 32]
    stride: tuple[Int, Int] = (10, 10)  # frames, bins; patches overlap where it is below `patch`
    width: Int = Field(768, ge=1)  # channels of each token, a multiple of heads
    heads: Int = Field(12, ge=1)
    layers: Int = Field(12, ge=1)
    dropout: Float = Field(0.0, ge=0, lt=1)
    class_token: Literal["first", "last"] = "first"  # its position among the patches
    distillation: bool = False  # a distillation token after the class token, as published
    # Positions in time for clips shorter than the longest: interpolated, or the middle ones.
    positions: Literal["interpolated", "cut"] = "interpolated"
    # Positions of pretrained weights: fitted to this network's patches, or replaced by random ones.
    first_positions: Literal["fitted", "drawn"] = "fitted"
    # Of the input: fixed (by mean and spread) or batch (batch normalization of each bin).
    norm: Literal["fixed", "batch"] = "fixed"
    mean: Float = 0.0  # of the features, with norm fixed
    # Standard deviation of the features, with norm fixed; the default leaves them unchanged.
    spread: Float = Field(SPREAD, gt=0)


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if patches do not fit the clips, strides the patches, or heads the width.
        """
        super().__init__()
        self.patch, self.stride = settings.patch, settings.stride
        for name, sizes, limits in (
            ("patch", self.patch, (spec.frames, spec.bins)),
            ("stride", self.stride, self.patch),
        ):
            if not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
                raise UserError(
                    f"network.{name} must be 1 to {limits[0]} frames and 1 to {limits[1]} bins, "
                    f"got {list(sizes)}"
                )
        if settings.width % settings.heads:
            raise UserError(
                f"network.width must be a multiple of network.heads, {settings.heads}, got "
                f"{settings.width}"
            )
        self.mean, self.scale = settings.mean, SPREAD / settings.spread
        batch_norm = settings.norm == "batch"
        self.input_norm = MaskedBatchNorm(spec.channels * spec.bins) if batch_norm else None
        self.project = nn.Conv2d(spec.channels, settings.width, self.patch, stride=self.stride)
        rows = (spec.frames - self.patch[0]) // self.stride[0] + 1
        columns = (spec.bins - self.patch[1]) // self.stride[1] + 1
        self.positions = nn.Parameter(torch.empty(rows, columns, settings.width))
        self.cut_positions = settings.positions == "cut"
        self.fit_positions = settings.first_positions == "fitted"
        # The class token, then the distillation token, each as its sum with its position.
        self.tokens = nn.Parameter(torch.empty(1 + settings.distillation, settings.width))
        for parameter in (self.positions, self.tokens):
            nn.init.trunc_normal_(parameter, std=INIT_STD)
        self.tokens_first = settings.class_token == "first"
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                settings.width,
                settings.heads,
                4 * settings.width,
                settings.dropout,
                functional.gelu,
                EPS,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.width, EPS)
        self.classify = nn.Sequential(
            nn.LayerNorm(settings.width, EPS), nn.Linear(settings.width, labels)
        )

    def count_patches(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the number of complete patches along time, at least 1.

        Args:
            frames: the number of frames of clips, int64 of any shape.

        Returns:
            int64 of the same shape.
        """
        return (frames - self.patch[0]).clamp_min(0) // self.stride[0] + 1

    def interpolate_positions(self, patches: torch.Tensor, length: int) -> torch.Tensor:
        """Return the positions for clips of different lengths.

        Args:
            patches: the number of patches along time of each clip, int64 (batch,).
            length: the number of positions to return, the maximum of `patches`; positions beyond
                a clip's own patches are meaningless.

        Returns:
            (batch, length, patches across, width): the learned positions, linearly interpolated as
            `torch.nn.functional.interpolate` does with `align_corners=False`. With the setting
            `cut`, clips with fewer patches get the middle positions instead.
        """
        learned = self.positions.shape[0]
        indices = torch.arange(length, device=patches.device)
        patches = patches.unsqueeze(1)
        centres = (indices + 0.5) * (learned / patches) - 0.5  # (batch, length)
        if self.cut_positions:
            middle = indices + (learned // 2 - patches // 2)
            centres = torch.where(patches <= learned, middle, centres)
        centres = centres.clamp(0, learned - 1)
        distances = centres.unsqueeze(2) - torch.arange(learned, device=patches.device)
        weights = (1 - distances.abs()).clamp_min(0)  # (batch, length, learned), sum to 1
        return torch.einsum("bml,law->bmaw", weights.to(self.positions.dtype), self.positions)

    def normalize_input(self, x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
        """Return the normalized input, zero in the padding: (batch, channels, frames, bins)."""
        if self.input_norm is None:
            x = (x - self.mean) * self.scale
        return normalize_bins(self.input_norm, x, frames)

    def project_patches(self, x: torch.Tensor) -> torch.Tensor:
        """Project (batch, channels, frames, bins) to tokens (batch, rows, columns, width)."""
        if self.stride != self.patch:
            return self.project(x).permute(0, 2, 3, 1)
        # A convolution over patches that do not overlap is a linear layer: on a CPU, PyTorch's
        # convolution takes up to 60 times as long (patches of 2 x 64).
        for axis, size in enumerate(self.patch, start=2):
            x = x.unfold(axis, size, size)
        x = x.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (batch, rows, columns, values of a patch)
        return functional.linear(x, self.project.weight.flatten(1), self.project.bias)

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last state of the class token, (batch, width).

        With a distillation token, return the mean of both.
        """
        batch, _, length, _ = x.shape
        h = self.normalize_input(x, frames)
        # A clip shorter than a patch is zero-padded to one.
        h = functional.pad(h, (0, 0, 0, max(0, self.patch[0] - length)))
        h = self.project_patches(h)  # (batch, rows, columns, width)
        rows, columns = h.shape[1:3]
        lengths = torch.tensor([length], device=x.device) if frames is None else frames
        patches = self.count_patches(lengths)  # (batch) or (1)
        h = (h + self.interpolate_positions(patches, rows)).flatten(1, 2)  # (batch, patches, width)
        tokens = self.tokens.expand(batch, -1, -1)  # (batch, 1 or 2, width)
        number = tokens.shape[1]
        h = self.dropout(torch.cat([tokens, h] if self.tokens_first else [h, tokens], 1))

        padding_mask = None
        if (real := frame_mask(None if frames is None else patches, rows)) is not None:
            padding_mask = ~real.repeat_interleave(columns, 1)  # (batch, patches)
            sides = (number, 0) if self.tokens_first else (0, number)
            padding_mask = functional.pad(padding_mask, sides)
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=padding_mask)  # (batch, tokens + patches, width)
        h = h[:, :number] if self.tokens_first else h[:, -number:]
        return self.norm(h).mean(1)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.forward_features(x, frames))

    def adapt_weights(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return pretrained weights under the names and in the shapes of this network.

        Positions are interpolated bilinearly along an axis where the network has more patches, and
        cut to the middle where it has fewer (in time only, for this architecture); with
        `first_positions: drawn`, the network keeps its own.

        Args:
            tensors: the state dict of an image transformer, as for `from_image_transformer`, or of
                this architecture.

        Raises:
            UserError: if the layout of the weights is not supported.
        """
        rows, columns = self.positions.shape[:2]
        if "patch_embed.proj.weight" in tensors:
            adapted = from_image_transformer(tensors, self)
        elif "positions" in tensors:
            adapted = {**tensors}
            columns = adapted["positions"].shape[1]
        else:
            raise UserError(
                "the layout of the weights is unknown; supported are the architecture ast, and "
                "timm's ViT and DeiT"
            )
        own = self.positions.detach()
        adapted["positions"] = (
            _resize_positions(adapted["positions"], (rows, columns)) if self.fit_positions else own
        )
        return adapted


# Names of the parts of a layer in image transformers (timm), and in this network.
LAYER = r"blocks\.(\d+)\.(.+)\.(weight|bias)"
PARTS = {
    "norm1": "norm1.",
    "attn.qkv": "self_attn.in_proj_",
    "attn.proj": "self_attn.out_proj.",
    "norm2": "norm2.",
    "mlp.fc1": "linear1.",
    "mlp.fc2": "linear2.",
}


def from_image_transformer(
    weights: Mapping[str, torch.Tensor], network: Network
) -> dict[str, torch.Tensor]:
    """Return the weights of an image transformer under the names and in the shapes of `network`.

    Patch kernels with several channels are adapted to the network's channels: each becomes an equal
    share of their sum, as if the image had equal channels. The image classifier is dropped.

    Args:
        weights: the state dict of a ViT or a DeiT with timm's names (`blocks.0.attn.qkv.weight`,
            `pos_embed`, `cls_token`, ..).
        network: the target, with patches of the same shape.

    Returns:
        All weights of the network but the classifier's. Positions are the image's square grid of
        patches. With `norm: batch`, the input normalization is the network's own. A distillation
        token that the image transformer lacks is a copy of its class token.

    Raises:
        UserError: if the layout of the weights is not supported.
    """
    remaining = {
        name: tensor
        for name, tensor in weights.items()
        if not re.match(r"(?:head|head_dist|pre_logits)\.", name)
    }
    adapted = {name: _pop_weight(remaining, name) for name in ("norm.weight", "norm.bias")}
    adapted["project.bias"] = _pop_weight(remaining, "patch_embed.proj.bias")
    kernels = _pop_weight(remaining, "patch_embed.proj.weight")
    tokens = [_pop_weight(remaining, "cls_token")[0]]
    if "dist_token" in remaining:
        tokens.append(remaining.pop("dist_token")[0])
    positions = _pop_weight(remaining, "pos_embed")[0]  # (tokens + patches, width)
    number = len(tokens)
    patches = len(positions) - number
    side = math.isqrt(patches)
    if side**2 != patches:
        raise UserError(f"pos_embed must have a square number of patches, got {patches}")
    token_weights = torch.cat(tokens) + positions[:number]
    grid = positions[number:].unflatten(0, (side, side))  # (bins, frames, width)
    input_norm = {
        name: tensor for name, tensor in network.state_dict().items() if "input_norm" in name
    }
    return {
        **adapted,
        **input_norm,
        "project.weight": _adapt_kernels(kernels, network),
        "tokens": token_weights[[min(k, number - 1) for k in range(len(network.tokens))]],
        "positions": grid.transpose(0, 1),
        **_rename_layers(remaining),
    }


def _pop_weight(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise UserError(f"it has no weights {name}")
    return weights.pop(name)


def _rename_layers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the transformer layers under PyTorch's names."""
    renamed = {}
    for name, tensor in weights.items():
        match = re.fullmatch(LAYER, name)
        if not match or match[2] not in PARTS:
            raise UserError(f"it has weights {name}, the network has none")
        renamed[f"layers.{match[1]}.{PARTS[match[2]]}{match[3]}"] = tensor
    return renamed


def _adapt_kernels(kernels: torch.Tensor, network: Network) -> torch.Tensor:
    """Return kernels (width, channels, bins, frames) as (width, network's channels, frames, bins).

    If the numbers of channels differ, each channel of the result is an equal share of the sum.
    """
    channels = network.project.in_channels
    if kernels.shape[1] != channels:
        kernels = kernels.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    return kernels.transpose(2, 3)


def _resize_positions(grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return a grid of positions (frames, bins, width) with `size` frames and bins.

    Along each axis, the middle is cut out where the grid is larger, and interpolated where it is
    smaller.
    """
    for axis, wanted in enumerate(size):
        length = grid.shape[axis]
        if wanted <= length:
            grid = grid.narrow(axis, length // 2 - wanted // 2, wanted)
    resized = functional.interpolate(grid.permute(2, 0, 1)[None], size=size, mode="bilinear")
    return resized[0].permute(1, 2, 0).contiguous()
