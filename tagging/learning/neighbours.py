"""Nearest neighbours of embeddings, by exact search, and the labels that neighbours share.

For tasks of type similarity: each clip is the query once, and all other clips are searched.
Distances are Euclidean. Embeddings for cosine distances come as unit vectors, for which both
distances rank alike.
"""

import weakref
from collections import deque

import numpy as np

MAX_NEIGHBOURS = 8
QUERY_BATCH = 1024  # distances of a batch to 20 thousand clips take 80 MB
FREQUENT_LABELS = 2  # left out of the recall of rarer labels
CACHED_ARRAYS = 16  # several metrics search the same embeddings

_cache: deque[tuple[weakref.ref, np.ndarray]] = deque(maxlen=CACHED_ARRAYS)


def check_k(k: int) -> int:
    """Return `k` if it is at most `MAX_NEIGHBOURS`.

    Raises:
        ValueError: if it is greater.
    """
    if k > MAX_NEIGHBOURS:
        raise ValueError(f"k must be at most {MAX_NEIGHBOURS}, got {k}")
    return k


def find_nearest(embeddings: np.ndarray) -> np.ndarray:
    """Return each clip's nearest other clips, nearest first: int64 (clips, 8), fewer in small sets.

    Equally near clips come in random order, the same in each call: silent recordings have equal
    embeddings, and none must profit from its place.

    Args:
        embeddings: float32 (clips, width).
    """
    for array, neighbours in _cache:
        if array() is embeddings:
            return neighbours
    neighbours = _search(embeddings)
    _cache.append((weakref.ref(embeddings), neighbours))
    return neighbours


def _search(embeddings: np.ndarray) -> np.ndarray:
    import torch  # here: importing it costs a second, and other metrics need no PyTorch

    all_clips = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))
    squares = all_clips.square().sum(1)
    number = min(MAX_NEIGHBOURS, len(all_clips) - 1)
    rng = np.random.default_rng(0)
    batches = []
    for start in range(0, len(all_clips), QUERY_BATCH):
        queries = all_clips[start : start + QUERY_BATCH]
        # The negated squared distance, without the query's own square: higher is nearer.
        nearness = torch.addmm(-squares[None], queries, all_clips.T, alpha=2)
        rows = torch.arange(len(queries))
        nearness[rows, start + rows] = -torch.inf
        top = nearness.topk(min(number + 1, len(all_clips)), 1)
        tied = (top.values.diff(dim=1) == 0).any(1).nonzero().flatten()
        neighbours = top.indices[:, :number].numpy()
        for row in tied.tolist():
            neighbours[row] = _shuffle_ties(nearness[row].numpy(), number, rng)
        batches.append(neighbours)
    return np.concatenate(batches)


def _shuffle_ties(nearness: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Return the places of the `number` highest values, equal values in random order."""
    last = np.partition(nearness, -number)[-number]
    above = rng.permutation(np.flatnonzero(nearness > last))
    above = above[np.argsort(-nearness[above], kind="stable")]
    equal = np.flatnonzero(nearness == last)
    return np.concatenate([above, rng.choice(equal, number - len(above), replace=False)])


def label_recall(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return the share of each clip's labels that its `k` nearest clips have: float64 (clips,).

    Multi-label recall at K of Lee, Bryan, Salamon, Jin, Nam (2020), "Metric learning vs
    classification for disentangled music representation learning", arXiv 2008.03729. For a clip
    with one label it is the usual recall at K. NaN for a clip without labels.

    Args:
        labels: 0 or 1, (clips, classes).
        embeddings: float32 (clips, width).
        k: 1 to 8.
    """
    number = labels.sum(axis=1, dtype=np.int64)
    return _count_shared(labels, embeddings, k) / np.where(number > 0, number, np.nan)


def rarer_label_recall(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return the recall without the two most frequent labels: float64 (clips,).

    Half of AudioSet's clips have Music or Speech, so that sharing one of these says little.
    """
    frequent = np.argsort(-labels.sum(axis=0, dtype=np.int64), kind="stable")[:FREQUENT_LABELS]
    return label_recall(np.delete(labels, frequent, axis=1), embeddings, k)


def any_label(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return whether one of a clip's `k` nearest clips shares a label: float64 (clips,), 0 or 1.

    NaN for a clip without labels.
    """
    has = np.where(labels.any(axis=1), 1.0, np.nan)
    return (_count_shared(labels, embeddings, k) > 0) * has


def _count_shared(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return how many labels of each clip its `k` nearest clips have together: (clips,)."""
    neighbour_labels = np.zeros(labels.shape, bool)
    for places in find_nearest(embeddings)[:, :k].T:
        neighbour_labels |= labels[places] > 0
    return (neighbour_labels & (labels > 0)).sum(axis=1)
