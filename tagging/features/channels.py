"""From the channels of a recording to one: their mean, or one of them."""

import numpy as np

from tagging.base.errors import UserError

MAX_LOSS_DB = 20.0  # of the mean against the loudest channel, without a warning


def mix_down(block: np.ndarray) -> np.ndarray:
    """Return the mean of the channels of a block, float32 (samples, channels): (samples,)."""
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1)


class Mixer:
    """Mixes the blocks of one recording, and measures each channel and the result.

    Args:
        name: the recording's file, in errors and warnings.
        channel: the number of the channel to use, from 1, or None for the mean of all.
    """

    def __init__(self, name: str, channel: int | None = None) -> None:
        self.name = name
        self.channel = channel
        self._energies = np.zeros(1)  # of each channel
        self._mixed_energy = 0.0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Return one channel, float32 (samples,), of a block, float32 (samples, channels).

        Raises:
            UserError: if the recording does not have the channel.
        """
        channels = block.shape[1]
        if self.channel is not None and self.channel > channels:
            raise UserError(
                f"{self.name} must have {self.channel} channels or more, as decode.channel is "
                f"{self.channel}, got {channels}"
            )
        mixed = mix_down(block) if self.channel is None else block[:, self.channel - 1]
        if channels > 1:
            # The parts of joined files may have different channels.
            self._energies = np.pad(self._energies, (0, max(0, channels - len(self._energies))))
            for number in range(channels):
                self._energies[number] += _energy(block[:, number])
            self._mixed_energy += _energy(mixed)
        return mixed

    @property
    def loudest(self) -> int:
        """The number of the loudest channel, from 1."""
        return int(self._energies.argmax()) + 1

    def describe_loss(self) -> str | None:
        """Say that the mean loses most of the loudest channel, or return None if it does not."""
        if self.channel is not None or not self._energies.any():
            return None
        loss = np.inf
        if self._mixed_energy:
            loss = 10 * np.log10(self._energies.max() / self._mixed_energy)
        if loss <= MAX_LOSS_DB:
            return None
        level = "silent" if np.isinf(loss) else f"{loss:.0f} dB below channel {self.loudest}"
        return f"{self.name}: the mean of its {len(self._energies)} channels is {level}"


def _energy(samples: np.ndarray) -> float:
    """Return the sum of the squares of samples, float32 (samples,)."""
    return float(np.einsum("i,i->", samples, samples))
