"""Recall at k: the share of a clip's labels that its k nearest clips have, by their embeddings."""

from functools import partial

from tagging.learning.metric import Metric
from tagging.learning.neighbours import check_k, label_recall


def metric(k: int) -> Metric:
    """Return the metric."""
    return Metric(f"R@{k}", per_clip=partial(label_recall, k=check_k(k)))
