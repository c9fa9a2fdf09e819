"""The splits as trainers take them, in the folder they run in, and how all are judged."""

from typing import NamedTuple

import torch

from tagging.data.batches import Clips, to_clips
from tagging.data.clips import Index, read_features, read_index
from tagging.data.spec import InputSpec
from tagging.learning.loop import Validation
from tagging.scoring.metric import load_metric

FEATURE = "vggish"


class Split(NamedTuple):
    """Clips in memory: uint8 (clips, 1, seconds, 128), and labels, float32 (clips, classes)."""

    stored: torch.Tensor
    labels: torch.Tensor
    spec: InputSpec


def mapped(name: str) -> tuple[Clips, Index]:
    """Return a split as the project trains on it, memory-mapped."""
    index, features = read_index(), read_features(FEATURE)
    places = getattr(index.folds[0], name)
    return to_clips(features, index.labels, places, torch.device("cpu")), index


def in_memory(name: str) -> Split:
    """Return a split as the bytes it is."""
    clips, _ = mapped(name)
    stored = torch.from_numpy(clips.values[clips.places])
    return Split(stored, torch.from_numpy(clips.labels).float(), clips.spec)


def validation() -> Validation:
    """Return what all trainers are judged by: NDCG on the validation split."""
    return Validation(mapped("val")[0], load_metric("ndcg"), "sigmoid")
