"""A transformer over overlapping patches of the clip as an image of seconds x dimensions.

Gong, Chung, Glass (2021), "AST: audio spectrogram transformer", arXiv 2104.01778. Patches are
projected to tokens, each with a learned position; a class token goes along and its last state is
classified. No convolution, no pretraining here. The positions are learned for clips of `seconds`;
a clip of another length has them interpolated along time to its own length.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.padding import MaskedBatchNorm, frame_mask
from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    patch: tuple[Int, Int] = Field(
        description="a patch's seconds and dimensions, two whole numbers from 1 to 10 and to 128"
    )
    stride: tuple[Int, Int] = Field(
        description="the seconds and dimensions from a patch to the next, two whole numbers of 1 "
        "or more; patches overlap where they are below the patch's"
    )
    width: Int = Field(description="a token's whole number of channels, a multiple of heads", ge=1)
    heads: Int = Field(description="a whole number of attention heads, 1 or more", ge=1)
    layers: Int = Field(description="a whole number of transformer layers, 1 or more", ge=1)
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)
    class_token: Literal["first", "last"] = Field(
        description="first or last (where the class token stands among the patches)"
    )


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        self.patch, self.stride = settings.patch, settings.stride
        for name, sizes, limits in (
            ("patch", self.patch, (seconds, 128)),
            ("stride", self.stride, self.patch),
        ):
            if not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
                raise ValueError(
                    f"network.{name} is {list(sizes)}; it takes two whole numbers, "
                    f"1 to {limits[0]} and 1 to {limits[1]}"
                )
        if settings.width % settings.heads:
            raise ValueError(
                f"network.width is {settings.width}; it takes a multiple of network.heads, "
                f"{settings.heads}"
            )
        across = (128 - self.patch[1]) // self.stride[1] + 1
        along = int(self.patches(torch.tensor(seconds)))
        self.norm = MaskedBatchNorm(128)
        self.embed = nn.Conv2d(1, settings.width, self.patch, stride=self.stride)
        self.positions = nn.Parameter(torch.empty(along, across, settings.width))
        # The class token and its position are one vector: they are only ever added.
        self.class_token = nn.Parameter(torch.empty(settings.width))
        for parameter in (self.positions, self.class_token):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                settings.width,
                settings.heads,
                4 * settings.width,
                settings.dropout,
                functional.gelu,
                batch_first=True,
                norm_first=True,
            )
            for _ in range(settings.layers)
        )
        self.classify = nn.Sequential(
            nn.LayerNorm(settings.width), nn.Linear(settings.width, labels)
        )
        self.token_first = settings.class_token == "first"

    def patches(self, frames: torch.Tensor) -> torch.Tensor:
        """Return how many patches along time cover clips of so many frames, int64 as `frames`."""
        beyond_first = (frames - self.patch[0]).clamp_min(0)
        return (beyond_first + self.stride[0] - 1) // self.stride[0] + 1

    def positions_of(self, patches: torch.Tensor, most: int) -> torch.Tensor:
        """Return the positions for clips of so many patches along time.

        Args:
            patches: int64 (batch,).
            most: the number to return, the highest of `patches`; those beyond a clip's are of no
                meaning.

        Returns:
            (batch, most, patches across, width): the learned ones, linearly interpolated as by
            `torch.nn.functional.interpolate` with `align_corners=False`.
        """
        learned = self.positions.shape[0]
        places = torch.arange(most, device=patches.device)
        centres = (places + 0.5) * (learned / patches.unsqueeze(1)) - 0.5  # (batch, most)
        centres = centres.clamp(0, learned - 1)
        distances = centres.unsqueeze(2) - torch.arange(learned, device=patches.device)
        weights = (1 - distances.abs()).clamp_min(0)  # (batch, most, learned), sum to 1
        return torch.einsum("bml,law->bmaw", weights.to(self.positions.dtype), self.positions)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        batch, length, _ = x.shape
        mask = frame_mask(frames, length)  # (batch, seconds)
        h = self.norm(x.transpose(1, 2), mask).transpose(1, 2)  # (batch, seconds, 128)
        most = int(self.patches(torch.tensor(length)))
        # Zeros at the end, so that the last patch is whole.
        missing = (most - 1) * self.stride[0] + self.patch[0] - length
        h = functional.pad(h, (0, 0, 0, missing)).unsqueeze(1)  # (batch, 1, seconds, 128)
        h = self.embed(h).permute(0, 2, 3, 1)  # (batch, along, across, width)

        lengths = torch.tensor([length], device=x.device) if frames is None else frames
        patches = self.patches(lengths)  # (batch) or (1)
        h = (h + self.positions_of(patches, most)).flatten(1, 2)  # (batch, patches, width)
        token = self.class_token.expand(batch, 1, -1)  # (batch, 1, width)
        h = self.dropout(torch.cat([token, h] if self.token_first else [h, token], 1))

        ignored = None
        if mask is not None:
            ignored = ~frame_mask(patches, most)  # (batch, along)
            ignored = ignored.repeat_interleave(self.positions.shape[1], 1)  # (batch, patches)
            ignored = functional.pad(ignored, (1, 0) if self.token_first else (0, 1))
        for layer in self.layers:
            h = layer(h, src_key_padding_mask=ignored)  # (batch, 1 + patches, width)
        return self.classify(h[:, 0 if self.token_first else -1])  # (batch, labels)
