"""A model's probabilities of a recording or of a clip of embeddings, window by window."""

from typing import NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """The probabilities of each window, and of the recording.

    Attributes:
        duration: duration of the recording or clip (seconds).
        starts: starts of its windows (seconds).
        ends: ends of its windows (seconds).
        probabilities: probabilities of each window, float32 (windows, classes).
        whole: probabilities of the recording or clip, float32 (classes,).
    """

    duration: float
    starts: list[float]
    ends: list[float]
    probabilities: np.ndarray
    whole: np.ndarray

    @property
    def maximum(self) -> np.ndarray:
        """The maximum over the windows: float32 (classes,)."""
        return self.probabilities.max(axis=0)

    @property
    def edges(self) -> np.ndarray:
        """Times halfway between the middles of windows: float64 (windows + 1,), seconds.

        A sound of which windows with at least half of it have the label begins and ends within half
        a hop of these times, whatever the length of the windows.
        """
        middles = (np.array(self.starts) + np.array(self.ends)) / 2
        between = (middles[1:] + middles[:-1]) / 2
        return np.concatenate([self.starts[:1], between, self.ends[-1:]])


class Event(NamedTuple):
    """A span of consecutive windows at or above a label's threshold (seconds).

    `probability` is the highest of its windows.
    """

    start: float
    end: float
    label: str
    probability: float


def format_time(seconds: float, tenths: bool = False) -> str:
    """Format a time: 0:07, 1:02:09, rounded to tenths 0:07.5."""
    whole, tenth = divmod(int(10 * seconds + 0.5), 10) if tenths else (int(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{text}.{tenth}" if tenths else text


def describe_windows(prediction: Prediction) -> str:
    """Return duration and windows of a recording: `1:35, 95 windows of 1 s`."""
    duration, windows = format_time(prediction.duration), len(prediction.starts)
    if windows == 1:
        return duration
    text = f"{duration}, {windows} windows of {prediction.ends[0] - prediction.starts[0]:.3g} s"
    hop = prediction.starts[1] - prediction.starts[0]
    return text if windows == 2 or hop >= prediction.ends[0] else f"{text} every {hop:.3g} s"
