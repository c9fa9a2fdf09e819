"""Calibration and confidence thresholds of a trained network, from validation clips."""

import numpy as np

from tagging.data.scores import mean_probability_by_group
from tagging.layers.base import Activation, TaggingNetwork
from tagging.learning.calibration import fit_calibration
from tagging.learning.dataset import ClipDataset
from tagging.learning.inference import DISTANCES, calibrate, log_odds, score
from tagging.learning.thresholds import Confidence, choose_thresholds


def fit_confidence(
    network: TaggingNetwork,
    val: ClipDataset,
    recordings: np.ndarray | None,
    activation: Activation,
    target_precision: float,
) -> Confidence | None:
    """Return calibration and thresholds of clips, and of recordings where clips are windows.

    Args:
        network: with its trained weights.
        val: the validation clips.
        recordings: the number of each clip's recording, integers (clips,), or None.
        activation: turns the network's outputs into probabilities.
        target_precision: of the labels above the thresholds.

    Returns:
        None without validation clips, or for embeddings.
    """
    if not len(val) or activation in DISTANCES:
        return None
    logits = log_odds(score(network, val), activation)

    def fit(
        labels: np.ndarray, scores: np.ndarray, recordings: Confidence | None = None
    ) -> Confidence:
        calibration = fit_calibration(labels, scores, activation)
        thresholds = choose_thresholds(labels, calibrate(scores, calibration), target_precision)
        return Confidence(target_precision, thresholds, calibration, recordings)

    if recordings is None:
        return fit(val.labels, logits)
    _, firsts = np.unique(recordings, return_index=True)  # all windows have the same labels
    means = mean_probability_by_group(logits, recordings)
    return fit(val.labels, logits, fit(val.labels[firsts], means))
