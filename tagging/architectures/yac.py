"""YoutubeAudioClassifier: the published study's CNN of some 3,200 parameters.

Two branches over ten seconds of 128-dimensional VGGish embeddings: *intra* folds a second's 128
dimensions to 16 x 8 and takes the ten seconds for channels; *inter* takes seconds x dimensions for
one image. The layer sizes are the study's; where its source is illegible, a comment says so.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from tagging.padding import require_frames
from tagging.parameters import Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    head: Literal["logits", "softmax"] = Field(
        description="logits (raw outputs) or softmax (what the study's printed tables imply)"
    )


def conv(channels_in: int, channels_out: int, kernel: int | tuple[int, int], **keywords):
    """Convolution, batch normalization and ReLU: the study's building block."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, **keywords),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, 10, 128), to scores (batch, labels)."""

    any_length = False  # clips shorter than the others are not for this network

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        if seconds != 10:
            raise ValueError(f"yac takes clips of 10 seconds, not {seconds}")
        self.intra_init = conv(10, 5, 3, padding=1)
        self.intra_stride = conv(5, 2, 3, stride=2, padding=1)
        self.intra_tall = nn.Sequential(
            conv(5, 5, 3, dilation=(2, 1)), conv(5, 2, 3, dilation=(2, 1))
        )
        # Its kernel is illegible in the source; (9, 3) is what fits without padding.
        self.intra_wide = conv(5, 2, (9, 3), dilation=(1, 2))
        self.inter_conv = nn.Sequential(
            conv(1, 4, (3, 5), stride=(1, 2)), conv(4, 8, (3, 8), dilation=(1, 3))
        )
        # A kernel width of 6, 7 or 8 gives the same shape; the source does not show which.
        self.inter_max = nn.Sequential(
            nn.MaxPool2d((2, 8), stride=(2, 3), padding=(1, 0)), conv(1, 8, 3, padding=1)
        )
        self.inter_down = nn.Sequential(
            conv(8, 4, 3, stride=(1, 2)), conv(4, 2, (3, 5), dilation=(1, 3), padding=(1, 0))
        )
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(64, labels)
        self.head = settings.head

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return raw scores, or probabilities that sum to 1 with the softmax head.

        Raises:
            ValueError: if clips have other lengths than 10 seconds (`frames`, where some do).
        """
        require_frames(x, frames, 10)
        intra = self.intra_init(x.unflatten(2, (16, 8)))  # (batch, 5, 16, 8)
        intra = (
            self.intra_stride(intra) + self.intra_tall(intra) + self.intra_wide(intra)
        )  # (batch, 2, 8, 4)
        inter = x.unsqueeze(1)  # (batch, 1, 10, 128)
        inter = self.inter_conv(inter) + self.inter_max(inter)  # (batch, 8, 6, 41)
        inter = self.inter_down(inter).transpose(2, 3)  # (batch, 2, 8, 4)
        scores = self.linear(self.norm(intra + inter).flatten(1))  # (batch, labels)
        return scores.softmax(1) if self.head == "softmax" else scores
