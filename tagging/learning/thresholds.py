"""Confidence thresholds: the probability from which on a label has a target precision.

Most labels of AudioSet have a handful of validation clips. The lowest threshold with the target
precision on so few is selected from many, and does not keep it on new clips. Therefore labels share
information. The log odds x of label j are calibrated by a logistic regression (Platt, 1999,
"Probabilistic outputs for support vector machines") with one slope for all labels, a + d_j + b x,
and normal priors of the standard deviation `OFFSET_STD` on the offsets d_j. The mean calibrated
probability of the clips above a threshold is its expected precision. It counts as `PRIOR_CLIPS`
clips beside those of the validation split, which makes the posterior of the precision a Beta
distribution (Gelman et al., 2013, "Bayesian data analysis", chapter 2). The threshold is the lowest
one whose precision reaches the target with the probability `CREDIBILITY`, and also does on the
validation split.
"""

from typing import Any, NamedTuple

import numpy as np

MIN_CLIPS = 5  # with the label
OFFSET_STD = 0.5
PRIOR_CLIPS = 20
CREDIBILITY = 0.9
MAX_LOG_ODDS = 30.0  # beyond, the difference of a probability from 0 or 1 is negligible


class Threshold(NamedTuple):
    """The threshold of one label; None where it has none.

    `clips` is the number of validation clips with the label, `threshold` a probability; `precision`
    and `recall` are those of the threshold on validation.
    """

    clips: int
    threshold: float | None = None
    precision: float | None = None
    recall: float | None = None


class Thresholds(NamedTuple):
    """The thresholds of all classes, in their order, and the precision that was required."""

    target_precision: float
    classes: list[Threshold]

    def describe(self, names: list[str]) -> dict[str, Any]:
        """Return the thresholds as plain data, by the names of the classes."""
        by_name = {
            name: threshold._asdict() for name, threshold in zip(names, self.classes, strict=True)
        }
        return {"target_precision": self.target_precision, "thresholds": by_name}


def choose_thresholds(
    labels: np.ndarray, scores: np.ndarray, target_precision: float
) -> Thresholds:
    """Choose the threshold of each label.

    A label has none if fewer than `MIN_CLIPS` clips have it, or if no threshold is good enough.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: log odds, (clips, classes).
        target_precision: above 0 and below 1.
    """
    exact = scores.astype(np.float64)
    columns = zip(labels.T.astype(int), exact.T, _calibrate(labels, exact).T, strict=True)
    return Thresholds(target_precision, [_choose(*column, target_precision) for column in columns])


def _calibrate(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities, float64 (clips, classes)."""
    from scipy.optimize import minimize
    from scipy.special import expit

    x, classes = scores.clip(-MAX_LOG_ODDS, MAX_LOG_ODDS), labels.shape[1]

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[:-1] + at[-1] * x
        offsets, residuals = at[:-1] - at[:-1].mean(), expit(z) - labels
        value = (np.logaddexp(0, z) - labels * z).sum() + (offsets**2).sum() / (2 * OFFSET_STD**2)
        gradient = residuals.sum(axis=0) + offsets / OFFSET_STD**2
        return value, np.append(gradient, (residuals * x).sum())

    def hessian(at: np.ndarray) -> np.ndarray:
        p = expit(at[:-1] + at[-1] * x)
        weights = p * (1 - p)
        matrix = np.empty((classes + 1, classes + 1))
        matrix[:-1, :-1] = np.diag(weights.sum(axis=0) + OFFSET_STD**-2) - OFFSET_STD**-2 / classes
        matrix[-1, :-1] = matrix[:-1, -1] = (weights * x).sum(axis=0)
        matrix[-1, -1] = (weights * x**2).sum()
        return matrix

    start = np.append(np.zeros(classes), 1.0)
    at = minimize(loss, start, jac=True, hess=hessian, method="trust-exact").x
    return expit(at[:-1] + at[-1] * x)


def _choose(
    labels: np.ndarray, scores: np.ndarray, calibrated: np.ndarray, target_precision: float
) -> Threshold:
    """Choose the threshold of one label; all arrays are (clips,)."""
    from scipy.special import betainc, expit

    clips = int(labels.sum())
    if clips < MIN_CLIPS:
        return Threshold(clips)
    # In float32, as users compare probabilities: some scores become equal.
    probabilities = expit(scores.astype(np.float32))
    order = np.argsort(-probabilities, kind="stable")
    descending, above = probabilities[order], np.arange(1, len(order) + 1)
    hits = np.cumsum(labels[order])
    expected = (np.cumsum(calibrated[order]) / above).clip(1e-6, 1 - 1e-6)
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
