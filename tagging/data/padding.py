"""Clips of different lengths in one batch, and what keeps their padding from counting.

A network's `forward(x, frames=None)` takes x, float32 (batch, channels, most frames, bins), zero
after a clip's end, and `frames`, int64 (batch,), each clip's number of frames, 1 or more; None
where no clip is padded. In evaluation mode a clip's answer is the same whatever it is padded to.

Maps are (batch, channels, time, ...) here, masks bool (batch, time), True at real frames.
"""

import torch
from torch import nn
from torch.nn import functional


def frame_mask(frames: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """Return where the real frames are, bool (batch, length), or None where all of them are."""
    if frames is None:
        return None
    return torch.arange(length, device=frames.device) < frames.unsqueeze(1)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalization of a map by its real frames alone; the padding is zero after it.

    Zero is also what a convolution sees beyond the end of a clip that is not padded: with this
    between convolutions, activations that keep zero, and no stride in time, nothing else needs a
    mask but the pooling over time.
    """

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the normalized map, of the shape of `x`."""
        if mask is None:
            return super().forward(x.flatten(2)).view_as(x)
        by_frame = x.movedim(2, 1)  # (batch, time, channels, ...)
        real = by_frame[mask]  # (real frames, channels, ...)
        out = torch.zeros_like(by_frame)
        out[mask] = super().forward(real.reshape(*real.shape[:2], -1)).view_as(real)
        return out.movedim(1, 2)


def mean_over_frames(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean over a map's real frames: (batch, channels, ...)."""
    if mask is None:
        return x.mean(2)
    weights = mask.to(x.dtype) / mask.sum(1, keepdim=True)
    return torch.einsum("bt,bct...->bc...", weights, x)


def max_over_frames(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the highest over a map's real frames: (batch, channels, ...)."""
    if mask is None:
        return x.amax(2)
    padding = ~mask.reshape(mask.shape[0], 1, mask.shape[1], *[1] * (x.dim() - 3))
    return x.masked_fill(padding, -torch.inf).amax(2)


def last_frame(x: torch.Tensor, frames: torch.Tensor | None) -> torch.Tensor:
    """Return each clip's last real frame of a sequence (batch, time, channels)."""
    if frames is None:
        return x[:, -1]
    return x[torch.arange(len(x), device=x.device), frames - 1]


class Rows:
    """The real frames of a batch one below the other, for layers that are alike for every frame.

    Of such rows, (real frames, channels), linear layers and `nn.BatchNorm1d` are faster than of
    maps, and neither needs a mask.

    Args:
        frames: each clip's number of frames, int64 (batch,), or None where no clip is padded.
        length: the number of frames that the batch has room for.
    """

    def __init__(self, frames: torch.Tensor | None, length: int) -> None:
        self.mask = frame_mask(frames, length)
        self.length = length

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows (real frames, channels) of a sequence (batch, time, channels)."""
        return x.flatten(0, 1) if self.mask is None else x[self.mask]

    def give(self, rows: torch.Tensor, filling: float = 0.0) -> torch.Tensor:
        """Return rows as a sequence again, (batch, time, channels), with `filling` for padding."""
        if self.mask is None:
            return rows.unflatten(0, (-1, self.length))
        x = rows.new_full((*self.mask.shape, rows.shape[1]), filling)
        x[self.mask] = rows
        return x

    def dropout(self, rows: torch.Tensor, share: float, training: bool) -> torch.Tensor:
        """Drop a share of the channels, each for all frames of a clip, and scale up the others."""
        if not training or share == 0:
            return rows
        batch = len(rows) // self.length if self.mask is None else len(self.mask)
        kept = functional.dropout(rows.new_ones(batch, 1, rows.shape[1]), share)
        if self.mask is None:
            return (self.give(rows) * kept).flatten(0, 1)
        return rows * self.take(kept.expand(-1, self.length, -1))
