"""A transformer over overlapping patches of the clip as an image of frames x bins.

Gong, Chung, Glass (2021), "AST: audio spectrogram transformer", arXiv 2104.01778. Patches are
projected to tokens, each with a learned position; a class token goes along, and its last state is
classified. A distillation token, which image transformers trained by a teacher have (Touvron et
al., 2020, arXiv 2012.12877), goes along where wanted; the mean of both is classified then.

The paper's features are 128 log mel bins of windows of 25 ms every 10 ms, normalized to a mean of 0
and a spread of 0.5. The settings' defaults are its base model: of 1,024 frames it makes 12 x 101
patches. Only whole patches count: the frames after a clip's last whole patch are not heard.

It may begin with the weights of an image transformer, as the paper's do, or of one of its own for
clips of another length (`adapted`).
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
from tagging.data.maps import bins_norm, normalize_bins
from tagging.data.padding import frame_mask
from tagging.data.spec import InputSpec
from tagging.parameters import Float, Int, Section

SPREAD = 0.5  # of the normalized input, as in the paper
EPSILON = 1e-12  # of layer normalization, as in the published model
DEVIATION = 0.02  # of tokens and positions as they are drawn


class Settings(Section):
    """The network's settings (`models.<name>.network`); the defaults are the paper's."""

    patch: tuple[Int, Int] = Field(
        (16, 16),
        description="a patch's frames and bins, two whole numbers from 1 to the clip's frames and "
        "bins (the paper also has [2, 128] and [32, 32])",
    )
    stride: tuple[Int, Int] = Field(
        (10, 10),
        description="the frames and bins from a patch to the next, two whole numbers from 1 to "
        "the patch's; patches overlap where they are below the patch's",
    )
    width: Int = Field(
        768, description="a token's whole number of channels, a multiple of heads", ge=1
    )
    heads: Int = Field(12, description="a whole number of attention heads, 1 or more", ge=1)
    layers: Int = Field(12, description="a whole number of transformer layers, 1 or more", ge=1)
    dropout: Float = Field(0.0, description="a number from 0 to below 1", ge=0, lt=1)
    class_token: Literal["first", "last"] = Field(
        "first", description="first or last (where the class token stands among the patches)"
    )
    distillation: bool = Field(
        False,
        description="true (a distillation token stands after the class token, and the mean of "
        "both is classified, as in the published model) or false",
    )
    positions: Literal["interpolated", "cut"] = Field(
        "interpolated",
        description="interpolated (in time, to the length of a clip that is shorter than the "
        "longest) or cut (to those in the middle, as many as the clip has)",
    )
    first_positions: Literal["fitted", "drawn"] = Field(
        "fitted",
        description="fitted (those of the weights it begins with, interpolated or cut to its own "
        "patches) or drawn (anew, where it begins with weights)",
    )
    norm: Literal["fixed", "batch"] = Field(
        "fixed",
        description="fixed (the input is normalized by mean and spread, as in the paper) or batch "
        "(by batch normalization, each bin by itself)",
    )
    mean: Float = Field(0.0, description="a number: the features' mean (with norm fixed)")
    spread: Float = Field(
        SPREAD,
        description="a number above 0: the features' standard deviation (with norm fixed); as it "
        "is by default, and a mean of 0, the features are taken for normalized",
        gt=0,
    )


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        self.patch, self.stride = settings.patch, settings.stride
        for name, sizes, limits in (
            ("patch", self.patch, (spec.frames, spec.bins)),
            ("stride", self.stride, self.patch),
        ):
            if not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
                raise UserError(
                    f"network.{name} is {list(sizes)}; it takes two whole numbers, "
                    f"1 to {limits[0]} and 1 to {limits[1]}"
                )
        if settings.width % settings.heads:
            raise UserError(
                f"network.width is {settings.width}; it takes a multiple of network.heads, "
                f"{settings.heads}"
            )
        self.mean, self.scale = settings.mean, SPREAD / settings.spread
        self.input_norm = bins_norm(settings.norm == "batch", spec)
        self.project = nn.Conv2d(spec.channels, settings.width, self.patch, stride=self.stride)
        along = (spec.frames - self.patch[0]) // self.stride[0] + 1
        across = (spec.bins - self.patch[1]) // self.stride[1] + 1
        self.positions = nn.Parameter(torch.empty(along, across, settings.width))
        self.cut, self.fits = settings.positions == "cut", settings.first_positions == "fitted"
        # The class token, and the distillation token after it. A token and its position are one
        # vector: they are only ever added.
        self.tokens = nn.Parameter(torch.empty(1 + settings.distillation, settings.width))
        for parameter in (self.positions, self.tokens):
            nn.init.trunc_normal_(parameter, std=DEVIATION)
        self.tokens_first = settings.class_token == "first"
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                settings.width,
                settings.heads,
                4 * settings.width,
                settings.dropout,
                functional.gelu,
                EPSILON,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.width, EPSILON)
        self.classify = nn.Sequential(
            nn.LayerNorm(settings.width, EPSILON), nn.Linear(settings.width, labels)
        )

    def patches(self, frames: torch.Tensor) -> torch.Tensor:
        """Return how many patches along time lie whole in clips of so many frames, at least one.

        Args:
            frames: int64, of any shape.

        Returns:
            Likewise.
        """
        return (frames - self.patch[0]).clamp_min(0) // self.stride[0] + 1

    def positions_of(self, patches: torch.Tensor, most: int) -> torch.Tensor:
        """Return the positions for clips of so many patches along time.

        Args:
            patches: int64 (batch,).
            most: the number to return, the highest of `patches`; those beyond a clip's are of no
                meaning.

        Returns:
            (batch, most, patches across, width): the learned ones, linearly interpolated as by
            `torch.nn.functional.interpolate` with `align_corners=False`; or those in the middle,
            where the settings say so and there are enough.
        """
        learned = self.positions.shape[0]
        places = torch.arange(most, device=patches.device)
        patches = patches.unsqueeze(1)
        centres = (places + 0.5) * (learned / patches) - 0.5  # (batch, most)
        if self.cut:
            middle = places + (learned // 2 - patches // 2)
            centres = torch.where(patches <= learned, middle, centres)
        centres = centres.clamp(0, learned - 1)
        distances = centres.unsqueeze(2) - torch.arange(learned, device=patches.device)
        weights = (1 - distances.abs()).clamp_min(0)  # (batch, most, learned), sum to 1
        return torch.einsum("bml,law->bmaw", weights.to(self.positions.dtype), self.positions)

    def normalized(self, x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
        """Return clips (batch, channels, frames, bins), normalized, zero where they are padded."""
        if self.input_norm is None:
            x = (x - self.mean) * self.scale
        return normalize_bins(self.input_norm, x, frames)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return what is classified of each clip, (batch, width): the class token's last state.

        With a distillation token it is the mean of both.
        """
        batch, _, length, _ = x.shape
        h = self.normalized(x, frames)
        # A clip shorter than a patch has one: zeros fill it up.
        h = functional.pad(h, (0, 0, 0, max(0, self.patch[0] - length)))
        h = self.project(h).permute(0, 2, 3, 1)  # (batch, along, across, width)

        most, across = h.shape[1:3]
        lengths = torch.tensor([length], device=x.device) if frames is None else frames
        patches = self.patches(lengths)  # (batch) or (1)
        h = (h + self.positions_of(patches, most)).flatten(1, 2)  # (batch, patches, width)
        tokens = self.tokens.expand(batch, -1, -1)  # (batch, 1 or 2, width)
        number = tokens.shape[1]
        h = self.dropout(torch.cat([tokens, h] if self.tokens_first else [h, tokens], 1))

        ignored = None
        if frames is not None:
            ignored = ~frame_mask(patches, most)  # (batch, along)
            ignored = ignored.repeat_interleave(across, 1)  # (batch, patches)
            ignored = functional.pad(ignored, (number, 0) if self.tokens_first else (0, number))
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=ignored)  # (batch, tokens + patches, width)
        h = h[:, :number] if self.tokens_first else h[:, -number:]
        return self.norm(h).mean(1)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.embed(x, frames))

    def adapted(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return weights of a file by this network's names, in its layout, for its patches.

        Positions are interpolated bilinearly along an axis where the network has more, and those in
        the middle are kept where it has fewer; or they stay its own, where the settings say so. Of
        a network of this file that is so in time alone: its bins are what they are.

        Args:
            weights: of an image transformer, as `from_image_transformer` takes them, or of a
                network of this file.

        Raises:
            UserError: if the weights are of no such layout.
        """
        along, across = self.positions.shape[:2]
        if "patch_embed.proj.weight" in weights:
            found = from_image_transformer(weights, self)
        elif "positions" in weights:
            found = {**weights}
            across = found["positions"].shape[1]
        else:
            raise UserError(
                "the weights are of an unknown layout; it takes those of a network of ast, or "
                "timm's of a ViT or a DeiT"
            )
        own = self.positions.detach()
        found["positions"] = _fitted(found["positions"], (along, across)) if self.fits else own
        return found


# What the parts of a layer are called in files of image transformers (timm), and here.
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
    """Return the weights of an image transformer by the names and in the layout of `network`.

    The kernels of several channels become those of the network's (one: their sum, which is what
    the image transformer makes of three equal channels). What classified images is left out.

    Args:
        weights: the state of a ViT or a DeiT by timm's names (`blocks.0.attn.qkv.weight`,
            `pos_embed`, `cls_token`, ..).
        network: what they are for, with patches of the same shape.

    Returns:
        Every weight of the network but those that classify: the positions of a square of patches,
        as many as there are, and the network's own of `norm: batch`. Where the network has a
        distillation token and the image transformer none, the class token is for both.

    Raises:
        UserError: if the weights are not of this layout.
    """
    rest = {
        name: tensor
        for name, tensor in weights.items()
        if not re.match(r"(?:head|head_dist|pre_logits)\.", name)
    }
    found = {name: _taken(rest, name) for name in ("norm.weight", "norm.bias")}
    found["project.bias"] = _taken(rest, "patch_embed.proj.bias")
    kernels = _taken(rest, "patch_embed.proj.weight")
    tokens = [_taken(rest, "cls_token")[0]]
    if "dist_token" in rest:
        tokens.append(rest.pop("dist_token")[0])
    positions = _taken(rest, "pos_embed")[0]  # (tokens + patches, width)
    number = len(tokens)
    side = math.isqrt(len(positions) - number)
    if side**2 != len(positions) - number:
        raise UserError(
            f"pos_embed has {len(positions) - number} positions of patches; it takes a square"
        )
    own = torch.cat(tokens) + positions[:number]
    grid = positions[number:].unflatten(0, (side, side))  # (bins, frames, width)
    own_norm = {name: of for name, of in network.state_dict().items() if "input_norm" in name}
    return {
        **found,
        **own_norm,
        "project.weight": _kernels(kernels, network),
        "tokens": own[[min(place, number - 1) for place in range(len(network.tokens))]],
        "positions": grid.transpose(0, 1),
        **_layers(rest),
    }


def _taken(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise UserError(f"it has no weights {name}")
    return weights.pop(name)


def _layers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what is left of a file, the weights of its layers, as PyTorch's layers have them."""
    found = {}
    for name, tensor in weights.items():
        match = re.fullmatch(LAYER, name)
        if not match or match[2] not in PARTS:
            raise UserError(f"its weights {name} are of no part that the network has")
        found[f"layers.{match[1]}.{PARTS[match[2]]}{match[3]}"] = tensor
    return found


def _kernels(kernels: torch.Tensor, network: Network) -> torch.Tensor:
    """Return kernels (width, channels, bins, frames) as (width, network's channels, frames, bins).

    Where the channels are not as many, each of the network's takes its share of their sum.
    """
    channels = network.project.in_channels
    if kernels.shape[1] != channels:
        kernels = kernels.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    return kernels.transpose(2, 3)


def _fitted(grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return a grid of positions (frames, bins, width) with as many frames and bins as `size`.

    Along each axis: those in the middle where there are more, interpolated where there are fewer.
    """
    for axis, number in enumerate(size):
        has = grid.shape[axis]
        if number <= has:
            grid = grid.narrow(axis, has // 2 - number // 2, number)
    whole = functional.interpolate(grid.permute(2, 0, 1)[None], size=size, mode="bilinear")
    return whole[0].permute(1, 2, 0).contiguous()
