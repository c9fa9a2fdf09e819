"""The clips of a training run."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tagging.data.classes import Class
from tagging.data.clips import read_features, read_index
from tagging.data.spec import InputSpec
from tagging.learning.dataset import ClipDataset
from tagging.learning.training_setup import TrainingSetup


class TrainingData(NamedTuple):
    """The clips of a run, of which none is of its test split.

    Attributes:
        train: the clips to train on.
        copies: the same clips, augmented.
        val: the clips to validate on.
        recordings: the numbers of their recordings, int32 (clips,); None where each clip is one.
        classes: of the labels.
        spec: describes the input.
        feature_settings: of the transform that computed it.
    """

    train: ClipDataset
    copies: list[ClipDataset]
    val: ClipDataset
    recordings: np.ndarray | None
    classes: list[Class]
    spec: InputSpec
    feature_settings: dict[str, Any]


def read_training_data(
    index_path: Path, feature: Path, fold_number: int, setup: TrainingSetup, device: torch.device
) -> TrainingData:
    """Read the clips of a fold.

    The rest of the index does not stay in memory: the labels of two million clips are larger than
    their features.

    Args:
        index_path: the file of clips, labels and folds.
        feature: the folder of the feature, and of its augmented copies.
        fold_number: which fold.
        setup: what is learned instead of the labels.
        device: where batches are wanted.
    """
    features, index = read_features(feature), read_index(index_path)
    fold = index.folds[fold_number]
    targets = setup.read_targets(features, index)
    train = ClipDataset.select(features, index.labels, fold.train, device, targets)
    are_windows = index.recordings is not None and len(np.unique(index.recordings)) < len(index.ids)
    return TrainingData(
        train,
        train.read_copies(feature),
        ClipDataset.select(features, index.labels, fold.val, device),
        index.recordings[fold.val] if are_windows and index.recordings is not None else None,
        index.classes,
        features.spec,
        features.settings,
    )
