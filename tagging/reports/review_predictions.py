"""Out-of-fold predictions: what an entry predicts for clips that it was not trained on."""

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from tagging.data.clips import Index
from tagging.data.scores import RunScores, Scores, mean_probability
from tagging.data.task import Task
from tagging.layers.base import Activation
from tagging.learning.calibration import fit_calibration
from tagging.learning.inference import calibrate
from tagging.scoring.evaluation import aggregate_index, scores_by_run


class Predictions(NamedTuple):
    """Predictions for the tested clips, each once, in the order of the folds.

    Attributes:
        clips: positions in the index of scored clips, (tested,).
        labels: 0 or 1, (tested, classes).
        probabilities: float64 (tested, classes).
        calibrated_on: what the calibration was fitted on; empty if there is none.
    """

    clips: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    calibrated_on: str


def predict_out_of_fold(scores: Scores, windows: Index, task: Task) -> Predictions:
    """Return the mean probability over the seeds of each fold, calibrated.

    The calibration of a fold is fitted on its validation clips or, where nothing validates, on the
    out-of-fold predictions of the other folds: never on the clips themselves.

    Args:
        scores: of an entry.
        windows: the task's clips, which may be windows of recordings.
        task: the section `task`.
    """
    index = aggregate_index(windows, task)
    test = _average_seeds(scores_by_run(scores, windows, "test", task))
    val = _average_seeds(scores_by_run(scores, windows, "val", task))
    calibrated_on = "validation clips" if val else "the other folds" if len(test) > 1 else ""
    outputs = []
    for fold, run in test.items():
        others = [other for number, other in test.items() if number != fold]
        outputs.append(_calibrate(run, [val[fold]] if val else others))
    return Predictions(
        np.concatenate([index.folds[fold].test for fold in test]),
        np.concatenate([run.labels for run in test.values()]),
        np.concatenate(outputs),
        calibrated_on,
    )


def _average_seeds(runs: list[RunScores]) -> dict[int, RunScores]:
    """Return one run for each fold."""
    folds: dict[int, list[RunScores]] = {}
    for run in runs:
        folds.setdefault(run.fold, []).append(run)
    return {
        fold: seeds[0]._replace(scores=mean_probability([run.scores for run in seeds]))
        for fold, seeds in folds.items()
    }


def _calibrate(run: RunScores, known: list[RunScores]) -> np.ndarray:
    """Return calibrated probabilities, float64 (clips, classes)."""
    scores = run.scores
    if known:
        sums = expit(scores.astype(np.float64)).sum(axis=1)
        activation: Activation = "softmax" if np.allclose(sums, 1, atol=1e-3) else "sigmoid"
        calibration = fit_calibration(
            np.concatenate([other.labels for other in known]),
            np.concatenate([other.scores for other in known]),
            activation,
        )
        scores = calibrate(scores, calibration)
    return expit(scores.astype(np.float64))


def count_confusions(predictions: Predictions, single_label: bool) -> np.ndarray:
    """Return how many clips with each label are predicted as each: int64 (classes, classes + 1).

    In the last column are clips for which nothing is predicted.
    """
    counts = np.zeros((predictions.labels.shape[1], predictions.labels.shape[1] + 1), np.int64)
    for pairs in list_pairs(predictions, single_label):
        for label, predicted in pairs:
            counts[label, predicted] += 1
    return counts


def list_pairs(predictions: Predictions, single_label: bool) -> list[list[tuple[int, int]]]:
    """Return each clip's cells of the confusion matrix.

    With several labels a clip, a label that is predicted is on the diagonal, and one that is missed
    is taken for each label that is predicted but not given, or for none (the number of classes).
    """
    labels, predicted = predictions.labels > 0, predict_labels(predictions, single_label)
    none = labels.shape[1]
    cells = []
    for given_row, predicted_row in zip(labels, predicted, strict=True):
        extra = np.flatnonzero(predicted_row & ~given_row).tolist() or [none]
        cells.append(
            [
                (label, other)
                for label in np.flatnonzero(given_row).tolist()
                for other in ([label] if predicted_row[label] else extra)
            ]
        )
    return cells


def predict_labels(predictions: Predictions, single_label: bool) -> np.ndarray:
    """Return the predicted labels, bool (clips, classes): the most probable, or those above 0.5."""
    probabilities = predictions.probabilities
    if single_label:
        return np.arange(probabilities.shape[1]) == probabilities.argmax(axis=1)[:, None]
    return probabilities > 0.5


def rank_mistakes(predictions: Predictions, single_label: bool) -> np.ndarray:
    """Return the positions of clips with a wrong label, the most confidently wrong first.

    With one label a clip, the confidence is the probability of the predicted label; with several,
    the highest probability of a label that is wrong, or of a missing one's absence.
    """
    wrong = predict_labels(predictions, single_label) != (predictions.labels > 0)
    probabilities = predictions.probabilities
    if single_label:
        confidence = probabilities.max(axis=1)
    else:
        chance = np.where(predictions.labels > 0, 1 - probabilities, probabilities)
        confidence = np.where(wrong, chance, 0).max(axis=1)
    mistakes = np.flatnonzero(wrong.any(axis=1))
    return mistakes[np.argsort(-confidence[mistakes], kind="stable")]
