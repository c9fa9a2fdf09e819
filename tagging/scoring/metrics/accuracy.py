"""Accuracy: the share of the clips whose label is ranked first; ties as in precision at 1."""

from functools import partial

from tagging.scoring.metric import Metric
from tagging.scoring.metrics.precision import precision_at_k


def metric() -> Metric:
    """Return the metric."""
    return Metric("accuracy", per_clip=partial(precision_at_k, k=1))
