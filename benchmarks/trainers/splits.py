"""The splits that trainers read in their working directory, and their common validation."""

from pathlib import Path
from typing import NamedTuple

import torch

from tagging.data.clips import Index, read_features, read_index
from tagging.data.spec import InputSpec
from tagging.data.task import MetricSettings
from tagging.data.task_folder import TaskFolder
from tagging.learning.dataset import ClipDataset
from tagging.learning.metric import load_metric
from tagging.learning.trainer import Validation

FEATURE = "vggish"


class Split(NamedTuple):
    """Clips in memory: uint8 (clips, 1, seconds, 128), and labels, float32 (clips, classes)."""

    stored: torch.Tensor
    labels: torch.Tensor
    spec: InputSpec


def map_split(name: str) -> tuple[ClipDataset, Index]:
    """Return a split as the project trains on it, memory-mapped."""
    folder = TaskFolder(Path())
    index, features = read_index(folder.index), read_features(folder.feature(FEATURE))
    clips = getattr(index.folds[0], name)
    return ClipDataset.select(features, index.labels, clips, torch.device("cpu")), index


def load_split(name: str) -> Split:
    """Return a split in memory, as stored bytes."""
    dataset, _ = map_split(name)
    stored = torch.from_numpy(dataset.values[dataset.places])
    return Split(stored, torch.from_numpy(dataset.labels).float(), dataset.spec)


def make_validation() -> Validation:
    """Return the validation of all trainers: NDCG on the validation split."""
    return Validation(map_split("val")[0], load_metric(MetricSettings(name="ndcg")), "sigmoid")
