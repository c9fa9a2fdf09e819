"""Targets from a teacher: its probabilities blended with the labels, or labels that it adds."""

from pathlib import Path
from typing import Literal

import numpy as np
from scipy.special import expit

from tagging.data.classes import Class
from tagging.sources.audioset.ontology import ancestor_matrix, child_matrix, read_ontology


def blend_targets(labels: np.ndarray, teacher: np.ndarray, hard_label_weight: float) -> np.ndarray:
    """Return the weighted mean of labels and the teacher's probabilities: float32 (clips, classes).

    Hinton, Vinyals, Dean (2015), "Distilling the knowledge in a neural network", arXiv 1503.02531.
    As in Schmid, Koutini, Widmer (2022), "Efficient large-scale audio tagging via
    transformer-to-CNN knowledge distillation", arXiv 2211.04772 (EfficientAT), the teacher's scores
    are computed once. Binary cross-entropy is linear in its targets: the loss of the blend is the
    blend of the paper's two losses.

    Args:
        labels: 0 or 1, (clips, classes).
        teacher: log odds, (clips, classes).
        hard_label_weight: of the labels, 0 to 1.
    """
    return (hard_label_weight * labels + (1 - hard_label_weight) * expit(teacher)).astype(
        np.float32
    )


def relabel(
    labels: np.ndarray,
    teacher: np.ndarray,
    threshold: Literal["mean"] | float,
    ontology_path: Path,
    classes: list[Class],
) -> np.ndarray:
    """Return labels with the ones added that may be missing: float32 (clips, classes), 0 or 1.

    Args:
        labels: 0 or 1, (clips, classes).
        teacher: log odds, (clips, classes).
        threshold: as in `relabel_thresholds`.
        ontology_path: AudioSet's ontology.
        classes: of the columns.

    Raises:
        UserError: if the ontology is not valid, or lacks a class.
    """
    ontology, scores = read_ontology(ontology_path), expit(teacher)
    added = missing_labels(
        labels,
        scores > relabel_thresholds(labels, scores, threshold),
        child_matrix(ontology, classes),
        ancestor_matrix(ontology, classes),
    )
    return (labels | added[0] | added[1]).astype(np.float32)


def relabel_thresholds(
    labels: np.ndarray, scores: np.ndarray, threshold: Literal["mean"] | float
) -> np.ndarray:
    """Return the threshold of each class: float64 (classes,), infinity for a class without clips.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: the teacher's probabilities, (clips, classes).
        threshold: `mean`, or a percentile (0 to 100), of the scores of the clips with the class.
    """
    thresholds = np.full(labels.shape[1], np.inf)
    for label in np.flatnonzero(labels.any(axis=0)):
        positive = scores[labels[:, label] > 0, label].astype(np.float64)
        if isinstance(threshold, str):
            thresholds[label] = positive.mean()
        else:
            thresholds[label] = np.percentile(positive, threshold)
    return thresholds


def missing_labels(
    labels: np.ndarray, predicted: np.ndarray, children: np.ndarray, ancestors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels to add to each clip for errors of type I and of type II.

    PSLA's label enhancement (Gong et al., 2021, arXiv 2102.01243). The ontology shows two kinds of
    errors in AudioSet's labels. Type I: a clip has a class, but not its subclass that is predicted
    (Speech, but not Female speech). Type II: a clip has a subclass, but not the class above it.
    PSLA's own code adds no ancestor beyond an abstract class (no Music to Blues); here `ancestors`
    decides.

    Args:
        labels: 0 or 1, (clips, classes). Both types look at these alone, not at added ones.
        predicted: whether the teacher's score is above the threshold, bool (clips, classes).
        children: [parent, child], bool (classes, classes).
        ancestors: [label, ancestor], bool (classes, classes).

    Returns:
        Two bool arrays, (clips, classes); both may have the same label of a clip.
    """
    has = labels.astype(np.float32)
    candidates = predicted & (labels == 0)
    type_1, type_2 = (
        candidates & (has @ related.astype(np.float32) > 0) for related in (children, ancestors)
    )
    return type_1, type_2
