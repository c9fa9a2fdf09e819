"""How metrics move when some test clips are missing at random, as videos are that were removed.

Most published results on AudioSet are of fewer clips than it lists: PANNs (Kong et al., 2020,
arXiv 1912.10211) had 18,887 of the 20,371 of its evaluation set.
"""

import numpy as np

from tagging.reports.facts import Facts
from tagging.scoring.evaluation import on_resamples
from tagging.scoring.tables import to_markdown

SHARES = (0.07, 0.2)  # of the clips
DRAWS = 20
SEED = 0


def subsets(clips: int, share: float) -> np.ndarray:
    """Return which clips are there in each draw: uint8 (clips, draws)."""
    order = np.random.default_rng(SEED).random((clips, DRAWS)).argsort(axis=0)
    return (order < round(clips * (1 - share))).astype(np.uint8)


def section(facts: Facts) -> str:
    """Return this section of the page, about the metrics that can be computed on many subsets."""
    row, answers = facts.subject, facts.answers(facts.subject, "test")
    clips = len(answers[0].labels)
    header, rows = ["missing", "clips"], [["none", f"{clips:,}"]]
    rows += [[f"{share:.0%}", f"{round(clips * (1 - share)):,}"] for share in SHARES]
    for key, metric in facts.metrics.items():
        if metric.of_clips is None and metric.resampled is None:
            continue
        header.append(metric.title)
        rows[0].append(f"{row.test[key]:.{metric.decimals}f}")
        for line, share in zip(rows[1:], SHARES, strict=True):
            of_runs = [on_resamples(metric, of, subsets(len(of.labels), share)) for of in answers]
            draws = np.mean(of_runs, axis=0)
            values = (draws.mean(), draws.std(ddof=1), draws.min(), draws.max())
            middle, spread, low, high = (f"{value:.{metric.decimals}f}" for value in values)
            line.append(f"{middle} ± {spread} ({low}–{high})")
    return f"""\
## With clips missing

Most published results are of fewer test clips than AudioSet lists, as videos were removed (PANNs
had 18,887 of 20,371). This is `{row.name}` with clips left out at random: mean ± standard deviation
of {DRAWS} draws, the lowest and the highest.

{to_markdown(header, rows, right=1)}"""
