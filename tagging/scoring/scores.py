"""What trained models and ensembles answer for a task's clips, kept so that others can build on it.

One safetensors file a model, student or ensemble, of log odds, float32 (clips, classes) a tensor:
`seed0/train`, `seed0/val` and `seed0/test` hold those of the run `seed0` for the clips of these
splits, in their order; `seed0/val@9` those of its weights after epoch 9.

In a file of its own, that nothing else need be computed again for other resamples: the metric that
chooses, on each bootstrap resample of the test clips. Resamples are the same for all models, so
that two can be compared pair by pair.
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

SCORES = Path("data/scores")


class Scores(NamedTuple):
    """Answers by their names, each run's fold, and how many parameters it takes to compute them."""

    outputs: dict[str, np.ndarray]
    runs: dict[str, int]
    parameters: int

    def of_fold(self, fold: int, part: str) -> list[np.ndarray]:
        """Return what the runs of a fold answer for a part (train, val, test, val@9, ..)."""
        names = [f"{run}/{part}" for run, of in self.runs.items() if of == fold]
        return [self.outputs[name] for name in names if name in self.outputs]


def scores_path(kind: str, name: str) -> Path:
    """Return where the scores of one of `models`, `students` or `ensembles` lie."""
    return SCORES / kind / f"{name}.safetensors"


def resampled_path(kind: str, name: str) -> Path:
    """Return where its metric on each resample lies."""
    return SCORES / "resampled" / kind / f"{name}.npy"


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores, whole or not at all."""
    description = json.dumps({"runs": scores.runs, "parameters": scores.parameters})
    with atomic_write(path) as partial:
        save_file(scores.outputs, partial, {"scores": description})


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            outputs = {name: file.get_tensor(name) for name in file.keys()}
            return Scores(outputs, **json.loads(file.metadata()["scores"]))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except (SafetensorError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run dvc repro") from None


def write_resampled(path: Path, values: np.ndarray) -> None:
    """Write the metric that chooses on each resample, float64 (resamples,), whole or not at all."""
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.save(file, values)


def read_resampled(path: Path) -> np.ndarray:
    """Read what `write_resampled` wrote.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        return np.load(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it and run dvc repro") from None


def mean_answer(outputs: list[np.ndarray]) -> np.ndarray:
    """Return the log odds of the mean probability, float32 (clips, classes).

    Args:
        outputs: log odds, (clips, classes) each.
    """
    # The logarithms of the mean p and of the mean 1 - p: answers near 0 and 1 stay apart.
    log_p = logsumexp([log_expit(x.astype(np.float64)) for x in outputs], axis=0)
    log_q = logsumexp([log_expit(-x.astype(np.float64)) for x in outputs], axis=0)
    return (log_p - log_q).astype(np.float32)


def mean_of_groups(outputs: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the log odds of the mean probability of each group of clips, by ascending group.

    Args:
        outputs: log odds, (clips, classes).
        groups: each clip's, integers (clips,).

    Returns:
        float32 (groups, classes).
    """
    order = np.argsort(groups, kind="stable")
    firsts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sorted_outputs = outputs[order].astype(np.float64)
    log_p = np.logaddexp.reduceat(log_expit(sorted_outputs), firsts)
    log_q = np.logaddexp.reduceat(log_expit(-sorted_outputs), firsts)
    return (log_p - log_q).astype(np.float32)
