"""Accuracy: the share of the clips whose one label is ranked first; ties as in precision at 1."""

from tagging.scoring.metric import Metric
from tagging.scoring.metrics.precision_at_1 import precision_at_1

METRIC = Metric("accuracy", of_clips=precision_at_1)
