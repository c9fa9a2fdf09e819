"""Scores of trained models and ensembles for a task's clips, in files that later stages read.

A model, student or ensemble has one safetensors file of logits (log odds), float32 (clips,
classes): the tensors `seed0/train`, `seed0/val` and `seed0/test` are those of the run `seed0` for
the clips of each split, in their order; `seed0/val@9` those of its weights after epoch 9.

The selection metric on each bootstrap resample of the test clips has a file of its own, so that
other resamples change no scores. All entries share the resamples: two can be compared in pairs.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.special import log_expit, logsumexp

from tagging.base.errors import UserError
from tagging.base.files import atomic_write


class RunScores(NamedTuple):
    """Labels and logits of a run for a split, (clips, classes) each."""

    run: str
    fold: int
    labels: np.ndarray
    scores: np.ndarray


class Scores(NamedTuple):
    """An entry's scores by tensor name, the fold of each run, and the entry's parameter count."""

    outputs: dict[str, np.ndarray]
    runs: dict[str, int]
    parameters: int

    def select(self, fold: int, split: str) -> list[np.ndarray]:
        """Return the scores of each run of a fold for a split (train, val, test, val@9, ..)."""
        names = [f"{run}/{split}" for run, run_fold in self.runs.items() if run_fold == fold]
        return [self.outputs[name] for name in names if name in self.outputs]


def write_scores(path: Path, scores: Scores) -> None:
    """Write a file of scores atomically."""
    description = json.dumps({"runs": scores.runs, "parameters": scores.parameters})
    with atomic_write(path) as partial:
        save_file(scores.outputs, partial, {"scores": description})


def read_scores(path: Path) -> Scores:
    """Read a file of scores.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            outputs = {name: file.get_tensor(name) for name in file.keys()}
            return Scores(outputs, **json.loads(file.metadata()["scores"]))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro --pull") from None
    except (SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run dvc repro") from None


def read_train_scores(path: Path, fold: int) -> np.ndarray:
    """Read the scores of a fold's training clips by its first run: logits, (clips, classes).

    Raises:
        UserError: as `read_scores`, or if the training clips were not scored.
    """
    if not (scores := read_scores(path).select(fold, "train")):
        raise UserError(
            f"{path} has no scores of training clips; set score_train: true in params.yaml for "
            f"the models of {path.stem}"
        )
    return scores[0]


def write_resampled(path: Path, values: np.ndarray) -> None:
    """Write the selection metric on each resample, float64 (resamples,), atomically."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, values)


def read_resampled(path: Path) -> np.ndarray:
    """Read the selection metric on each resample, float64 (resamples,).

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        return np.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro --pull") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run dvc repro") from None


def mean_probability(outputs: list[np.ndarray]) -> np.ndarray:
    """Return the logits of the mean probability, float32 (clips, classes).

    Args:
        outputs: logits, (clips, classes) each.
    """
    # The logarithms of the mean p and of the mean 1 - p: scores near 0 and 1 stay distinct.
    log_p = logsumexp([log_expit(logits.astype(np.float64)) for logits in outputs], axis=0)
    log_q = logsumexp([log_expit(-logits.astype(np.float64)) for logits in outputs], axis=0)
    return (log_p - log_q).astype(np.float32)


def mean_probability_by_group(outputs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the logits of each group's mean probability, by ascending group.

    Args:
        outputs: logits, (clips, classes).
        groups: the group of each clip, integers (clips,).

    Returns:
        float32 (groups, classes).
    """
    order = np.argsort(groups, kind="stable")
    firsts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sorted_outputs = outputs[order].astype(np.float64)
    log_p = np.logaddexp.reduceat(log_expit(sorted_outputs), firsts)
    log_q = np.logaddexp.reduceat(log_expit(-sorted_outputs), firsts)
    return (log_p - log_q).astype(np.float32)
