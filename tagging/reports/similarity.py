"""Effects of metric learning: recall of labels among the nearest clips, against a tagger's."""

from tagging.reports.context import ReportContext, Row, find_entry
from tagging.reports.differences import TITLES, common_runs, compare_runs
from tagging.reports.page import render
from tagging.reports.significance import Difference, expected_by_chance, find_verdicts
from tagging.scoring.tables import read_rows, to_markdown

TRIPLETS = ("anchors", "positives", "negatives", "clips")  # logged by training with triplets

VERDICTS = """\
{% if intervals %}\
The intervals are not corrected for their number: if no entry differed from `{{ base }}`, \
{{ by_chance }} would be expected to exclude zero. Gains and losses hold after Holm's correction \
over these {{ intervals }}; a hint is another interval that excludes zero.

{% for title, names in verdicts.items() %}
- **{{ title }}**: {{ names or "none" }}.
{% endfor %}
{% if without_interval %}
- **One run, without an interval**: {{ without_interval }}.
{% endif %}
{% else %}
No entry has several runs in common with `{{ base }}`: without an interval there is no verdict.
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
Statistics of the triplets of one epoch, selected by the embeddings that training starts from. A
negative that is drawn by its tag may share other labels with the anchor:

{to_markdown(header, rows, right=1)}"""


def recall_verdicts(context: ReportContext, base: Row) -> str:
    """Name the entries whose recalls are above or below those of the base, over the common runs."""
    labels, family, without_interval = [], [], []
    for row in context.entries:
        if row.name != base.name and set(row.runs) & set(base.runs):
            if len(common_runs(row, base)) == 1:
                without_interval.append(f"`{row.name}`")
                continue
            for key, gain in recall_gains(context, row, base).items():
                labels.append((row.name, context.metrics[key].title))
                family.append([gain])
    recalls: dict[str, dict[str, list[str]]] = {verdict: {} for verdict in TITLES}
    for (name, title), verdict in zip(labels, find_verdicts(family), strict=True):
        if verdict in recalls:
            recalls[verdict].setdefault(name, []).append(title)
    return render(
        VERDICTS,
        base=base.name,
        intervals=len(family),
        without_interval=", ".join(without_interval),
        by_chance=f"{expected_by_chance(len(family))} intervals",
        verdicts={
            title: ", ".join(
                f"`{name}` ({', '.join(titles)})" for name, titles in recalls[verdict].items()
            )
            for verdict, title in TITLES.items()
        },
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
{recall_verdicts(context, base)}
{triplet_table(context)}"""
