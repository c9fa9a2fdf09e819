"""Recall at 4: the share of a clip's labels that its nearest clips have, as embeddings say."""

from functools import partial

from tagging.scoring.metric import Metric
from tagging.scoring.neighbours import label_recall

METRIC = Metric("R@4", of_clips=partial(label_recall, k=4))
