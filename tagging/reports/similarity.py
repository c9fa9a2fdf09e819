"""Effects of metric learning: recall of labels among the nearest clips, against a tagger's."""

from tagging.reports.context import ReportContext, Row, find_entry
from tagging.reports.differences import Difference, common_runs, compare_runs
from tagging.reports.page import render
from tagging.scoring.tables import read_rows, to_markdown

TRIPLETS = ("anchors", "positives", "negatives", "clips")  # logged by training with triplets

VERDICT = """\
{% if best is none or best == base %}\
No entry is better than `{{ base }}` on validation.\
{% elif one_run %}\
`{{ best }}`, the best on validation, has one run in common with `{{ base }}`: without an interval \
there is no verdict.\
{% else %}\
`{{ best }}`, the best on validation, is above it on {{ gains or "none" }}\
{% if losses %}, and below on {{ losses }}, where classification stays best, as Lee et al. \
report{% endif %}: these intervals over seeds exclude zero.\
{% endif %}\
"""


def recall_gains(context: ReportContext, row: Row, base: Row) -> dict[str, Difference]:
    """Return how much higher each recall of an entry is on test, over the common runs."""
    recalls = [key for key in context.metrics if key.startswith("recall_at_")]
    return {key: compare_runs(row, base, "test", key) for key in recalls}


def recall_table(context: ReportContext, base: Row) -> str:
    """Return the gains of each entry that has runs of the base, as Markdown."""
    rows = []
    for row in context.entries:
        if row.name != base.name and set(row.runs) & set(base.runs):
            gains = recall_gains(context, row, base)
            rows.append([f"`{row.name}`"])
            rows[-1] += [gain.format(context.metrics[key].decimals) for key, gain in gains.items()]
    titles = [context.metrics[key].title for key in recall_gains(context, base, base)]
    return to_markdown(["entry", *titles], rows, right=1)


def triplet_table(context: ReportContext) -> str:
    """Return statistics of the triplets that entries were trained with, as Markdown."""
    rows = []
    for row in context.entries:
        log = (
            context.folder.training_log(row.name) / next(iter(row.runs)) / "plots/metrics/triplets"
        )
        if log.is_dir():
            values = [read_rows(log / f"{key}.tsv")[0][key] for key in TRIPLETS]
            rows.append([f"`{row.name}`", *(f"{float(value):.1%}" for value in values)])
    if not rows:
        return ""
    header = [
        "entry", "clips that are an anchor", "positives with a shared label",
        "negatives without a shared label", "share of clips with half of the negatives",
    ]  # fmt: skip
    return f"""
Statistics of the triplets that training mined:

{to_markdown(header, rows, right=1)}"""


def recall_verdict(context: ReportContext, base: Row) -> str:
    """Say on which recalls the reference is above or below the base, over the common runs."""
    best = context.reference
    if best is None or best.name == base.name:
        return render(VERDICT, best=None, base=base.name)
    gains = recall_gains(context, best, base)

    def titles(verdict: str) -> str:
        return ", ".join(
            context.metrics[key].title for key, gain in gains.items() if gain.verdict() == verdict
        )

    return render(
        VERDICT,
        best=best.name,
        base=base.name,
        one_run=len(common_runs(best, base)) == 1,
        gains=titles("gain"),
        losses=titles("loss"),
    )


def section(context: ReportContext) -> str:
    """Return this section of the page."""
    base = find_entry(context.entries, context.settings.plot[0], "plot")
    counts = context.index.labels[context.index.folds[0].test].sum(axis=0, dtype=int)
    first, second = (context.index.classes[place].name for place in (-counts).argsort()[:2])
    queries = len(context.index.folds[0].test)
    return f"""\
## Labels of nearest clips

Each of the {queries:,} test clips is the query once, among all others. R@K is the share of its
labels that its K nearest clips have (Lee et al., 2020, arXiv 2008.03729). any@K is looser: whether
they have one of its labels. rarer R@K is R@K without {first} and {second}.

Differences of entries to `{base.name}` on test, over the same seeds, with 95% t-intervals where
there are several:

{recall_table(context, base)}
{recall_verdict(context, base)}
{triplet_table(context)}"""
