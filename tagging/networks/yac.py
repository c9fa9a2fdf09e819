"""YoutubeAudioClassifier: the published study's CNN with about 3,200 parameters.

Two branches read ten frames of 128-dimensional VGGish embeddings. *intra* folds the 128 bins of
each frame to 16 x 8 and uses the ten frames as channels; *inter* reads frames x bins as one image.
The layer sizes are the study's; a comment marks where its source is illegible. For clips of other
sizes, average pooling brings maps to the study's sizes where branches are added.
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork

FOLD = 8  # bins in a row of the intra branch's image
# The smallest clip: the dilated convolutions of intra need 9 rows of bins.
MIN_FRAMES, MIN_BINS = 5, 9 * FOLD
INTRA, INTER = (8, 4), (6, 41)  # the study's map sizes where branches are added


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    head: Literal["logits", "softmax"]  # the study's printed tables imply softmax


def conv_block(
    channels_in: int, channels_out: int, kernel: int | tuple[int, int], **keywords: Any
) -> nn.Sequential:
    """Return convolution, batch normalization and ReLU, the study's building block."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, **keywords),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def resize_map(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return maps of `size`, by average pooling where they differ."""
    return x if x.shape[2:] == size else functional.adaptive_avg_pool2d(x, size)


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits or probabilities (batch, labels).

    `activation` is `none` with the softmax head, whatever the loss: the outputs already are
    probabilities.
    """

    supports_variable_length = False

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if the clips are too small or cannot be folded.
        """
        super().__init__()
        if spec.frames < MIN_FRAMES or spec.bins < MIN_BINS or spec.bins % FOLD:
            raise UserError(
                f"clips for the architecture yac must have at least {MIN_FRAMES} frames, and at "
                f"least {MIN_BINS} bins, a multiple of {FOLD}, got {spec.frames} frames x "
                f"{spec.bins} bins"
            )
        self.frames = spec.frames
        self.intra_init = conv_block(spec.channels * spec.frames, 5, 3, padding=1)
        self.intra_stride = conv_block(5, 2, 3, stride=2, padding=1)
        self.intra_tall = nn.Sequential(
            conv_block(5, 5, 3, dilation=(2, 1)), conv_block(5, 2, 3, dilation=(2, 1))
        )
        # The kernel is illegible in the source; (9, 3) is the one that fits without padding.
        self.intra_wide = conv_block(5, 2, (9, 3), dilation=(1, 2))
        self.inter_conv = nn.Sequential(
            conv_block(spec.channels, 4, (3, 5), stride=(1, 2)),
            conv_block(4, 8, (3, 8), dilation=(1, 3)),
        )
        # Kernel widths of 6, 7 and 8 give the same shape; the source does not show which it was.
        self.inter_max = nn.Sequential(
            nn.MaxPool2d((2, 8), stride=(2, 3), padding=(1, 0)),
            conv_block(spec.channels, 8, 3, padding=1),
        )
        self.inter_down = nn.Sequential(
            conv_block(8, 4, 3, stride=(1, 2)),
            conv_block(4, 2, (3, 5), dilation=(1, 3), padding=(1, 0)),
        )
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2 * INTRA[0] * INTRA[1], labels)
        self.head = settings.head
        if self.head == "softmax":
            self.activation = "none"

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits or, with the softmax head, probabilities that sum to 1: (batch, labels).

        Raises:
            ValueError: if the length of a clip is not `spec.frames`.
        """
        logits = self.linear(self.forward_features(x, frames))
        return logits.softmax(1) if self.head == "softmax" else logits

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the normalized sum of both branches, (batch, 64).

        Raises:
            ValueError: if the length of a clip is not `spec.frames`.
        """
        if x.shape[2] != self.frames or (frames is not None and (frames != self.frames).any()):
            raise ValueError(f"all clips must have {self.frames} frames")
        h = self.intra_init(x.flatten(1, 2).unflatten(2, (-1, FOLD)))  # (batch, 5, 16, 8)
        branches = (self.intra_stride, self.intra_tall, self.intra_wide)
        intra = sum(resize_map(branch(h), INTRA) for branch in branches)  # (batch, 2, 8, 4)
        inter = resize_map(self.inter_conv(x), INTER) + resize_map(self.inter_max(x), INTER)
        inter = self.inter_down(inter).transpose(2, 3)  # (batch, 8, 6, 41) to (batch, 2, 8, 4)
        return self.norm(intra + inter).flatten(1)
