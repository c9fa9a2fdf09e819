"""3x3 convolutions whose features, second by second, go into an LSTM.

Choi, Fazekas, Sandler, Cho (2016), "Convolutional recurrent neural networks for music
classification", arXiv 1609.04243: convolutions extract local features, the recurrent layers (LSTM
here) sum them up over time. Convolutions stride over dimensions where the paper's, on
spectrograms, are followed by max pooling: an embedding's dimensions are no frequencies, and which
of them answers must not get lost. Nothing strides over seconds: the LSTM has every one of them.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.padding import MaskedBatchNorm, frame_mask, last_frame
from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    channels: Int = Field(
        description="a whole number of channels of the first convolution, 1 or more", ge=1
    )
    hidden: Int = Field(description="a whole number of cells a layer, 1 or more", ge=1)
    layers: Int = Field(description="a whole number of LSTM layers, 1 or more", ge=1)
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)


class Conv(nn.Module):
    """3x3 convolution, batch normalization, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, 3, stride=(1, stride), padding=1, bias=False
        )
        self.norm = MaskedBatchNorm(channels_out)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Map (batch, channels, seconds, dimensions) to dimensions / stride."""
        return self.norm(self.conv(x), mask).relu()


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        c = settings.channels
        self.norm = MaskedBatchNorm(128)
        self.convs = nn.ModuleList([Conv(1, c, 2), Conv(c, 2 * c, 4), Conv(2 * c, 4 * c, 2)])
        self.lstm = nn.LSTM(
            4 * c * 8,
            settings.hidden,
            settings.layers,
            batch_first=True,
            # PyTorch's lies between layers, and it warns where there is no between.
            dropout=settings.dropout if settings.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.classify = nn.Linear(settings.hidden, labels)

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits; `frames` is the length of each clip where some are padded."""
        mask = frame_mask(frames, x.shape[1])  # (batch, seconds)
        h = self.norm(x.transpose(1, 2), mask)  # (batch, 128, seconds)
        h = h.transpose(1, 2).unsqueeze(1)  # (batch, 1, seconds, 128)
        for conv in self.convs:
            h = conv(h, mask)  # (batch, c, .., 64), (batch, 2c, .., 16), (batch, 4c, seconds, 8)
        h = h.transpose(1, 2).flatten(2)  # (batch, seconds, 32c)
        h, _ = self.lstm(self.dropout(h))  # (batch, seconds, hidden)
        # It reads forward only: no state at or before a clip's end has seen the padding.
        h = last_frame(h, frames)  # (batch, hidden)
        return self.classify(self.dropout(h))  # (batch, labels)
