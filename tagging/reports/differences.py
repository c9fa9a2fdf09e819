"""What changes to a model are worth: paired differences over runs with the same folds and seeds."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from scipy import stats

from tagging.base.errors import UserError
from tagging.base.files import write_text
from tagging.reports.facts import PLOTS, Facts, Row, find, linked
from tagging.reports.leaderboard import cell
from tagging.reports.picture import draw, in_the_look
from tagging.scoring.tables import to_markdown

CONFIDENCE = 0.95
PICTURE = PLOTS / "differences.svg"
NEITHER = {"none shown": "No difference shown", "one run": "One run, which shows no spread"}


class Difference(NamedTuple):
    """A mean of paired differences, and its interval; None where one pair shows no spread."""

    mean: float
    interval: tuple[float, float] | None

    def verdict(self, higher_is_better: bool = True) -> str:
        """Whether the interval lies on one side of zero, has it inside, or is none."""
        if self.interval is None:
            return "one run"
        low, high = self.interval if higher_is_better else (-self.interval[1], -self.interval[0])
        return "gain" if low > 0 else "loss" if high < 0 else "none shown"

    def text(self, decimals: int) -> str:
        """The mean and, in brackets, its interval."""
        mean, *ends = (f"{value:+.{decimals}f}" for value in (self.mean, *(self.interval or ())))
        return f"{mean} ({' to '.join(ends)})" if ends else mean


def paired_difference(new: Sequence[float], old: Sequence[float]) -> Difference:
    """Return how much higher `new` is than `old`, with the t-interval of the mean of the pairs.

    Student (1908), "The probable error of a mean". It takes the differences for draws from a
    normal distribution, which few runs cannot show to be wrong.

    Args:
        new: a score a run.
        old: the same runs' scores, in the same order.
    """
    pairs = [a - b for a, b in zip(new, old, strict=True)]
    middle = mean(pairs)
    if len(pairs) == 1:
        return Difference(middle, None)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1) * stdev(pairs) / len(pairs) ** 0.5
    return Difference(middle, (middle - float(reach), middle + float(reach)))


def common_runs(row: Row, reference: Row) -> list[str]:
    """Return the runs that both have: the same fold and seed.

    Raises:
        UserError: if there are none.
    """
    if not (runs := [run for run in reference.runs if run in row.runs]):
        raise UserError(
            f"params.yaml: {row.name} and {reference.name} have no fold and seed in common; to be "
            "compared they take one or more"
        )
    return runs


def compare(row: Row, reference: Row, split: str, metric: str) -> Difference:
    """Return how much higher an entry's metric is on a split, the same runs compared."""
    runs = common_runs(row, reference)
    return paired_difference(
        *([of.runs[run][split][metric] for run in runs] for of in (row, reference))
    )


class Comparison(NamedTuple):
    """An entry, what it is compared with, and the difference on each split: the first decides."""

    entry: Row
    reference: Row
    by_split: dict[str, Difference]
    verdict: str

    @property
    def method(self) -> str:
        """What the entry's name adds to the reference's."""
        return self.entry.name.removeprefix(f"{self.reference.name}_")


def comparisons(facts: Facts) -> list[Comparison]:
    """Return all comparisons that `compare.differences` asks for.

    Raises:
        UserError: if a name is no entry's, or two entries have no run in common.
    """
    found = []
    for name, others in facts.settings.differences.items():
        reference = find(facts.entries, name, "differences")
        for row in (find(facts.entries, other, f"differences.{name}") for other in others):
            by_split = {of: compare(row, reference, of, facts.task.chooses) for of in facts.splits}
            verdict = by_split[facts.splits[0]].verdict(facts.metric.higher_is_better)
            found.append(Comparison(row, reference, by_split, verdict))
    return found


def changes(entry: dict[str, Any], reference: dict[str, Any]) -> str:
    """Return what an entry of params.yaml sets otherwise than another, seeds aside."""

    def settings(of: dict[str, Any]) -> dict[str, Any]:
        own = {key: value for key, value in of.items() if key not in ("network", "train", "seeds")}
        return own | of.get("network", {}) | of.get("train", {})

    theirs = settings(reference)
    return ", ".join(
        f"`{key}: {value}`" for key, value in settings(entry).items() if theirs.get(key) != value
    )


