"""A deep LSTM over the seconds; its last state is classified.

Graves, Mohamed, Hinton (2013), "Speech recognition with deep recurrent neural networks", arXiv
1303.5778: layers of long short-term memory, each reading what the one below says at every step.
"""

import torch
from pydantic import Field
from torch import nn

from tagging.padding import MaskedBatchNorm, frame_mask, last_frame
from tagging.parameters import Float, Int, Section


class Settings(Section):
    """The network's settings (`models.<name>.network`)."""

    hidden: Int = Field(description="a whole number of cells a layer, 1 or more", ge=1)
    layers: Int = Field(description="a whole number of LSTM layers, 1 or more", ge=1)
    dropout: Float = Field(description="a number from 0 to below 1", ge=0, lt=1)


class Network(nn.Module):
    """Embeddings in [0, 1), float32 (batch, seconds, 128), to logits (batch, labels)."""

    def __init__(self, settings: Settings, seconds: int, labels: int) -> None:
        super().__init__()
        self.norm = MaskedBatchNorm(128)
        self.lstm = nn.LSTM(
            128,
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
        h = self.norm(x.transpose(1, 2), mask).transpose(1, 2)  # (batch, seconds, 128)
        h, _ = self.lstm(h)  # (batch, seconds, hidden)
        # It reads forward only: no state at or before a clip's end has seen the padding.
        h = last_frame(h, frames)  # (batch, hidden)
        return self.classify(self.dropout(h))  # (batch, labels)
