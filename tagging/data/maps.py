"""Maps of convolutions over clips as images, float32 (batch, channels, frames, bins).

`frames` is each clip's number of real frames, int64 (batch,), or None where no clip is padded.
"""

import torch
from torch import nn

from tagging.data.padding import frame_mask


def shorter(frames: torch.Tensor | None, factor: int) -> torch.Tensor | None:
    """Return how many frames are real after a stride: one begun is one."""
    return None if frames is None else (frames + factor - 1) // factor


def filled(x: torch.Tensor, frames: torch.Tensor | None, value: float = 0.0) -> torch.Tensor:
    """Return a map that has `value` after each clip's end."""
    mask = frame_mask(frames, x.shape[2])
    return x if mask is None else x.masked_fill(~mask[:, None, :, None], value)


def normalize_bins(
    norm: nn.Module | None, x: torch.Tensor, frames: torch.Tensor | None
) -> torch.Tensor:
    """Return a map each of whose bins is normalized by itself; zero after each clip's end.

    Args:
        norm: a `MaskedBatchNorm` of channels * bins, or None for the map as it is.
        x: the map.
        frames: of its clips.
    """
    if norm is None:
        return filled(x, frames)
    by_bin = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
    by_bin = norm(by_bin, frame_mask(frames, x.shape[2]))
    return by_bin.unflatten(1, (x.shape[1], -1)).transpose(2, 3)
