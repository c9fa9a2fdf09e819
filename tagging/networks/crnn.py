"""3 x 3 convolutions whose features, frame by frame, go into an LSTM.

Choi, Fazekas, Sandler, Cho (2016), "Convolutional recurrent neural networks for music
classification", arXiv 1609.04243: convolutions extract local features, the recurrent layers (LSTM
here) sum them up over time. The paper's convolutions, on spectrograms, are followed by max pooling.
On embeddings they rather stride: dimensions are no frequencies, and which of them answers must not
get lost. Without strides and pools over frames the LSTM has every one of them.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.data.maps import Convolutions, Positive, bins_norm, convolutions, normalize_bins
from tagging.data.padding import last_frame
from tagging.data.spec import InputSpec
from tagging.parameters import Float


class Settings(Convolutions):
    """The network's settings (`models.<name>.network`)."""

    hidden: Positive = Field(description="a whole number of cells a layer, 1 or more")
    layers: Positive = Field(description="a whole number of LSTM layers, 1 or more")
    dropout: Float = Field(
        description="a number from 0 to below 1, before and between LSTM layers and before the "
        "last",
        ge=0,
        lt=1,
    )


class Network(nn.Module):
    """Clips, float32 (batch, channels, frames, bins), to logits (batch, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if strides or pools are not as many as channels.
        """
        super().__init__()
        self.norm = bins_norm(settings.input_norm, spec)
        self.convs = convolutions(settings, spec.channels)
        frames, bins = spec.frames, spec.bins
        for conv in self.convs:
            frames, bins = conv.size(frames, bins)
        self.lstm = nn.LSTM(
            settings.channels[-1] * bins,
            settings.hidden,
            settings.layers,
            batch_first=True,
            # PyTorch's lies between layers, and it warns where there is no between.
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(settings.hidden, labels)

    def embed(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the LSTM's last state: (batch, hidden)."""
        h = normalize_bins(self.norm, x, frames)
        for conv in self.convs:
            h, frames = conv(h, frames)  # (batch, its channels, fewer frames, fewer bins)
        h = h.transpose(1, 2).flatten(2)  # (batch, fewer frames, channels * bins)
        h, _ = self.lstm(self.dropout(h))  # (batch, fewer frames, hidden)
        # It reads forward only: no state at or before a clip's end has seen the padding.
        return last_frame(h, frames)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        return self.classify(self.dropout(self.embed(x, frames)))  # (batch, labels)
