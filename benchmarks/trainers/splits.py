"""The splits that trainers read in their working directory, and the validation of all of them."""

from pathlib import Path
from typing import NamedTuple

import torch

from tagging.data.clips import Index, read_features, read_index
from tagging.data.dataset import ClipDataset
from tagging.data.spec import InputSpec
from tagging.data.task import MetricSettings
from tagging.data.task_folder import TaskFolder
from tagging.learning.trainer import Validation
from tagging.scoring.metric import load_metric

FEATURE = "vggish"


class Split(NamedTuple):
    """Clips in memory: uint8 (clips, 1, seconds, 128), and labels, float32 (clips, classes)."""

    stored: torch.Tensor
    labels: torch.Tensor
    spec: InputSpec


def mapped(name: str) -> tuple[ClipDataset, Index]:
    """Return a split as the project trains on it, memory-mapped."""
    folder = TaskFolder(Path())
    index, features = read_index(folder.index), read_features(folder.feature(FEATURE))
    clips = getattr(index.folds[0], name)
    return ClipDataset.select(features, index.labels, clips, torch.device("cpu")), index


def in_memory(name: str) -> Split:
    """Return a split as the bytes it is."""
    dataset, _ = mapped(name)
    stored = torch.from_numpy(dataset.values[dataset.places])
    return Split(stored, torch.from_numpy(dataset.labels).float(), dataset.spec)


def validation() -> Validation:
    """Return the validation of all trainers: NDCG on the validation split."""
    return Validation(mapped("val")[0], load_metric(MetricSettings(name="ndcg")), "sigmoid")
