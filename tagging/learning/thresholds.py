"""From which probability on a label is sure: a threshold for each label, chosen on validation.

Most labels of AudioSet have a handful of clips that validate. The lowest threshold that has the
promised precision on so few is one of many that were tried, and new clips do not keep it. So labels
lend each other strength. The log odds x of label j are calibrated by a logistic regression (Platt,
1999, "Probabilistic outputs for support vector machines") of one slope for all labels, a + d_j +
b x, whose offsets d_j are drawn to zero as normal ones of the deviation `SPREAD` are. Of the clips
that a threshold answers, the mean calibrated probability is the precision to be expected. It counts
as `PRIOR` answers beside those that validation has, which gives the precision a Beta distribution
(Gelman et al., 2013, "Bayesian data analysis", chapter 2). The lowest threshold is taken whose
precision is the promised one or more with the probability `CONFIDENCE`, and also on validation.
"""

from typing import Any, NamedTuple

import numpy as np

FEWEST = 5  # clips with the label
SPREAD = 0.5
PRIOR = 20
CONFIDENCE = 0.9
LARGEST = 30.0  # log odds: beyond, a probability differs from 0 or 1 by nothing that matters


class Threshold(NamedTuple):
    """What is known of one label: None where it has no threshold.

    `precision` and `recall` (the share of the clips with the label that stays above) are those of
    validation, `clips` how many of its clips have the label.
    """

    clips: int
    threshold: float | None = None  # a probability
    precision: float | None = None
    recall: float | None = None


class Thresholds(NamedTuple):
    """Of all classes, in their order, and the precision that they promise."""

    promised: float
    classes: list[Threshold]

    def described(self, names: list[str]) -> dict[str, Any]:
        """Return them as plain data, by the classes' names."""
        by_name = {name: of._asdict() for name, of in zip(names, self.classes, strict=True)}
        return {"promised": self.promised, "thresholds": by_name}


def choose_thresholds(labels: np.ndarray, scores: np.ndarray, promised: float) -> Thresholds:
    """Choose the threshold of each label.

    A label has none if fewer than `FEWEST` clips have it, or if no threshold is good enough.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: log odds, (clips, classes).
        promised: the precision, above 0 and below 1.
    """
    exact = scores.astype(np.float64)
    calibrated = _calibrated(labels, exact)
    columns = zip(labels.T.astype(int), exact.T, calibrated.T, strict=True)
    return Thresholds(promised, [_choose(*column, promised) for column in columns])


def _calibrated(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return calibrated probabilities, float64 (clips, classes)."""
    from scipy.optimize import minimize
    from scipy.special import expit

    x, number = scores.clip(-LARGEST, LARGEST), labels.shape[1]

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[:-1] + at[-1] * x
        away, wrong = at[:-1] - at[:-1].mean(), expit(z) - labels
        value = (np.logaddexp(0, z) - labels * z).sum() + (away**2).sum() / (2 * SPREAD**2)
        return value, np.append(wrong.sum(axis=0) + away / SPREAD**2, (wrong * x).sum())

    def curvature(at: np.ndarray) -> np.ndarray:
        p = expit(at[:-1] + at[-1] * x)
        weights = p * (1 - p)
        found = np.empty((number + 1, number + 1))
        found[:-1, :-1] = np.diag(weights.sum(axis=0) + SPREAD**-2) - SPREAD**-2 / number
        found[-1, :-1] = found[:-1, -1] = (weights * x).sum(axis=0)
        found[-1, -1] = (weights * x**2).sum()
        return found

    start = np.append(np.zeros(number), 1.0)
    at = minimize(loss, start, jac=True, hess=curvature, method="trust-exact").x
    return expit(at[:-1] + at[-1] * x)


def _choose(
    labels: np.ndarray, scores: np.ndarray, calibrated: np.ndarray, promised: float
) -> Threshold:
    from scipy.special import betainc, expit

    clips = int(labels.sum())
    if clips < FEWEST:
        return Threshold(clips)
    # As a user compares probabilities: where float32 sees no difference, there is none.
    probabilities = expit(scores.astype(np.float32))
    order = np.argsort(-probabilities, kind="stable")
    falling, answered = probabilities[order], np.arange(1, len(order) + 1)
    hits = np.cumsum(labels[order])
    expected = (np.cumsum(calibrated[order]) / answered).clip(1e-6, 1 - 1e-6)
    # Of the Beta distribution, what lies below the promised precision.
    below = betainc(hits + PRIOR * expected, answered - hits + PRIOR * (1 - expected), promised)
    good = (below <= 1 - CONFIDENCE) & (hits / answered >= promised)
    good[:-1] &= falling[:-1] > falling[1:]  # equal ones are answered together
    if not good.any():
        return Threshold(clips)
    last = int(np.flatnonzero(good)[-1])
    # In the middle, so that rounding moves no clip to the other side.
    limit = (falling[last] + falling[min(last + 1, len(order) - 1)]) / 2
    precision, recall = hits[last] / answered[last], hits[last] / clips
    return Threshold(clips, float(limit), float(precision), float(recall))
