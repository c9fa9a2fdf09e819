"""What a student learns in place of the labels: a teacher's probabilities, or enhanced labels."""

from pathlib import Path

import numpy as np
from scipy.special import expit

from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.learning.model import Student
from tagging.sources.audioset.ontology import ancestor_matrix, child_matrix, read_ontology


def student_targets(
    student: Student, labels: np.ndarray, teacher: np.ndarray, classes: list[Class]
) -> np.ndarray:
    """Return what a student learns: float32 (clips, classes), 0 to 1.

    Args:
        student: the entry of params.yaml: it says which of the two.
        labels: 0 or 1, (clips, classes).
        teacher: log odds, (clips, classes).
        classes: those of the columns.

    Raises:
        UserError: if the entry asks for both or neither, or there is no ontology of the classes.
    """
    if (student.label_weight is None) == (student.enhance is None):
        raise UserError(
            "a student takes label_weight (to learn the teacher's probabilities) or enhance (to "
            f"learn labels that it adds), one of the two; it has {student.label_weight} and "
            f"{student.enhance}"
        )
    if student.enhance is None:
        return blend(labels, teacher, student.label_weight)
    if student.ontology is None:
        raise UserError("a student with enhance takes ontology, the path of AudioSet's ontology")
    ontology = read_ontology(Path(student.ontology))
    scores = expit(teacher)
    kinds = missing(
        labels,
        scores > thresholds(labels, scores, student.enhance),
        child_matrix(ontology, classes),
        ancestor_matrix(ontology, classes),
    )
    return (labels | kinds[0] | kinds[1]).astype(np.float32)


def blend(labels: np.ndarray, teacher: np.ndarray, label_weight: float) -> np.ndarray:
    """Return labels and the teacher's probabilities, mixed: float32 (clips, classes).

    Hinton, Vinyals, Dean (2015), "Distilling the knowledge in a neural network", arXiv 1503.02531;
    as in Schmid, Koutini, Widmer (2022), "Efficient large-scale audio tagging via
    transformer-to-CNN knowledge distillation", arXiv 2211.04772 (EfficientAT), the teacher's
    answers are computed once. Binary cross-entropy is linear in its targets: the loss against the
    mixture is the mixture of the paper's two losses.

    Args:
        labels: 0 or 1, (clips, classes).
        teacher: log odds, (clips, classes).
        label_weight: the labels' part, 0 to 1.
    """
    return (label_weight * labels + (1 - label_weight) * expit(teacher)).astype(np.float32)


def thresholds(labels: np.ndarray, scores: np.ndarray, threshold: str | float) -> np.ndarray:
    """Return each class's threshold: float64 (classes,), infinity for a class that no clip has.

    Args:
        labels: 0 or 1, (clips, classes).
        scores: the teacher's probabilities, (clips, classes).
        threshold: `mean`, or a percentile (0 to 100) of the scores of the clips with the class.
    """
    found = np.full(labels.shape[1], np.inf)
    for label in np.flatnonzero(labels.any(axis=0)):
        of_label = scores[labels[:, label] > 0, label].astype(np.float64)
        mean = threshold == "mean"
        found[label] = of_label.mean() if mean else np.percentile(of_label, threshold)
    return found


def missing(
    labels: np.ndarray, heard: np.ndarray, children: np.ndarray, ancestors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels to add to each clip for errors of type I and of type II.

    PSLA's label enhancement (Gong et al., 2021, arXiv 2102.01243). AudioSet's labels err in two
    ways that the ontology shows. Type I: a clip has a class, but not the kind of it that is heard
    (Speech, but not Female speech). Type II: a clip has a kind, but not what it is a kind of.
    PSLA's own code adds no ancestor that stands behind an abstract class (no Music to Blues); here
    `ancestors` says which there are.

    Args:
        labels: 0 or 1, (clips, classes). Both types look at these alone, not at what they add.
        heard: whether the teacher's score is above the threshold, bool (clips, classes).
        children: [parent, child], bool (classes, classes).
        ancestors: [label, ancestor], bool (classes, classes).

    Returns:
        Two bool arrays, (clips, classes); both may hold the same label of a clip.
    """
    has = labels.astype(np.float32)
    candidates = heard & (labels == 0)
    return tuple(candidates & (has @ kin.astype(np.float32) > 0) for kin in (children, ancestors))
