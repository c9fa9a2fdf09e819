"""The shape of a network's input, and the scaling of stored features to it."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # importing torch costs a second, which stages without networks save
    import torch


class InputSpec(NamedTuple):
    """The input of a network: float32 (batch, channels, frames, bins).

    `frames` is the largest number of frames of a clip; with `any_length` clips may be shorter.
    Stored features become the input by `stored * scale + offset`.
    """

    channels: int
    frames: int
    bins: int
    scale: float = 1.0
    offset: float = 0.0
    any_length: bool = False

    @property
    def size(self) -> int:
        """The number of values of a clip."""
        return self.channels * self.frames * self.bins

    def as_input(self, stored: "torch.Tensor") -> "torch.Tensor":
        """Return stored features, of any dtype and shape, as the float32 input of networks."""
        return stored.float() * self.scale + self.offset
