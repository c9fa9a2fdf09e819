"""A small task of generated clips that can be trained on."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tagging.data.classes import Class
from tagging.data.clips import Fold, Index, write_features, write_index
from tagging.data.spec import InputSpec
from tagging.data.task_folder import TaskFolder
from tests.archives import ROOT

SPEC = InputSpec(1, 10, 128, scale=1 / 256)
ATTENTION = {
    "architecture": "attention",
    "network": {"hidden": 8, "layers": 1, "dropout": 0.1, "pooling": "decision"},
}
YAC = {"architecture": "yac", "network": {"head": "logits"}}


def multi_hot(num_clips: int, num_classes: int, seed: int = 0) -> np.ndarray:
    """Return labels, uint8 (clips, classes), at least one for each clip."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_clips, num_classes)) < 0.2).astype(np.uint8)
    labels[np.arange(num_clips), rng.integers(num_classes, size=num_clips)] = 1
    return labels


def learnable_values(labels: np.ndarray, spec: InputSpec = SPEC, seed: int = 0) -> np.ndarray:
    """Return noise, uint8 (clips, channels, frames, bins), in which each class raises one bin."""
    shape = (len(labels), spec.channels, spec.frames, spec.bins)
    values = np.random.default_rng(seed).integers(0, 100, shape, np.uint8)
    values[..., : labels.shape[1]] += 150 * labels[:, None, None, :]
    return values


def classes(number: int) -> list[Class]:
    return [Class(f"/m/{k}", f"label {k}") for k in range(number)]


def example_fold(num_clips: int) -> Fold:
    """Return a fold with half of the clips in train, and a quarter each in val and test."""
    order = np.random.default_rng(0).permutation(num_clips)
    return Fold(*np.split(order, [num_clips // 2, 3 * num_clips // 4]))


def write_clips(
    labels: np.ndarray,
    folds: list[Fold],
    values: np.ndarray | None = None,
    frames: np.ndarray | None = None,
    path: Path = Path(),
) -> Index:
    """Write the index and the feature vggish.

    Args:
        labels: 0 or 1, (clips, classes).
        folds: of the clips.
        values: of the feature, uint8; learnable ones by default.
        frames: the number of frames of each clip; all by default.
        path: the task's folder.
    """
    folder = TaskFolder(path)
    values = learnable_values(labels) if values is None else values
    spec = SPEC._replace(channels=values.shape[1], frames=values.shape[2], bins=values.shape[3])
    feature = folder.feature("vggish")
    with write_features(feature, len(values), np.uint8, spec, {"name": "vggish"}) as arrays:
        arrays[0][:] = values
        arrays[1][:] = spec.frames if frames is None else frames
    ids = np.array([b"clip%05d" % k for k in range(len(labels))])
    index = Index(ids, labels, classes(labels.shape[1]), folds)
    write_index(index, folder.index)
    return index


def write_params(path: Path = Path(), **sections: Any) -> None:
    """Write the params.yaml of a task's folder: the root's, made small, with `sections` merged.

    Sections of entries, and `split`, are replaced instead.
    """
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= {"epochs": 2, "batch_size": 8}
    params["evaluate"] = {**params.get("evaluate", {}), "resamples": 100}
    params["runtime"] = {"device": "cpu", "progress": "none"}
    params |= {"models": {"yac": YAC}, "ensembles": {}, "students": {}}
    for name, section in sections.items():
        replaced = name in ("models", "finetuned", "ensembles", "students", "split")
        params[name] = section if replaced else params.get(name, {}) | section
    TaskFolder(path).params.write_text(yaml.safe_dump(params), encoding="utf-8")


def make_repository() -> None:
    """Make the working directory a git repository with a commit, as DVCLive requires."""
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "-m", "Nothing yet"], check=True)
