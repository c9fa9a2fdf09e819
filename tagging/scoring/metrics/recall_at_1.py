"""Recall at 1: the share of a clip's labels that the nearest clip has, as embeddings say."""

from functools import partial

from tagging.scoring.metric import Metric
from tagging.scoring.neighbours import label_recall

METRIC = Metric("R@1", of_clips=partial(label_recall, k=1))
