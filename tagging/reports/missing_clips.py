"""The variation of metrics if random test clips are missing, such as videos that were removed.

Most published results on AudioSet are of fewer clips than it lists: PANNs (Kong et al., 2020,
arXiv 1912.10211) had 18,887 of the 20,371 of its evaluation set.
"""

import numpy as np

from tagging.reports.context import ReportContext
from tagging.scoring.evaluation import resample_run
from tagging.scoring.tables import to_markdown

SHARES = (0.07, 0.2)  # of the clips
DRAWS = 20
SEED = 0


def draw_subsets(clips: int, missing: float) -> np.ndarray:
    """Return which clips each draw keeps if a share of them is missing: uint8 (clips, draws)."""
    order = np.random.default_rng(SEED).random((clips, DRAWS)).argsort(axis=0)
    return (order < round(clips * (1 - missing))).astype(np.uint8)


def section(context: ReportContext) -> str:
    """Return this section of the page, for the metrics with a fast way to many subsets."""
    row, runs = context.subject, context.run_scores(context.subject, "test")
    clips = len(runs[0].labels)
    header, rows = ["missing", "clips"], [["none", f"{clips:,}"]]
    rows += [[f"{share:.0%}", f"{round(clips * (1 - share)):,}"] for share in SHARES]
    for key, metric in context.metrics.items():
        if metric.per_clip is None and metric.resampled is None:
            continue
        header.append(metric.title)
        rows[0].append(f"{row.test[key]:.{metric.decimals}f}")
        for line, share in zip(rows[1:], SHARES, strict=True):
            draws = np.mean(
                [resample_run(metric, run, draw_subsets(len(run.labels), share)) for run in runs],
                axis=0,
            )
            values = (draws.mean(), draws.std(ddof=1), draws.min(), draws.max())
            center, std, low, high = (f"{value:.{metric.decimals}f}" for value in values)
            line.append(f"{center} ± {std} ({low}–{high})")
    return f"""\
## Missing test clips

Most published results are of fewer test clips than AudioSet lists, as videos were removed (PANNs
had 18,887 of 20,371). The table has the metrics of `{row.name}` with random clips left out: mean ±
standard deviation of {DRAWS} draws, and their range.

{to_markdown(header, rows, right=1)}"""
