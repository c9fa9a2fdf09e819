"""Stage `report`: the page that says what each method is worth on which model, and its picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from ablation.differences import CONFIDENCE, Difference, paired_difference
from ablation.picture import draw
from ablation.settings import BASELINE, RESULTS, Ablation, Method, load_ablation
from tagging.errors import entry_point
from tagging.files import write_text
from tagging.tables import read_rows, to_markdown

PAGE = Path("ablation/README.md")
PICTURE = Path("ablation/differences.svg")
JUDGED = "val_ndcg"
SHOWN = {JUDGED: "val NDCG", "test_ndcg": "test NDCG", "test_precision_at_1": "test P@1"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SKIPPED = "–"


class Result(NamedTuple):
    """What a model's trainings with one method gave: each score, a value a seed."""

    scores: dict[str, list[float]]
    parameters: int


# By model, then by method; without the methods that a model cannot take.
Results = Mapping[str, Mapping[str, Result]]
Differences = Mapping[str, Mapping[str, Difference]]


def read_results(ablation: Ablation) -> Results:
    """Return the results of all models and methods of params.yaml."""
    results: dict[str, dict[str, Result]] = {}
    for model in ablation.models:
        results[model] = {}
        for method in ablation.methods:
            by_seed = {int(row["seed"]): row for row in read_rows(table_path(model, method))}
            if by_seed:
                rows = [by_seed[seed] for seed in ablation.seeds]
                scores = {name: [float(row[name]) for row in rows] for name in SHOWN}
                results[model][method] = Result(scores, int(rows[0]["parameters"]))
    return results


def table_path(model: str, method: str) -> Path:
    """Return where a model's results with a method lie."""
    return RESULTS / model / f"{method}.csv"


def differences(results: Results, score: str) -> Differences:
    """Return how much each method changes a score, the same seeds compared."""
    return {
        model: {
            method: paired_difference(result.scores[score], methods[BASELINE].scores[score])
            for method, result in methods.items()
            if method != BASELINE
        }
        for model, methods in results.items()
    }


def unseen(seeds: int) -> str:
    """Return how a difference is called whose interval has zero in it."""
    return f"no difference that {counted(seeds, 'seed')} show"


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: one seed, three seeds, 12 seeds."""
    word = NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"
    return f"{word} {noun}" if number == 1 else f"{word} {noun}s"


def summary(judged: Differences, seeds: int) -> str:
    """Return the gains and the losses, one line each, and how many differences are neither."""
    called: dict[str, list[str]] = {"gain": [], "loss": [], "none": [], "unknown": []}
    for model, methods in judged.items():
        for method, difference in methods.items():
            called[difference.verdict].append(f"{method} on {model} ({difference.mean:+.4f})")
    if seeds == 1:
        return "One seed was trained: it shows no spread, and so neither a gain nor a loss.\n"
    lines = [
        f"- **Gains**: {', '.join(called['gain']) or 'none'}.",
        f"- **Losses**: {', '.join(called['loss']) or 'none'}.",
        f"- **{unseen(seeds).capitalize()}**: {len(called['none'])} of "
        f"{sum(map(len, called.values()))}.",
    ]
    return "\n".join(lines) + "\n"


def sentence(name: str, method: Method, judged: Differences, seeds: int) -> str:
    """Say what one method is worth on each model."""
    called = {
        "gain": "a gain",
        "loss": "a loss",
        "none": unseen(seeds),
        "unknown": "one seed, which shows no spread,",
    }
    parts: dict[str, list[str]] = {}
    for model, methods in judged.items():
        if name in methods:
            words = called[methods[name].verdict]
            parts.setdefault(words, []).append(f"{model} ({methods[name].mean:+.4f})")
    clauses = [f"{words} on {' and '.join(models)}" for words, models in parts.items()]
    if skipping := [model for model, methods in judged.items() if name not in methods]:
        clauses.append(f"not for {' and '.join(skipping)}: no such setting")
    return f"**{name}** ({described(method)}): {'; '.join(clauses)}."


def described(method: Method) -> str:
    """Return what a method changes, as params.yaml has it."""
    changes = {**method.train, **method.network}
    return ", ".join(f"`{name}: {value}`" for name, value in changes.items()) or "changes nothing"


def table(model: str, results: Results, ablation: Ablation) -> str:
    """Return one model's scores and their differences as a Markdown table."""
    columns = {score: differences(results, score)[model] for score in SHOWN}
    rows = []
    for method in ablation.methods:
        result = results[model].get(method)
        if result is None:
            rows.append([method, *[SKIPPED] * (1 + 2 * len(SHOWN))])
            continue
        cells = []
        for score, of_method in columns.items():
            cells.append(shown_values(result.scores[score]))
            cells.append("" if method == BASELINE else shown_difference(of_method[method]))
        rows.append([method, verdict(columns[JUDGED].get(method)), *cells])
    header = [
        "method",
        "verdict",
        *(text for name in SHOWN.values() for text in (name, "difference")),
    ]
    return to_markdown(header, rows, right=2)


