"""Likely label errors, by confident learning.

Northcutt, Jiang, Chuang (2021), "Confident learning: estimating uncertainty in dataset labels",
arXiv 1911.00068, by the package of its authors; for several labels a clip as in Thyagarajan et al.
(2022), "Identifying incorrect annotations in multi-label classification data", arXiv 2211.13895.
"""

import warnings

import numpy as np

MAX_MULTI_LABEL_CLASSES = 100


def rank_label_errors(
    labels: np.ndarray, probabilities: np.ndarray, single_label: bool
) -> np.ndarray | None:
    """Return the positions of clips whose labels are likely wrong, the least confident first.

    Their number is the expected number of clips with wrong labels.

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
        return _find_issues(labels, probabilities, single_label)


def _find_issues(labels: np.ndarray, probabilities: np.ndarray, single_label: bool) -> np.ndarray:
    # Importing the package takes seconds.
    if single_label:
        from cleanlab.filter import find_label_issues

        sums = probabilities.sum(axis=1, keepdims=True)
        return find_label_issues(
            labels.argmax(axis=1),
            probabilities / np.maximum(sums, np.finfo(float).tiny),
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    from cleanlab.multilabel_classification import filter as multilabel

    return multilabel.find_label_issues(
        [np.flatnonzero(row).tolist() for row in labels],
        probabilities,
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
