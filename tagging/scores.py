"""What trained models answer for every clip of the splits, kept so that others can build on it.

One safetensors file a model or ensemble, float32 (clips, labels) a tensor: `train`, `val` and
`test` hold the outputs (log odds) for the clips of these splits, in their order; `val@9` those of
the weights after epoch 9.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.special import expit, logit

from tagging.errors import UserError
from tagging.files import whole_file

SCORES = Path("data/scores")


class Scores(NamedTuple):
    """Outputs by their names, and how many parameters it takes to compute them."""

    outputs: dict[str, np.ndarray]
    parameters: int


def scores_path(kind: str, name: str) -> Path:
    """Return where the scores of one of `models`, `students` or `ensembles` lie."""
    return SCORES / kind / f"{name}.safetensors"


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores, whole or not at all."""
    with whole_file(path) as partial:
        save_file(scores.outputs, partial, {"parameters": str(scores.parameters)})


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            outputs = {name: file.get_tensor(name) for name in file.keys()}
            return Scores(outputs, int(file.metadata()["parameters"]))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except (SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run dvc repro") from None


def mean_answer(outputs: list[np.ndarray]) -> np.ndarray:
    """Return the log odds of the mean probability, float32 (clips, labels).

    Args:
        outputs: log odds, (clips, labels) each.
    """
    # In float64 and from the nearer side, so that answers near 0 and 1 stay apart.
    p = np.mean([expit(x.astype(np.float64)) for x in outputs], axis=0)
    q = np.mean([expit(-x.astype(np.float64)) for x in outputs], axis=0)
    return np.where(p < 0.5, logit(p), -logit(q)).astype(np.float32)


def blend(labels: np.ndarray, teacher: np.ndarray, label_weight: float) -> np.ndarray:
    """Return what a student learns: labels and the teacher's probabilities, float32.

    Hinton, Vinyals, Dean (2015), "Distilling the knowledge in a neural network", arXiv 1503.02531;
    as in Schmid, Koutini, Widmer (2022), "Efficient large-scale audio tagging via
    transformer-to-CNN knowledge distillation", arXiv 2211.04772 (EfficientAT), the teacher's
    answers are computed once. Binary cross-entropy is linear in its targets: the loss against the
    blend is the blend of the paper's two losses.

    Args:
        labels: 0 or 1, (clips, labels).
        teacher: log odds, (clips, labels).
        label_weight: the labels' part, 0 to 1.
    """
    return (label_weight * labels + (1 - label_weight) * expit(teacher)).astype(np.float32)
