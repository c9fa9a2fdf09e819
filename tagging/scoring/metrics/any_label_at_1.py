"""Any label at 1: whether the clip nearest, as embeddings say, shares a label."""

from functools import partial

from tagging.scoring.metric import Metric
from tagging.scoring.neighbours import any_label

METRIC = Metric("any@1", of_clips=partial(any_label, k=1))
