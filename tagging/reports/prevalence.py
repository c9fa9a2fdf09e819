"""Why average precision differs between validation and test: how few clips a class has in one.

Average precision over few clips of a class is higher than over many, at the same share of all
clips: the first hit stands for more. So the test split is thinned out to validation's numbers.
"""

from statistics import mean, median

import numpy as np

from tagging.reports.facts import Facts
from tagging.scoring.evaluation import Answers
from tagging.scoring.metrics.mean_average_precision import (
    average_precision,
    resampled_average_precision,
)

DRAWS = 20
SEED = 0


def thinned(test: Answers, wanted: np.ndarray) -> np.ndarray:
    """Return mean average precision where each class has so many clips: float64 (draws,).

    Clips without the label are thinned out as those with it are, so that its share stays.

    Args:
        test: answers for the test split.
        wanted: clips of each class, 0 where a class is left out, (classes,).
    """
    rng = np.random.default_rng(SEED)
    found = []
    for label in np.flatnonzero(wanted):
        has = test.labels[:, label] > 0
        share = min(1.0, wanted[label] / has.sum())
        kept = (rng.random((len(has), DRAWS)) < share).astype(np.uint8)
        order = rng.random((int(has.sum()), DRAWS)).argsort(axis=0)
        kept[has] = order < wanted[label]
        column = slice(label, label + 1)
        found.append(
            resampled_average_precision(test.labels[:, column], test.scores[:, column], kept)[:, 0]
        )
    return np.mean(found, axis=0)


def over(answers: Answers, classes: np.ndarray) -> float:
    """Return mean average precision over some classes, bool (classes,)."""
    return float(average_precision(answers.labels[:, classes], answers.scores[:, classes]).mean())


def section(facts: Facts) -> str:
    """Return this section of the page; nothing where nothing validates."""
    if not facts.by_validation:
        return ""
    val, test = (facts.answers(facts.subject, split) for split in ("val", "test"))
    clips = [of[0].labels.sum(axis=0, dtype=int) for of in (val, test)]
    both = (clips[0] > 0) & (clips[1] > 0)
    draws = np.mean([thinned(of, np.where(both, clips[0], 0)) for of in test], axis=0)
    on_val, on_test = (mean(over(run, both) for run in of) for of in (val, test))
    median_val, median_test = (median(counts[both].tolist()) for counts in clips)
    return f"""\
## Validation and test

Over the {both.sum()} classes that both splits have, the mean average precision of
`{facts.subject.name}` is {on_val:.3f} on validation, where the median class has {median_val:g} of
{len(val[0].labels):,} clips, and {on_test:.3f} on test, where it has {median_test:g} of
{len(test[0].labels):,}. With as few clips of each class as validation has, at their share in test,
the test split gives **{draws.mean():.3f} ± {draws.std(ddof=1):.3f}** ({DRAWS} draws): so few clips
bias average precision upward, and {draws.mean() - on_test:+.3f} of the {on_val - on_test:+.3f}
between the splits come of that alone.
"""
