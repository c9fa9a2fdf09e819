"""A small task of generated clips, ready to be trained on, in the folder that a test is in."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tagging.data.classes import Class
from tagging.data.clips import Fold, Index, write_features, write_index
from tagging.data.spec import InputSpec
from tests.archives import ROOT

SPEC = InputSpec(1, 10, 128, scale=1 / 256)
ATTENTION = {
    "architecture": "attention",
    "network": {"hidden": 8, "layers": 1, "dropout": 0.1, "pooling": "decision"},
}
YAC = {"architecture": "yac", "network": {"head": "logits"}}


def multi_hot(clips: int, classes: int, seed: int = 0) -> np.ndarray:
    """Return labels, uint8 (clips, classes), one or more a clip."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((clips, classes)) < 0.2).astype(np.uint8)
    labels[np.arange(clips), rng.integers(classes, size=clips)] = 1
    return labels


def audible(labels: np.ndarray, spec: InputSpec = SPEC, seed: int = 0) -> np.ndarray:
    """Return noise, uint8 (clips, channels, frames, bins), in which each class raises its bin."""
    shape = (len(labels), spec.channels, spec.frames, spec.bins)
    values = np.random.default_rng(seed).integers(0, 100, shape, np.uint8)
    values[..., : labels.shape[1]] += 150 * labels[:, None, None, :]
    return values


def classes(number: int) -> list[Class]:
    return [Class(f"/m/{k}", f"label {k}") for k in range(number)]


def thirds(clips: int) -> Fold:
    """Return a fold that trains on half of the clips, validates on a quarter, tests on the rest."""
    order = np.random.default_rng(0).permutation(clips)
    return Fold(*np.split(order, [clips // 2, 3 * clips // 4]))


def write_clips(
    labels: np.ndarray, folds: list[Fold], values: np.ndarray | None = None, **frames: np.ndarray
) -> Index:
    """Write the index, and the feature vggish; `frames` where clips are shorter than others."""
    values = audible(labels) if values is None else values
    spec = SPEC._replace(channels=values.shape[1], frames=values.shape[2], bins=values.shape[3])
    with write_features("vggish", (values.shape, np.uint8), spec, {"name": "vggish"}) as arrays:
        arrays[0][:] = values
        arrays[1][:] = frames.get("frames", spec.frames)
    ids = np.array([b"clip%05d" % k for k in range(len(labels))])
    index = Index(ids, labels, classes(labels.shape[1]), folds)
    write_index(index)
    return index


def write_params(**sections: Any) -> None:
    """Write params.yaml: the project's own, small; mappings among `sections` replace entries."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= {"epochs": 2, "batch_size": 8}
    params["evaluate"]["resamples"] = 100
    params["run"] = {"device": "cpu", "progress": "none"}
    params |= {"models": {"yac": YAC}, "ensembles": {}, "students": {}}
    for name, section in sections.items():
        whole = name in ("models", "ensembles", "students", "protocol")
        params[name] = section if whole else params.get(name, {}) | section
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def make_repository() -> None:
    """Make this folder a git repository with a commit, as DVCLive takes it."""
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "-m", "Nothing yet"], check=True)
