"""The effect of few clips of a class on average precision, in validation against test.

Average precision over few clips of a class is biased upward at the same prevalence: the first hit
has more weight. So the test split is subsampled to the numbers of clips in validation.
"""

from statistics import mean, median

import numpy as np

from tagging.data.scores import RunScores
from tagging.reports.context import ReportContext
from tagging.scoring.metrics.map import (
    average_precision,
    resampled_average_precision,
)

DRAWS = 20
SEED = 0


def subsampled_mean_ap(test: RunScores, class_clips: np.ndarray) -> np.ndarray:
    """Return mean average precision with this number of clips a class: float64 (draws,).

    Clips without the label are subsampled by the same share, so that the prevalence stays.

    Args:
        test: labels and scores of the test split.
        class_clips: clips of each class, 0 where a class is left out, (classes,).
    """
    rng = np.random.default_rng(SEED)
    values = []
    for label in np.flatnonzero(class_clips):
        positive = test.labels[:, label] > 0
        share = min(1.0, class_clips[label] / positive.sum())
        kept = (rng.random((len(positive), DRAWS)) < share).astype(np.uint8)
        order = rng.random((int(positive.sum()), DRAWS)).argsort(axis=0)
        kept[positive] = order < class_clips[label]
        column = slice(label, label + 1)
        values.append(
            resampled_average_precision(test.labels[:, column], test.scores[:, column], kept)[:, 0]
        )
    return np.mean(values, axis=0)


def mean_ap(run: RunScores, classes: np.ndarray) -> float:
    """Return mean average precision over some classes, bool (classes,)."""
    return float(average_precision(run.labels[:, classes], run.scores[:, classes]).mean())


def section(context: ReportContext) -> str:
    """Return this section of the page; empty without validation clips."""
    if not context.has_validation:
        return ""
    val, test = (context.run_scores(context.subject, split) for split in ("val", "test"))
    clips = [runs[0].labels.sum(axis=0, dtype=int) for runs in (val, test)]
    both = (clips[0] > 0) & (clips[1] > 0)
    draws = np.mean([subsampled_mean_ap(run, np.where(both, clips[0], 0)) for run in test], axis=0)
    on_val, on_test = (mean(mean_ap(run, both) for run in runs) for runs in (val, test))
    median_val, median_test = (median(counts[both].tolist()) for counts in clips)
    return f"""\
## Validation and test

Over the {both.sum()} classes that both splits have, the mean average precision of
`{context.subject.name}` is {on_val:.3f} on validation, where the median class has {median_val:g} of
{len(val[0].labels):,} clips, and {on_test:.3f} on test, where it has {median_test:g} of
{len(test[0].labels):,}. With the test split subsampled to validation's clips of each class, at the
prevalence in test, it is **{draws.mean():.3f} ± {draws.std(ddof=1):.3f}** ({DRAWS} draws): small
numbers of clips bias average precision upward, and explain {draws.mean() - on_test:+.3f} of the
{on_val - on_test:+.3f} between the splits.
"""
