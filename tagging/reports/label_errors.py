"""Likely label errors, by confident learning.

Northcutt, Jiang, Chuang (2021), "Confident learning: estimating uncertainty in dataset labels",
arXiv 1911.00068, by the package of its authors; for several labels a clip as in Thyagarajan et al.
(2022), "Identifying incorrect annotations in multi-label classification data", arXiv 2211.13895.
"""

import warnings
from typing import NamedTuple

import numpy as np

MAX_MULTI_LABEL_CLASSES = 100


class LabelErrors(NamedTuple):
    """All clips, the least confident labels first, and how many are expected to be wrong."""

    ranking: np.ndarray
    expected: int


def rank_label_errors(
    labels: np.ndarray, probabilities: np.ndarray, single_label: bool
) -> LabelErrors | None:
    """Rank clips by the confidence of predictions in their labels.

    Args:
        labels: 0 or 1, (clips, classes).
        probabilities: out of fold, (clips, classes).
        single_label: whether each clip has one label.

    Returns:
        None where it does not apply: with fewer than two classes that have clips, or with several
        labels a clip and more than 100 of them.
    """
    present = labels.any(axis=0)
    if present.sum() < 2 or (not single_label and labels.shape[1] > MAX_MULTI_LABEL_CLASSES):
        return None
    labels, probabilities = labels[:, present], probabilities[:, present]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about classes of few clips
        if single_label:
            sums = probabilities.sum(axis=1, keepdims=True)
            shares = probabilities / np.maximum(sums, np.finfo(float).tiny)
            quality, issues = _judge_single(labels.argmax(axis=1), shares)
        else:
            names = [np.flatnonzero(row).tolist() for row in labels]
            quality, issues = _judge_several(names, probabilities)
    # Clips that are found to be wrong are first, and no others rank between them.
    return LabelErrors(np.lexsort((quality, ~issues)), int(issues.sum()))


# Importing the package takes seconds.


def _judge_single(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each clip's self-confidence, and whether its label is likely wrong."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, probabilities, method="self_confidence")
    return quality, find_label_issues(labels, probabilities, n_jobs=1)


def _judge_several(
    labels: list[list[int]], probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each clip's self-confidence, and whether one of its labels is likely wrong."""
    from cleanlab.multilabel_classification import get_label_quality_scores
    from cleanlab.multilabel_classification.filter import find_label_issues

    quality = get_label_quality_scores(labels, probabilities, method="self_confidence")
    return quality, find_label_issues(labels, probabilities, n_jobs=1)
