"""No network: the features are the answer, as where they are what another network says."""

import torch
from torch import nn

from tagging.base.errors import UserError
from tagging.data.padding import frame_mask, mean_over_frames
from tagging.data.spec import InputSpec
from tagging.parameters import Section


class Settings(Section):
    """The network has no settings."""


class Network(nn.Module):
    """Log odds of the classes, float32 (batch, 1, frames, labels), to their mean over frames."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        super().__init__()
        if (spec.channels, spec.bins) != (1, labels):
            raise UserError(
                f"the architecture untrained takes one number for each of the {labels} classes; "
                f"its features have {spec.channels} x {spec.bins}"
            )

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the log odds; `frames` is the length of each clip where some are padded."""
        return mean_over_frames(x.squeeze(1).transpose(1, 2), frame_mask(frames, x.shape[2]))
