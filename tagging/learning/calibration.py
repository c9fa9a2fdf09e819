"""Calibration: probabilities that agree with how often labels are right, fitted on validation.

Where each label has a probability of its own, the log odds x of label j become a + d_j + b x: a
logistic regression (Platt, 1999, "Probabilistic outputs for support vector machines") with one
slope for all labels, as most labels of AudioSet have a handful of validation clips, and normal
priors of the standard deviation `OFFSET_STD` on the offsets d_j. Where one label excludes the
others (softmax), log probabilities are multiplied by one slope: the inverse of the temperature of
Guo et al. (2017, arXiv 1706.04599). The probabilities still sum to 1, in the same order.

Labels count as in Platt's paper, as probabilities of (n + 1) / (n + 2) and 1 / (n + 2) for n clips
with or without a label: the slope stays finite where validation has no mistake.
"""

from typing import NamedTuple

import numpy as np

from tagging.layers.base import Activation

OFFSET_STD = 0.5
MAX_LOG_ODDS = 30.0  # beyond, the difference of a probability from 0 or 1 is negligible
MAX_LOG_SLOPE = 5.0


class Calibration(NamedTuple):
    """The slope, and the offsets of the classes; None for a softmax."""

    slope: float
    offsets: list[float] | None = None


def fit_calibration(
    labels: np.ndarray, scores: np.ndarray, activation: Activation
) -> Calibration | None:
    """Fit the calibration of a network's scores.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: log odds, (clips, classes).
        activation: of the network: with softmax, a clip's probabilities sum to 1.

    Returns:
        None if all labels are equal, or higher scores are no more often right.
    """
    if labels.all() or not labels.any():
        return None
    exact = scores.astype(np.float64).clip(-MAX_LOG_ODDS, MAX_LOG_ODDS)
    if activation == "softmax":
        return Calibration(_fit_temperature(labels, exact))
    calibration = _fit_platt(labels, exact)
    return calibration if calibration.slope > 0 else None


def _fit_platt(labels: np.ndarray, x: np.ndarray) -> Calibration:
    from scipy.optimize import minimize
    from scipy.special import expit

    classes, positive = labels.shape[1], int(labels.sum())
    targets = np.where(
        labels > 0, (positive + 1) / (positive + 2), 1 / (labels.size - positive + 2)
    )

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[:-1] + at[-1] * x
        offsets, residuals = at[:-1] - at[:-1].mean(), expit(z) - targets
        value = (np.logaddexp(0, z) - targets * z).sum() + (offsets**2).sum() / (2 * OFFSET_STD**2)
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
    *offsets, slope = minimize(loss, start, jac=True, hess=hessian, method="trust-exact").x.tolist()
    return Calibration(slope, offsets)


def _fit_temperature(labels: np.ndarray, x: np.ndarray) -> float:
    """Return the slope of a softmax."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_expit, log_softmax

    labelled = labels.any(axis=1)
    log_p, rows = log_expit(x[labelled]), labels[labelled].astype(np.float64)
    rest = 1 / (len(rows) + 2)
    targets = (1 - rest) * rows / rows.sum(axis=1, keepdims=True) + rest / rows.shape[1]

    def loss(log_slope: float) -> float:
        return -float((targets * log_softmax(np.exp(log_slope) * log_p, axis=1)).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-MAX_LOG_SLOPE, MAX_LOG_SLOPE)).x))
