"""3 x 3 convolutions whose features go into an LSTM, frame by frame.

Choi, Fazekas, Sandler, Cho (2016), "Convolutional recurrent neural networks for music
classification", arXiv 1609.04243: convolutions extract local features, recurrent layers (here an
LSTM) summarize them over time. The paper has max pooling after each convolution, on spectrograms.
On embeddings, strides suit better: neighbouring dimensions are unrelated, and a maximum would lose
which of them was active. Without strides and pools over frames, the LSTM reads every frame.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.data.parameters import Float
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.convolutions import ConvSettings, PositiveInt, build_convs
from tagging.layers.padding import MaskedBatchNorm, last_frame, normalize_bins


class Settings(ConvSettings):
    """The network's settings (`models.<name>.network`)."""

    hidden: PositiveInt  # cells of each LSTM layer
    layers: PositiveInt  # of the LSTM
    dropout: Float = Field(ge=0, lt=1)  # before, between and after the LSTM's layers


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: as `build_convs` does.
        """
        super().__init__()
        self.norm = MaskedBatchNorm(spec.channels * spec.bins) if settings.input_norm else None
        convs = build_convs(settings, spec.channels)
        self.convs = nn.ModuleList(convs)
        frames, bins = spec.frames, spec.bins
        for conv in convs:
            frames, bins = conv.output_size(frames, bins)
        self.lstm = nn.LSTM(
            settings.channels[-1] * bins,
            settings.hidden,
            settings.layers,
            batch_first=True,
            # PyTorch drops out between layers only, and warns if there is one layer.
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(settings.hidden, labels)

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last output of the LSTM, (batch, hidden)."""
        h = normalize_bins(self.norm, x, frames)
        for conv in self.convs:
            h, frames = conv(h, frames)  # (batch, channels, frames / stride, bins / stride)
        h = h.transpose(1, 2).flatten(2)  # (batch, frames, channels * bins)
        h, _ = self.lstm(self.dropout(h))  # (batch, frames, hidden)
        # The LSTM is unidirectional: outputs up to the end of a clip do not depend on the padding.
        return last_frame(h, frames)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits, (batch, labels)."""
        return self.classify(self.dropout(self.forward_features(x, frames)))
