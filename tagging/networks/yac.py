"""YoutubeAudioClassifier: the published study's CNN of some 3,200 parameters.

Two branches over ten frames of 128-dimensional VGGish embeddings: *intra* folds a frame's 128 bins
to 16 x 8 and takes the ten frames for channels; *inter* takes frames x bins for one image. The
layer sizes are the study's; where its source is illegible, a comment says so. With other sizes of
clips, average pooling brings maps to the study's sizes where branches meet.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.parameters import Section

FOLD = 8  # bins in a row of the intra branch's image
# The fewest that leave a row and a column: intra's dilated convolutions take 9 rows of bins.
FRAMES, BINS = 5, 9 * FOLD
INTRA, INTER = (8, 4), (6, 41)  # the study's maps where branches meet


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


def fitted(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return maps of `size`, by average pooling; those that have it stay as they are."""
    return x if x.shape[2:] == size else functional.adaptive_avg_pool2d(x, size)


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to scores (batch, labels).

    Attributes:
        activation: only there with the softmax head: "none", whatever the loss says, for the
            scores are probabilities already.
    """

    any_length = False  # clips shorter than the others are not for this network

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        if spec.frames < FRAMES or spec.bins < BINS or spec.bins % FOLD:
            raise UserError(
                f"yac is given clips of {spec.frames} frames x {spec.bins} bins; "
                f"it takes {FRAMES} frames or more, and a multiple of {FOLD} bins, {BINS} or more"
            )
        self.frames = spec.frames
        self.intra_init = conv(spec.channels * spec.frames, 5, 3, padding=1)
        self.intra_stride = conv(5, 2, 3, stride=2, padding=1)
        self.intra_tall = nn.Sequential(
            conv(5, 5, 3, dilation=(2, 1)), conv(5, 2, 3, dilation=(2, 1))
        )
        # Its kernel is illegible in the source; (9, 3) is what fits without padding.
        self.intra_wide = conv(5, 2, (9, 3), dilation=(1, 2))
        self.inter_conv = nn.Sequential(
            conv(spec.channels, 4, (3, 5), stride=(1, 2)), conv(4, 8, (3, 8), dilation=(1, 3))
        )
        # A kernel width of 6, 7 or 8 gives the same shape; the source does not show which.
        self.inter_max = nn.Sequential(
            nn.MaxPool2d((2, 8), stride=(2, 3), padding=(1, 0)),
            conv(spec.channels, 8, 3, padding=1),
        )
        self.inter_down = nn.Sequential(
            conv(8, 4, 3, stride=(1, 2)), conv(4, 2, (3, 5), dilation=(1, 3), padding=(1, 0))
        )
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2 * INTRA[0] * INTRA[1], labels)
        self.head = settings.head
        if self.head == "softmax":
            self.activation = "none"

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return raw scores, or probabilities that sum to 1 with the softmax head.

        Raises:
            ValueError: if clips have other lengths than the network's (`frames`, where some do).
        """
        scores = self.linear(self.embed(x, frames))  # (batch, labels)
        return scores.softmax(1) if self.head == "softmax" else scores

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the sum of both branches, normalized: float32 (batch, 64).

        Raises:
            ValueError: as `forward` does.
        """
        if x.shape[2] != self.frames or (frames is not None and (frames != self.frames).any()):
            raise ValueError(f"the network takes clips of {self.frames} frames only")
        intra = self.intra_init(x.flatten(1, 2).unflatten(2, (-1, FOLD)))  # (batch, 5, 16, 8)
        branches = (self.intra_stride, self.intra_tall, self.intra_wide)
        intra = sum(fitted(branch(intra), INTRA) for branch in branches)  # (batch, 2, 8, 4)
        inter = fitted(self.inter_conv(x), INTER) + fitted(self.inter_max(x), INTER)
        inter = self.inter_down(inter).transpose(2, 3)  # (batch, 8, 6, 41) to (batch, 2, 8, 4)
        return self.norm(intra + inter).flatten(1)