def table(facts: Facts, found: list[Comparison]) -> str:
    """Return the scores and differences of all that is compared with one entry, as Markdown."""
    reference, metric, name = found[0].reference, facts.metric, facts.task.chooses
    params = {entry: of for section in facts.params.values() for entry, of in section.items()}

    def scores(row: Row, split: str) -> str:
        without_interval = {k: getattr(row, split).get(k) for k in (name, f"{name}_std")}
        return cell(metric, without_interval, name)

    rows = [[reference.name, "", ""]]
    rows[0] += [text for split in facts.splits for text in (scores(reference, split), "")]
    for each in found:
        said = changes(params[each.entry.name], params[reference.name])
        rows.append([each.method, said, each.verdict])
        for split, difference in each.by_split.items():
            rows[-1] += [scores(each.entry, split), difference.text(metric.decimals)]
    header = ["entry", "changes", "verdict"]
    header += [text for of in facts.splits for text in (f"{of} {metric.title}", "difference")]
    return f"### {reference.name}\n\n{to_markdown(header, rows, right=3)}"


def chart(found: list[Comparison], title: str) -> dict[str, Any]:
    """Return a Vega-Lite chart: methods from top to bottom, references by colour.

    Args:
        found: what is compared.
        title: the axis's.
    """
    rows = []
    for each in found:
        difference = next(iter(each.by_split.values()))
        low, high = difference.interval or (difference.mean, difference.mean)
        row = {"reference": each.reference.name, "method": each.method, "mean": difference.mean}
        rows.append(row | {"low": low, "high": high})
    references = list(dict.fromkeys(row["reference"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    of = {"field": "reference", "type": "nominal", "sort": references}
    axis = {"grid": True, "tickBand": "extent"}
    position = {
        "y": {"field": "method", "type": "nominal", "sort": methods, "title": None, "axis": axis},
        "yOffset": of,
        "color": {**of, "title": "compared with"},
    }
    x = {"type": "quantitative", "title": title, "axis": {"format": "+.3f"}}
    interval = {**position, "x": {**x, "field": "low"}, "x2": {"field": "high"}}
    layers = [
        ({"type": "rule", "color": "black"}, {"x": {"datum": 0}}),
        ({"type": "rule", "strokeWidth": 2}, interval),
        ({"type": "point", "filled": True, "size": 60}, {**position, "x": {**x, "field": "mean"}}),
    ]
    return {
        "data": {"values": rows},
        "width": 520,
        "height": {"step": 14},
        "layer": [{"mark": mark, "encoding": encoding} for mark, encoding in layers],
    }


def summary(found: list[Comparison], decimals: int) -> str:
    """Return the gains and the losses, one line each, and how many differences are neither."""
    names: dict[str, list[str]] = {"gain": [], "loss": []}
    for each in found:
        value = next(iter(each.by_split.values())).mean
        text = f"{each.method} on {each.reference.name} ({value:+.{decimals}f})"
        names.setdefault(each.verdict, []).append(text)
    neither = {k: f"{len(of)} of {len(found)}" for k, of in names.items() if k in NEITHER}
    said = {
        "Gains": ", ".join(names["gain"]) or "none",
        "Losses": ", ".join(names["loss"]) or "none",
    }
    said |= {NEITHER[verdict]: text for verdict, text in neither.items()}
    return "".join(f"- **{title}**: {text}.\n" for title, text in said.items())


def section(facts: Facts) -> str:
    """Return this section of the page, and draw its picture; nothing if nothing is compared."""
    found = comparisons(facts)
    if not found:
        return ""
    judged = f"{'validation' if facts.by_validation else 'test'} {facts.metric.title}"
    picture = draw(in_the_look(chart(found, f"difference in {judged}")))
    write_text(PICTURE, picture)
    of_reference: dict[str, list[Comparison]] = {}
    for each in found:
        of_reference.setdefault(each.reference.name, []).append(each)
    tables = "\n".join(table(facts, of) for of in of_reference.values())
    return f"""\
## Differences

Each entry is compared with the one that it changes, run by run: the same folds and seeds.

{summary(found, facts.metric.decimals)}
![Differences in {judged}]({linked(PICTURE)})

A difference is the mean over runs; in brackets its {CONFIDENCE:.0%} t-interval. A gain or a loss is
one whose interval on {judged} leaves out zero; what else is shown decides nothing. If no change did
anything, {(1 - CONFIDENCE) * len(found):.2g} of {len(found)} intervals would be expected to leave
out zero. They are about other runs on these clips, not about other clips.

{tables}"""
