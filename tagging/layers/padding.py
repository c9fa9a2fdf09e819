"""Layers and pooling that ignore the padding of clips of different lengths.

`frames` is the number of frames of each clip, int64 (batch,), or None if no clip is padded. Maps
are (batch, channels, time, ...), masks bool (batch, time), True at the clip's own frames.
"""

import torch
from torch import nn
from torch.nn import functional


def frame_mask(frames: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """Return the padding mask, bool (batch, length), True at the clip's own frames."""
    if frames is None:
        return None
    return torch.arange(length, device=frames.device) < frames.unsqueeze(1)


def mask_padding(x: torch.Tensor, frames: torch.Tensor | None, value: float = 0.0) -> torch.Tensor:
    """Set a map (batch, channels, frames, bins) to `value` after the end of each clip."""
    mask = frame_mask(frames, x.shape[2])
    return x if mask is None else x.masked_fill(~mask[:, None, :, None], value)


def downsampled_lengths(frames: torch.Tensor | None, factor: int) -> torch.Tensor | None:
    """Return the number of frames of each clip after a stride of `factor`, rounded up."""
    return None if frames is None else (frames + factor - 1) // factor


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalization with the statistics of real frames only; padding is zero afterwards.

    A convolution also sees zeros beyond the end of a clip without padding. Between convolutions of
    stride 1 in time, with activations that map 0 to 0, no other layer but the pooling over time
    therefore needs a mask.
    """

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the normalized map, in the shape of `x`."""
        if mask is None:
            return super().forward(x.flatten(2)).view_as(x)
        by_frame = x.movedim(2, 1)  # (batch, time, channels, ...)
        real = by_frame[mask]  # (real frames, channels, ...)
        out = torch.zeros_like(by_frame)
        out[mask] = super().forward(real.reshape(*real.shape[:2], -1)).view_as(real)
        return out.movedim(1, 2)


def normalize_bins(
    norm: nn.Module | None, x: torch.Tensor, frames: torch.Tensor | None
) -> torch.Tensor:
    """Normalize each bin of each channel separately, and set the padding to zero.

    Args:
        norm: a `MaskedBatchNorm` of channels * bins, or None to only set the padding to zero.
        x: a map (batch, channels, frames, bins).
        frames: the number of frames of each clip.
    """
    if norm is None:
        return mask_padding(x, frames)
    by_bin = x.transpose(2, 3).flatten(1, 2)  # (batch, channels * bins, frames)
    by_bin = norm(by_bin, frame_mask(frames, x.shape[2]))
    return by_bin.unflatten(1, (x.shape[1], -1)).transpose(2, 3)


def mean_over_frames(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean over the real frames of a map: (batch, channels, ...)."""
    if mask is None:
        return x.mean(2)
    weights = mask.to(x.dtype) / mask.sum(1, keepdim=True)
    return torch.einsum("bt,bct...->bc...", weights, x)


def max_over_frames(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the maximum over the real frames of a map: (batch, channels, ...)."""
    if mask is None:
        return x.amax(2)
    padding = ~mask.reshape(mask.shape[0], 1, mask.shape[1], *[1] * (x.dim() - 3))
    return x.masked_fill(padding, -torch.inf).amax(2)


def last_frame(x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
    """Return the last real frame of each clip of a sequence (batch, time, channels)."""
    if frames is None:
        return x[:, -1]
    return x[torch.arange(len(x), device=x.device), frames - 1]


class PackedFrames:
    """Packs the real frames of a batch into rows, for layers that are shared by all frames.

    On rows, (real frames, channels), linear layers and `nn.BatchNorm1d` are faster than on maps and
    need no mask.

    Args:
        frames: the number of frames of each clip, int64 (batch,), or None if no clip is padded.
        length: the number of frames of the padded batch.
    """

    def __init__(self, frames: torch.Tensor | None, length: int) -> None:
        self.mask = frame_mask(frames, length)
        self.length = length

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows (real frames, channels) of a sequence (batch, time, channels)."""
        return x.flatten(0, 1) if self.mask is None else x[self.mask]

    def unpack(self, rows: torch.Tensor, padding_value: float = 0.0) -> torch.Tensor:
        """Return the padded sequence (batch, time, channels) of rows."""
        if self.mask is None:
            return rows.unflatten(0, (-1, self.length))
        x = rows.new_full((*self.mask.shape, rows.shape[1]), padding_value)
        x[self.mask] = rows
        return x

    def dropout(self, rows: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        """Drop channels of rows with probability `p`, each for all frames of a clip."""
        if not training or p == 0:
            return rows
        batch = len(rows) // self.length if self.mask is None else len(self.mask)
        scale = functional.dropout(rows.new_ones(batch, 1, rows.shape[1]), p)
        if self.mask is None:
            return (self.unpack(rows) * scale).flatten(0, 1)
        return rows * self.pack(scale.expand(-1, self.length, -1))
