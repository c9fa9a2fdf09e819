"""Recall at k without the two most frequent labels: in AudioSet, without Music and Speech."""

from functools import partial

from tagging.learning.metric import Metric
from tagging.learning.neighbours import check_k, rarer_label_recall


def metric(k: int) -> Metric:
    """Return the metric."""
    return Metric(f"rarer R@{k}", per_clip=partial(rarer_label_recall, k=check_k(k)))
