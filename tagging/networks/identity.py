"""No network: the features already are log odds, for example those of a pretrained network."""

import torch

from tagging.base.errors import UserError
from tagging.data.parameters import Section
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.layers.padding import frame_mask, mean_over_frames


class Settings(Section):
    """The network has no settings."""


class Network(TaggingNetwork):
    """Returns the mean over frames of log odds, float32 (batch, 1, frames, labels)."""

    def __init__(self, settings: Settings, spec: InputSpec, labels: int) -> None:
        """Build the network.

        Raises:
            UserError: if the features are not one value for each label.
        """
        super().__init__()
        if (spec.channels, spec.bins) != (1, labels):
            raise UserError(
                f"the features of architecture identity must have 1 channel and {labels} bins, one "
                f"for each class, got {spec.channels} x {spec.bins}"
            )

    def forward(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return the log odds, (batch, labels)."""
        return mean_over_frames(x.squeeze(1).transpose(1, 2), frame_mask(frames, x.shape[2]))