def verdict(difference: Difference | None) -> str:
    """Return a verdict as a table has it; None is the baseline."""
    if difference is None:
        return ""
    return {"gain": "gain", "loss": "loss", "none": "none shown", "unknown": "one seed"}[
        difference.verdict
    ]


def shown_values(values: Sequence[float]) -> str:
    """Return the mean and, of several, the standard deviation."""
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread}"


def shown_difference(difference: Difference) -> str:
    """Return a mean difference and its interval."""
    if difference.interval is None:
        return f"{difference.mean:+.4f}"
    low, high = difference.interval
    return f"{difference.mean:+.4f} ({low:+.4f} to {high:+.4f})"


def how_judged(judged: Differences, seeds: int) -> str:
    """Say what the verdicts mean, and what they do not."""
    if seeds == 1:
        return "A difference over one seed has no interval; take more `ablation.seeds` for one."
    comparisons = sum(map(len, judged.values()))
    by_chance = (1 - CONFIDENCE) * comparisons
    return f"""\
A difference is the mean, over {counted(seeds, "seed")}, of a method's score less that of
`{BASELINE}` with the same seed; in brackets its {CONFIDENCE:.0%} t-interval. A gain or a loss is
one whose interval on validation NDCG leaves out zero; the test split is shown and decides nothing.
If no method did anything, {by_chance:.2g} of {comparisons} intervals would be expected to leave out
zero. They are about other seeds on these clips, not about other clips."""


def page(ablation: Ablation, results: Results) -> str:
    """Return the page: the verdicts, the picture, each method, the tables."""
    judged = differences(results, JUDGED)
    seeds = len(ablation.seeds)
    trainings = seeds * sum(len(methods) for methods in results.values())
    sentences = "\n".join(
        f"- {sentence(name, method, judged, seeds)}"
        for name, method in ablation.methods.items()
        if name != BASELINE
    )
    tables = "\n".join(
        f"### {model}, {results[model][BASELINE].parameters:,} parameters\n\n"
        f"{table(model, results, ablation)}"
        for model in ablation.models
    )
    return f"""\
# What each training method is worth

Each method is turned on alone, on models as `params.yaml` has them, and compared with `{BASELINE}`.
Every training ({trainings} of them) has {counted(ablation.epochs, "epoch")}, whatever the models
have elsewhere, so that the whole is affordable: a method that needs long training may be worth more
than it is here. This page is written by `dvc repro ablation/dvc.yaml`.

{summary(judged, seeds)}
![Differences in validation NDCG]({PICTURE.name})

## Method by method

Differences are in validation NDCG.

{sentences}

## The tables

{how_judged(judged, seeds)}
Values are means ± standard deviations over seeds. A {SKIPPED} stands where a model's network has no
such setting.

{tables}
Data: AudioSet's embeddings and labels, by Google, CC BY 4.0.
"""


@entry_point
def main() -> None:
    """Run the stage."""
    ablation = load_ablation()
    results = read_results(ablation)
    judged = differences(results, JUDGED)
    methods = [name for name in ablation.methods if name != BASELINE]
    write_text(PICTURE, draw(judged, methods, f"difference in validation NDCG to {BASELINE}"))
    write_text(PAGE, page(ablation, results))


if __name__ == "__main__":
    main()
