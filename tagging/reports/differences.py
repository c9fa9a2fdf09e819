"""Effects of changes to a model: paired differences over runs with the same folds and seeds."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from scipy import stats

from tagging.base.errors import UserError
from tagging.base.files import write_text
from tagging.reports.charts import apply_theme, render_svg
from tagging.reports.context import ReportContext, Row, find_entry
from tagging.reports.leaderboard import metric_cell
from tagging.scoring.tables import to_markdown

CONFIDENCE = 0.95
INCONCLUSIVE = {"not significant": "Not significant", "one run": "One run, without an interval"}


class Difference(NamedTuple):
    """A mean of paired differences and its interval, None for a single pair."""

    mean: float
    interval: tuple[float, float] | None

    def verdict(self, higher_is_better: bool = True) -> str:
        """Return gain or loss if the interval excludes zero, else not significant or one run."""
        if self.interval is None:
            return "one run"
        low, high = self.interval if higher_is_better else (-self.interval[1], -self.interval[0])
        return "gain" if low > 0 else "loss" if high < 0 else "not significant"

    def format(self, decimals: int) -> str:
        """Return the mean and, in brackets, its interval."""
        mean, *ends = (f"{value:+.{decimals}f}" for value in (self.mean, *(self.interval or ())))
        return f"{mean} ({' to '.join(ends)})" if ends else mean


def paired_difference(new: Sequence[float], old: Sequence[float]) -> Difference:
    """Return how much higher `new` is than `old`, with the t-interval of the mean of the pairs.

    Student (1908), "The probable error of a mean". It assumes normally distributed differences,
    which few runs cannot refute.

    Args:
        new: a score of each run.
        old: the same runs' scores, in the same order.
    """
    pairs = [a - b for a, b in zip(new, old, strict=True)]
    center = mean(pairs)
    if len(pairs) == 1:
        return Difference(center, None)
    margin = stats.t.ppf((1 + CONFIDENCE) / 2, len(pairs) - 1) * stdev(pairs) / len(pairs) ** 0.5
    return Difference(center, (center - float(margin), center + float(margin)))


def common_runs(row: Row, base: Row) -> list[str]:
    """Return the runs that both entries have: the same fold and seed.

    Raises:
        UserError: if there is no such run.
    """
    if not (runs := [run for run in base.runs if run in row.runs]):
        raise UserError(
            f"params.yaml: {row.name} and {base.name} have no fold and seed in common, and cannot "
            "be compared: give both one seed"
        )
    return runs


def compare_runs(row: Row, base: Row, split: str, key: str) -> Difference:
    """Return how much higher an entry's metric is on a split, over the common runs."""
    runs = common_runs(row, base)
    return paired_difference(
        *([entry.runs[run][split][key] for run in runs] for entry in (row, base))
    )


class Comparison(NamedTuple):
    """An entry, its base, and the difference on each split: the first decides the verdict."""

    entry: Row
    base: Row
    by_split: dict[str, Difference]
    verdict: str

    @property
    def method(self) -> str:
        """The part of the entry's name after the base's."""
        return self.entry.name.removeprefix(f"{self.base.name}_")

    @property
    def difference(self) -> Difference:
        """The difference that decides the verdict."""
        return next(iter(self.by_split.values()))


def compute_comparisons(context: ReportContext) -> list[Comparison]:
    """Return all comparisons of `compare.differences`.

    Raises:
        UserError: if a name is no entry's, or two entries have no run in common.
    """
    comparisons = []
    for name, others in context.settings.differences.items():
        base = find_entry(context.entries, name, "differences")
        for other in others:
            row = find_entry(context.entries, other, f"differences.{name}")
            by_split = {
                split: compare_runs(row, base, split, context.key) for split in context.splits
            }
            deciding = by_split[context.splits[0]]
            verdict = deciding.verdict(context.metric.higher_is_better)
            comparisons.append(Comparison(row, base, by_split, verdict))
    return comparisons


def changed_settings(config: dict[str, Any], base: dict[str, Any]) -> str:
    """Return the settings of an entry of params.yaml that differ from another's, without seeds."""

    def flatten(entry: dict[str, Any]) -> dict[str, Any]:
        nested = ("network", "train", "seeds")
        own = {key: value for key, value in entry.items() if key not in nested}
        return own | entry.get("network", {}) | entry.get("train", {})

    base_settings = flatten(base)
    return ", ".join(
        f"`{key}: {value}`"
        for key, value in flatten(config).items()
        if base_settings.get(key) != value
    )


