"""Nearest neighbours of embeddings, exact, and what of a clip's labels they have.

Of scores that are embeddings (task.kind similarity), each clip is a query once, among all others.
The distance is Euclidean; embeddings that are meant for the cosine come as unit vectors, of which
both rank alike.
"""

import weakref
from collections import deque

import numpy as np

MOST = 8  # neighbours that metrics ask for
AT_A_TIME = 1024  # queries: their distances to 20 thousand clips are 80 MB
FREQUENT = 2  # labels that the recall of rarer ones leaves out
REMEMBERED = 16  # arrays: several metrics ask for the neighbours of the same ones

_found: deque[tuple[weakref.ref, np.ndarray]] = deque(maxlen=REMEMBERED)


def nearest(embeddings: np.ndarray) -> np.ndarray:
    """Return each clip's nearest others, nearest first: int64 (clips, 8), or all where fewer.

    Equally near ones come in random order, the same whenever it is asked: recordings of silence
    have equal embeddings, and none is to profit from its place.

    Args:
        embeddings: float32 (clips, width).
    """
    for array, places in _found:
        if array() is embeddings:
            return places
    places = _search(embeddings)
    _found.append((weakref.ref(embeddings), places))
    return places


def _search(embeddings: np.ndarray) -> np.ndarray:
    import torch  # here, as it takes a second: others of this package do without

    all_clips = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))
    squares = all_clips.square().sum(1)
    most = min(MOST, len(all_clips) - 1)
    rng = np.random.default_rng(0)
    found = []
    for start in range(0, len(all_clips), AT_A_TIME):
        queries = all_clips[start : start + AT_A_TIME]
        # The squared distance but for the query's own square, negated: higher is nearer.
        near = torch.addmm(-squares[None], queries, all_clips.T, alpha=2)
        rows = torch.arange(len(queries))
        near[rows, start + rows] = -torch.inf
        values, places = near.topk(min(most + 1, len(all_clips)), 1)
        tied = (values.diff(dim=1) == 0).any(1).nonzero().flatten()
        places = places[:, :most].numpy()
        for row in tied.tolist():
            places[row] = _in_random_order(near[row].numpy(), most, rng)
        found.append(places)
    return np.concatenate(found)


def _in_random_order(near: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Return the places of the highest values, equal ones in random order."""
    last = np.partition(near, -most)[-most]
    above = rng.permutation(np.flatnonzero(near > last))
    above = above[np.argsort(-near[above], kind="stable")]
    equal = np.flatnonzero(near == last)
    return np.concatenate([above, rng.choice(equal, most - len(above), replace=False)])


def label_recall(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return the share of each clip's labels that its `k` nearest have: float64 (clips,).

    Multi-label recall at K of Lee, Bryan, Salamon, Jin, Nam (2020), "Metric learning vs
    classification for disentangled music representation learning", arXiv 2008.03729; for a clip of
    one label it is the usual recall at K. NaN for a clip without a label.

    Args:
        labels: 0 or 1, (clips, classes).
        embeddings: float32 (clips, width).
        k: 1 to 8.
    """
    number = labels.sum(axis=1, dtype=np.int64)
    return _shared(labels, embeddings, k) / np.where(number > 0, number, np.nan)


def rarer_label_recall(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return the same without the two most frequent labels: float64 (clips,).

    Half of AudioSet's clips have Music or Speech: sharing one of these says little.
    """
    frequent = np.argsort(-labels.sum(axis=0, dtype=np.int64), kind="stable")[:FREQUENT]
    return label_recall(np.delete(labels, frequent, axis=1), embeddings, k)


def any_label(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return whether one of a clip's `k` nearest has one of its labels: float64 (clips,), 0 or 1.

    NaN for a clip without a label.
    """
    has = np.where(labels.any(axis=1), 1.0, np.nan)
    return (_shared(labels, embeddings, k) > 0) * has


def _shared(labels: np.ndarray, embeddings: np.ndarray, k: int) -> np.ndarray:
    """Return how many labels of each clip its `k` nearest have, together: (clips,)."""
    theirs = np.zeros(labels.shape, bool)
    for places in nearest(embeddings)[:, :k].T:
        theirs |= labels[places] > 0
    return (theirs & (labels > 0)).sum(axis=1)
