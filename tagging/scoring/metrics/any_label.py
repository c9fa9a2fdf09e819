"""Any label at k: whether one of a clip's k nearest clips shares one of its labels."""

from functools import partial

from tagging.learning.metric import Metric
from tagging.learning.neighbours import any_label, check_k


def metric(k: int) -> Metric:
    """Return the metric."""
    return Metric(f"any@{k}", per_clip=partial(any_label, k=check_k(k)))