def difference_table(context: ReportContext, group: list[Comparison]) -> str:
    """Return the scores and differences of all comparisons with one base, as Markdown."""
    base, metric, key = group[0].base, context.metric, context.key
    configs = {name: config for kind in context.configs.values() for name, config in kind.items()}

    def score(row: Row, split: str) -> str:
        scores = {k: getattr(row, split).get(k) for k in (key, f"{key}_std")}  # no interval
        return metric_cell(metric, scores, key)

    rows = [[base.name, "", ""]]
    rows[0] += [text for split in context.splits for text in (score(base, split), "")]
    for comparison in group:
        entry = comparison.entry
        changes = changed_settings(configs[entry.name], configs[base.name])
        rows.append([comparison.method, changes, comparison.verdict])
        for split, difference in comparison.by_split.items():
            rows[-1] += [score(entry, split), difference.format(metric.decimals)]
    header = ["entry", "changes", "verdict"]
    header += [text for s in context.splits for text in (f"{s} {metric.title}", "difference")]
    return f"### {base.name}\n\n{to_markdown(header, rows, right=3)}"


def difference_chart(comparisons: list[Comparison], title: str) -> dict[str, Any]:
    """Return a Vega-Lite chart: methods from top to bottom, bases by colour.

    Args:
        comparisons: all comparisons.
        title: of the axis.
    """
    rows = []
    for comparison in comparisons:
        mean, interval = comparison.difference
        low, high = interval or (mean, mean)
        row = {"base": comparison.base.name, "method": comparison.method, "mean": mean}
        rows.append(row | {"low": low, "high": high})
    bases = list(dict.fromkeys(row["base"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    base = {"field": "base", "type": "nominal", "sort": bases}
    axis = {"grid": True, "tickBand": "extent"}
    position = {
        "y": {"field": "method", "type": "nominal", "sort": methods, "title": None, "axis": axis},
        "yOffset": base,
        "color": {**base, "title": "compared with"},
    }
    x = {"type": "quantitative", "title": title, "axis": {"format": "+.3f"}}
    ends = {**position, "x": {**x, "field": "low"}, "x2": {"field": "high"}}
    layers = [
        ({"type": "rule", "color": "black"}, {"x": {"datum": 0}}),
        ({"type": "rule", "strokeWidth": 2}, ends),
        ({"type": "point", "filled": True, "size": 60}, {**position, "x": {**x, "field": "mean"}}),
    ]
    return {
        "data": {"values": rows},
        "width": 520,
        "height": {"step": 14},
        "layer": [{"mark": mark, "encoding": encoding} for mark, encoding in layers],
    }


def summarize_verdicts(comparisons: list[Comparison], decimals: int) -> str:
    """Return the gains and the losses, one line each, and the numbers of other verdicts."""
    names: dict[str, list[str]] = {"gain": [], "loss": []}
    for comparison in comparisons:
        value = comparison.difference.mean
        text = f"{comparison.method} on {comparison.base.name} ({value:+.{decimals}f})"
        names.setdefault(comparison.verdict, []).append(text)
    lines = {
        "Gains": ", ".join(names["gain"]) or "none",
        "Losses": ", ".join(names["loss"]) or "none",
    }
    for verdict, title in INCONCLUSIVE.items():
        if verdict in names:
            lines[title] = f"{len(names[verdict])} of {len(comparisons)}"
    return "".join(f"- **{title}**: {text}.\n" for title, text in lines.items())


def section(context: ReportContext) -> str:
    """Return this section of the page, and write its chart; empty without comparisons."""
    comparisons = compute_comparisons(context)
    if not comparisons:
        return ""
    split = "validation" if context.has_validation else "test"
    measured = f"{split} {context.metric.title}"
    chart_path = context.folder.comparison_plots / "differences.svg"
    chart = difference_chart(comparisons, f"difference in {measured}")
    write_text(chart_path, render_svg(apply_theme(chart)))
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(comparison.base.name, []).append(comparison)
    tables = "\n".join(difference_table(context, group) for group in groups.values())
    false_positives = (1 - CONFIDENCE) * len(comparisons)
    return f"""\
## Differences

Each entry is compared with the one that it changes, run by run, with the same folds and seeds.

{summarize_verdicts(comparisons, context.metric.decimals)}
![Differences in {measured}]({context.link(chart_path)})

A difference is the mean over runs, with its {CONFIDENCE:.0%} t-interval in brackets. A gain or a
loss is a difference in {measured} whose interval excludes zero; other columns decide nothing. If
no change had an effect, {false_positives:.2g} of {len(comparisons)} intervals would be expected to
exclude zero. The intervals cover other runs on these clips, not other clips.

{tables}"""
