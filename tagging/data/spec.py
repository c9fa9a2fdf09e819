"""What a network sees of a clip: how many numbers, and how they come of those stored."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # to import it takes a second, and stages without networks do without
    import torch


class InputSpec(NamedTuple):
    """The input of a network: float32 (batch, channels, frames, bins).

    `frames` is the most that a clip has; with `any_length` clips may be shorter. What is stored
    becomes the input by `stored * scale + offset`.
    """

    channels: int
    frames: int
    bins: int
    scale: float = 1.0
    offset: float = 0.0
    any_length: bool = False

    def as_input(self, stored: "torch.Tensor") -> "torch.Tensor":
        """Return stored numbers, of any type and shape, as the float32 that networks take."""
        return stored.float() * self.scale + self.offset
