"""Recall at 8 of all labels but the two most frequent: of AudioSet's, all but Music and Speech."""

from functools import partial

from tagging.scoring.metric import Metric
from tagging.scoring.neighbours import rarer_label_recall

METRIC = Metric("rarer R@8", of_clips=partial(rarer_label_recall, k=8))
