"""Confidence thresholds: the probability from which on a label has a target precision.

Most labels of AudioSet have a handful of validation clips. The lowest threshold with the target
precision on so few is selected from many, and does not keep it on new clips. Therefore labels share
information by their calibration. The mean calibrated probability of the clips above a threshold is
its expected precision. It counts as `PRIOR_CLIPS` clips beside those of the validation split, which
makes the posterior of the precision a Beta distribution (Gelman et al., 2013, "Bayesian data
analysis", chapter 2). The threshold is the lowest one whose precision reaches the target with the
probability `CREDIBILITY`, and also does on the validation split.

A threshold promises the precision of all clips above it together. It says nothing about one clip
near it, and it holds for what it was chosen on: those of windows do not hold for the mean or the
maximum of a recording's windows. Recordings have their own.
"""

from typing import Any, NamedTuple

import numpy as np

from tagging.learning.calibration import Calibration

MIN_CLIPS = 5  # with the label
PRIOR_CLIPS = 20
CREDIBILITY = 0.9


class Threshold(NamedTuple):
    """The threshold of one label; None where it has none.

    `clips` is the number of validation clips with the label, `threshold` a probability; `precision`
    and `recall` are those of the threshold on validation.
    """

    clips: int
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None


class Confidence(NamedTuple):
    """What validation says of a model's outputs.

    Attributes:
        target_precision: that was required of the thresholds.
        thresholds: of the classes, in their order: calibrated probabilities.
        calibration: of the outputs; None if they are not calibrated.
        recordings: the same of recordings, by their mean probabilities, where clips are windows.
    """

    target_precision: float
    thresholds: list[Threshold]
    calibration: Calibration | None
    recordings: "Confidence | None" = None

    def describe(self, names: list[str]) -> dict[str, Any]:
        """Return plain data, with the thresholds by the names of the classes."""
        thresholds = zip(names, self.thresholds, strict=True)
        return {
            "target_precision": self.target_precision,
            "thresholds": {name: threshold._asdict() for name, threshold in thresholds},
            **({"calibration": self.calibration._asdict()} if self.calibration else {}),
            **({"recordings": self.recordings.describe(names)} if self.recordings else {}),
        }


def choose_thresholds(
    labels: np.ndarray, scores: np.ndarray, target_precision: float
) -> list[Threshold]:
    """Choose the threshold of each label.

    A label has none if fewer than `MIN_CLIPS` clips have it, or if no threshold is good enough.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: log odds of calibrated probabilities, (clips, classes).
        target_precision: above 0 and below 1.
    """
    columns = zip(labels.T.astype(int), scores.T, strict=True)
    return [_choose(*column, target_precision) for column in columns]


def _choose(labels: np.ndarray, scores: np.ndarray, target_precision: float) -> Threshold:
    """Choose the threshold of one label; both arrays are (clips,)."""
    from scipy.special import betainc, expit

    clips = int(labels.sum())
    if clips < MIN_CLIPS:
        return Threshold(clips)
    # In float32, as users compare probabilities: some scores become equal.
    probabilities = expit(scores.astype(np.float32))
    order = np.argsort(-probabilities, kind="stable")
    descending, above = probabilities[order], np.arange(1, len(order) + 1)
    hits = np.cumsum(labels[order])
    expected = (np.cumsum(descending, dtype=np.float64) / above).clip(1e-6, 1 - 1e-6)
    # The probability that the precision is below the target.
    below = betainc(
        hits + PRIOR_CLIPS * expected, above - hits + PRIOR_CLIPS * (1 - expected), target_precision
    )
    good = (below <= 1 - CREDIBILITY) & (hits / above >= target_precision)
    good[:-1] &= descending[:-1] > descending[1:]  # a threshold cannot separate equal scores
    if not good.any():
        return Threshold(clips)
    last = int(np.flatnonzero(good)[-1])
    # Halfway to the next score, so that rounding moves no clip to the other side.
    threshold = (descending[last] + descending[min(last + 1, len(order) - 1)]) / 2
    precision, recall = hits[last] / above[last], hits[last] / clips
    return Threshold(clips, float(threshold), float(precision), float(recall))
