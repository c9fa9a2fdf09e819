"""Any label at 8: whether one of a clip's nearest, as embeddings say, shares one of its labels."""

from functools import partial

from tagging.scoring.metric import Metric
from tagging.scoring.neighbours import any_label

METRIC = Metric("any@8", of_clips=partial(any_label, k=8))
