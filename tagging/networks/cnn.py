"""3 x 3 convolutions over the clip as an image of frames x bins, then linear layers.

Hershey et al. (2017), "CNN architectures for large-scale audio classification", arXiv 1609.09430,
after Simonyan, Zisserman (2014), "Very deep convolutional networks for large-scale image
recognition", arXiv 1409.1556. Strides, max pooling, batch normalization, the slope of the ReLU and
the linear layers are settings. The last map is averaged over its frames and over bands of its bins,
or flattened. Pooling rounds sizes up: no frame is dropped, and the shortest clip keeps one.

With a softmax at its end, as a study of instruments prints it, a cross-entropy applies a second
softmax to the probabilities. Its loss then stays above log(1 + (classes - 1) / e), and gradients of
confident wrong predictions vanish.
"""

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import Float
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.convolutions import ConvSettings, PositiveInt, build_convs
from tagging.layers.padding import MaskedBatchNorm, frame_mask, mean_over_frames, normalize_bins


class Settings(ConvSettings):
    """The network's settings (`models.<name>.network`)."""

    padding: bool = Field(True, strict=True)  # zeros around each map; false: clips of one length
    batch_norm: bool = Field(True, strict=True)  # after each convolution
    bias: bool = Field(False, strict=True)  # of each convolution
    slope: Float = Field(0.0, ge=0, lt=1)  # of the leaky ReLU; 0: ReLU
    # mean: over the last map's frames and over bands of its bins; none: flatten the map, for clips
    # of one length.
    pooling: Literal["mean", "none"] = "mean"
    bands: PositiveInt = 4  # with pooling mean
    decoder: list[PositiveInt] = Field([])  # widths of linear layers before the classifier
    # Before each linear layer, except the classifier after a decoder.
    dropout: Float = Field(ge=0, lt=1)
    head: Literal["logits", "softmax"] = "logits"


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits or probabilities (batch, labels).

    `activation` is `none` with the softmax head: the outputs already are probabilities.
    """

    means: torch.Tensor  # (bins of the last map, bands)

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: as `build_convs` does, or if the clips are too small for the settings.
        """
        super().__init__()
        self.supports_variable_length = settings.padding and settings.pooling == "mean"
        self.frames = spec.frames
        self.pooling = settings.pooling
        self.norm = MaskedBatchNorm(spec.channels * spec.bins) if settings.input_norm else None
        convs = build_convs(
            settings,
            spec.channels,
            settings.padding,
            settings.batch_norm,
            settings.bias,
            settings.slope,
        )
        self.convs = nn.ModuleList(convs)
        frames, bins = spec.frames, spec.bins
        for conv in convs:
            if not settings.padding and min(frames, bins) < 3:
                raise UserError(
                    f"network.padding must be true for {len(convs)} convolutions of "
                    f"{spec.frames} frames x {spec.bins} bins, got false"
                )
            frames, bins = conv.output_size(frames, bins)
        if settings.pooling == "mean":
            if settings.bands > bins:
                raise UserError(
                    f"network.bands must be at most {bins}, the bins of the last map, got "
                    f"{settings.bands}"
                )
            # Adaptive pooling as a matrix product: its gradient is deterministic on every device.
            means = functional.adaptive_avg_pool1d(torch.eye(bins), settings.bands)
            self.register_buffer("means", means, persistent=False)
        pixels = settings.bands if settings.pooling == "mean" else frames * bins
        widths = [settings.channels[-1] * pixels, *settings.decoder]
        decoder: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            decoder += [
                nn.Dropout(settings.dropout),
                nn.Linear(width_in, width_out),
                nn.LeakyReLU(settings.slope),
            ]
        self.decoder = nn.Sequential(*decoder or [nn.Dropout(settings.dropout)])
        self.classify = nn.Linear(widths[-1], labels)
        self.head = settings.head
        if self.head == "softmax":
            self.activation = "none"

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the decoded map, (batch, width of the last decoder layer).

        Raises:
            ValueError: if clips vary in length and the settings do not support it.
        """
        if not self.supports_variable_length:
            if x.shape[2] != self.frames or (frames is not None and (frames != self.frames).any()):
                raise ValueError(f"all clips must have {self.frames} frames")
            frames = None
        h = normalize_bins(self.norm, x, frames)
        for conv in self.convs:
            h, frames = conv(h, frames)  # (batch, channels, frames / stride, bins / stride)
        if self.pooling == "mean":
            h = mean_over_frames(h, frame_mask(frames, h.shape[2]))  # (batch, channels, bins)
            h = h @ self.means  # (batch, channels, bands)
        return self.decoder(h.flatten(1))

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits or, with the softmax head, probabilities that sum to 1: (batch, labels)."""
        logits = self.classify(self.forward_features(x, frames))
        return logits.softmax(1) if self.head == "softmax" else logits
