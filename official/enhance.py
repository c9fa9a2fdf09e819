"""Stage `enhance`: labels that the ontology says may be missing and a trained teacher hears.

PSLA's label enhancement (Gong et al., 2021, arXiv 2102.01243). AudioSet's labels err in two ways
that the ontology shows. Type I: a clip has a class, but not the kind of it that is heard (Speech,
but not Female speech). Type II: a clip has a kind, but not what it is a kind of. Either is mended
where the teacher's score of the missing class is above the class's threshold.
"""

import numpy as np
from scipy.special import expit

from official.hierarchy import ancestors_of, children_of, read_ontology
from official.settings import ADDED, DATA, ENHANCED, ONTOLOGY, Enhance, read_official, scores_path
from tagging.dataset import read_split, split_path, write_split
from tagging.errors import UserError, entry_point
from tagging.files import write_json
from tagging.parameters import parse
from tagging.scores import read_scores


def thresholds(labels: np.ndarray, scores: np.ndarray, threshold: str | float) -> np.ndarray:
    """Return each class's threshold: float64 (labels,), infinity for a class that no clip has.

    Args:
        labels: 0 or 1, (clips, labels).
        scores: the teacher's probabilities, (clips, labels).
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

    PSLA's own code adds no ancestor that stands behind an abstract class (no Music to Blues); here
    `ancestors` says which there are.

    Args:
        labels: 0 or 1, (clips, labels). Both types look at these alone, not at what they add.
        heard: whether the teacher's score is above the threshold, bool (clips, labels).
        children: [parent, child], bool (labels, labels).
        ancestors: [label, ancestor], bool (labels, labels).

    Returns:
        Two bool arrays, (clips, labels); both may hold the same label of a clip.
    """
    has = labels.astype(np.float32)
    candidates = heard & (labels == 0)
    return tuple(candidates & (has @ kin.astype(np.float32) > 0) for kin in (children, ancestors))


@entry_point
def main() -> None:
    """Run the stage."""
    official = read_official()
    settings = parse(Enhance, official.enhance, "official.enhance")
    if settings.teacher not in official.models:
        raise UserError(
            f"params.yaml: official.enhance.teacher is {settings.teacher!r}; it takes one of "
            f"{', '.join(official.models)}"
        )
    split = read_split(split_path("train", DATA))
    ontology = read_ontology(ONTOLOGY)
    scores = expit(read_scores(scores_path("models", settings.teacher)).outputs["train"])
    type_1, type_2 = missing(
        split.labels,
        scores > thresholds(split.labels, scores, settings.threshold),
        children_of(ontology, split.names),
        ancestors_of(ontology, split.names),
    )
    added = type_1 | type_2
    write_split(ENHANCED, split._replace(labels=split.labels | added.astype(np.uint8)))
    write_json(
        ADDED,
        {
            "teacher": settings.teacher,
            "threshold": settings.threshold,
            "labels": int(split.labels.sum()),
            "added": int(added.sum()),
            "added_type_1": int(type_1.sum()),
            "added_type_2": int(type_2.sum()),
            "clips_changed": int(added.any(axis=1).sum()),
            "clips": len(added),
        },
    )


if __name__ == "__main__":
    main()
