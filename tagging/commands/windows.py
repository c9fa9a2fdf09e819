"""Windows: a waveform that arrives in pieces is cut into windows of one length."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

MIN_REMAINDER = 0.1  # of a window: shorter remainders at the end of a recording are dropped


class Windows(NamedTuple):
    """Length and position of windows, in samples.

    The remainder at the end of a recording is covered by one more window, which ends with the
    recording.

    Attributes:
        size: of a window.
        step: from the start of one window to the start of the next.
        context: samples before and after each window that are yielded with it; zeros beyond the
            recording.
        drop_last: drop the remainder instead.
    """

    size: int
    step: int
    context: int = 0
    drop_last: bool = False

    def cut(self, pieces: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the start and the samples of each window; a short recording is one window.

        Args:
            pieces: of the waveform, each float32 (samples,).
        """
        full_size = self.size + 2 * self.context
        padding = np.zeros(self.context, np.float32)
        buffer, start = padding, 0  # the buffer begins with the next window
        window = None
        for piece in chain(pieces, [padding]):
            buffer = np.concatenate([buffer, piece])
            while len(buffer) >= full_size:
                window = buffer[:full_size]
                yield start, window
                buffer = buffer[self.step :]
                start += self.step
        if window is None:
            yield 0, buffer
            return
        remainder = len(buffer) - full_size + self.step  # samples that no window covers
        if remainder >= max(1, MIN_REMAINDER * self.size) and not self.drop_last:
            last = np.concatenate([window[: self.step], buffer])[-full_size:]
            yield start - self.step + remainder, last


def window_starts(frames: int, size: int) -> list[int]:
    """Return the starts of windows of `size` frames; the last window ends with the clip."""
    starts = list(range(0, frames - size + 1, size)) or [0]
    return starts if starts[-1] + size >= frames else [*starts, frames - size]
