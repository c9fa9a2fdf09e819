"""Copies and near-copies of clips in different splits, by the nearest neighbours of an embedding.

A model is tested on what it has seen if a copy of a test clip trains it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagging.data.clips import Features, Fold, read_features
from tagging.learning.neighbours import find_nearest

NEAR = 0.25  # of the typical distance
MAX_PAIRS = 100
MAX_CLIPS = 50_000  # the search compares all clips with all
READ_CLIPS = 4096  # at a time


class Pair(NamedTuple):
    """Two clips, and their distance as a share of the typical one.

    The typical distance is the median of the distances of all clips to their nearest neighbours.
    """

    first: int
    second: int
    distance: float


def find_embedding(features: Path) -> str | None:
    """Return the name of the first feature that is an embedding, or None.

    Args:
        features: the folder of a task's features.
    """
    for folder in sorted(features.iterdir()):
        settings = read_features(folder).settings
        if settings["name"] == "vggish" or settings.get("output") == "embedding":
            return folder.name
    return None


def mean_embeddings(features: Features) -> np.ndarray:
    """Return each clip's mean over its frames, of length 1: float32 (clips, width)."""
    values, frames = features.values, features.frames
    means = np.empty((len(values), values[0, :, 0].size), np.float32)
    for start in range(0, len(values), READ_CLIPS):
        block = np.asarray(values[start : start + READ_CLIPS], np.float32)
        sums = block.sum(axis=2)  # zero after the end
        numbers = frames[start : start + READ_CLIPS, None]
        means[start : start + READ_CLIPS] = sums.reshape(len(block), -1) / numbers
    means -= means.mean(axis=0)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def find_near_copies(embeddings: np.ndarray, folds: Sequence[Fold]) -> list[Pair]:
    """Return the nearest pairs of clips of which one is tested by a model that the other trains.

    Args:
        embeddings: of length 1, float32 (clips, width).
        folds: of the clips.
    """
    tested_in = np.full(len(embeddings), -1)
    for number, fold in enumerate(folds):
        tested_in[fold.test] = number
    used = np.concatenate(folds[0])
    is_used = np.zeros(len(embeddings), bool)
    is_used[used] = True
    if len(used) < 2:
        return []
    nearest = find_nearest(embeddings)
    distances = np.linalg.norm(embeddings[:, None] - embeddings[nearest], axis=2)
    typical = max(float(np.median(distances[:, 0])), 1e-12)
    pairs = {}
    for clip, place in zip(*np.nonzero(distances <= NEAR * typical), strict=True):
        other = int(nearest[clip, place])
        if is_used[clip] and is_used[other] and tested_in[clip] != tested_in[other]:
            first, second = sorted((int(clip), other))
            pairs[first, second] = float(distances[clip, place]) / typical
    nearest_pairs = sorted(pairs.items(), key=lambda item: (item[1], item[0]))
    return [Pair(*pair, distance) for pair, distance in nearest_pairs[:MAX_PAIRS]]
