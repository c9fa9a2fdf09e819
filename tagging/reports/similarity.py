"""What metric learning is worth: recall of labels among the nearest clips, beside a tagger's."""

from pathlib import Path

from tagging.reports.differences import Difference, common_runs, compare
from tagging.reports.facts import Facts, Row, find
from tagging.scoring.tables import read_rows, to_markdown

TRIPLETS = ("anchors", "positives", "negatives", "clips")  # what training logs of those it chooses


def gains(facts: Facts, row: Row, reference: Row) -> dict[str, Difference]:
    """Return how much higher each recall of an entry is on test, the same runs compared."""
    recalls = [name for name in facts.metrics if name.startswith("recall_at_")]
    return {name: compare(row, reference, "test", name) for name in recalls}


def table(facts: Facts, reference: Row) -> str:
    """Return what each entry that has the reference's runs adds to its recalls, as Markdown."""
    rows = []
    for row in facts.entries:
        if row.name != reference.name and set(row.runs) & set(reference.runs):
            found = gains(facts, row, reference)
            rows.append([f"`{row.name}`"])
            rows[-1] += [of.text(facts.metrics[name].decimals) for name, of in found.items()]
    header = ["entry", *(facts.metrics[name].title for name in gains(facts, reference, reference))]
    return to_markdown(header, rows, right=1)


def triplets(facts: Facts) -> str:
    """Return what is known of the triplets that entries were trained with, as Markdown."""
    rows = []
    for row in facts.entries:
        folder = Path(f"plots/train/{row.name}/{next(iter(row.runs))}/plots/metrics/triplets")
        if folder.is_dir():
            values = [read_rows(folder / f"{key}.tsv")[0][key] for key in TRIPLETS]
            rows.append([f"`{row.name}`", *(f"{float(value):.1%}" for value in values)])
    if not rows:
        return ""
    header = [
        "entry", "clips that are an anchor", "positives that share a label",
        "negatives that share none", "clips that half of the negatives are",
    ]  # fmt: skip
    return f"""
What the triplets are that these learn from, of the clips that train:

{to_markdown(header, rows, right=1)}"""


def verdict(facts: Facts, reference: Row) -> str:
    """Say whether the chosen entry is above the reference on all recalls, run by run."""
    best = facts.chosen
    if best is None or best.name == reference.name:
        return f"Validation finds none better than `{reference.name}`."
    if len(common_runs(best, reference)) == 1:
        return (
            f"`{best.name}`, which validation chooses, has one run in common with "
            f"`{reference.name}`. One run shows no spread: whether it is above is not told."
        )
    found = gains(facts, best, reference)

    def titles(verdict: str) -> str:
        return ", ".join(
            facts.metrics[name].title for name, of in found.items() if of.verdict() == verdict
        )

    text = f"`{best.name}`, which validation chooses, "
    text += f"is above it on {gain}" if (gain := titles("gain")) else "is above it on none"
    if loss := titles("loss"):
        text += f", and below on {loss}: there classification stays best, as Lee et al. found"
    return f"{text}, by more than seeds differ."


def section(facts: Facts) -> str:
    """Return this section of the page."""
    reference = find(facts.entries, facts.settings.plotted[0], "plotted")
    counts = facts.index.labels[facts.index.folds[0].test].sum(axis=0, dtype=int)
    first, second = (facts.index.classes[place].name for place in (-counts).argsort()[:2])
    queries = len(facts.index.folds[0].test)
    return f"""\
## What is near shares labels

Each of the {queries:,} test clips asks once, among all others. R@K is the share of its labels that
its K nearest have (Lee et al., 2020, arXiv 2008.03729); any@K, looser, whether they have one of
them; rarer R@K is R@K without {first} and {second}.

What entries add to `{reference.name}` on test, the same seeds compared, with 95% t-intervals where
there are several:

{table(facts, reference)}
{verdict(facts, reference)}
{triplets(facts)}"""
