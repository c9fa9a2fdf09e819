"""A model's probabilities of a recording or of a clip of embeddings, window by window."""

from typing import NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """The probabilities of each window.

    Attributes:
        duration: of the recording or clip (seconds).
        starts: of its windows (seconds).
        ends: of its windows (seconds).
        probabilities: float32 (windows, classes).
    """

    duration: float
    starts: list[float]
    ends: list[float]
    probabilities: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean over the windows: float32 (classes,)."""
        return self.probabilities.mean(axis=0)

    @property
    def maximum(self) -> np.ndarray:
        """The maximum over the windows: float32 (classes,)."""
        return self.probabilities.max(axis=0)


def format_time(seconds: float) -> str:
    """Format a time: 0:07, 1:02:09."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def describe_windows(prediction: Prediction) -> str:
    """Return duration and windows of a recording: `1:35, 95 windows of 1 s`."""
    duration, windows = format_time(prediction.duration), len(prediction.starts)
    if windows == 1:
        return duration
    return f"{duration}, {windows} windows of {prediction.ends[0] - prediction.starts[0]:.3g} s"
