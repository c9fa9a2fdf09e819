"""Effects of changes to a model: paired differences over runs with the same folds and seeds."""

from typing import Any, NamedTuple

from tagging.base.errors import UserError
from tagging.base.files import write_text
from tagging.reports.charts import apply_theme, render_svg
from tagging.reports.context import ReportContext, Row, find_entry
from tagging.reports.leaderboard import metric_cell
from tagging.reports.page import render
from tagging.reports.significance import (
    CONFIDENCE,
    Difference,
    expected_by_chance,
    find_verdicts,
    paired_difference,
)
from tagging.scoring.tables import to_markdown

SPLIT_NAMES = {"val": "validation", "test": "test"}
TITLES = {
    "gain": "Gains", "loss": "Losses", "hint of a gain": "Hints of a gain",
    "hint of a loss": "Hints of a loss",
}  # fmt: skip
INCONCLUSIVE = {"not significant": "Not significant", "one run": "One run, without an interval"}

SECTION = """\
## Differences

Each entry is compared with the one that it changes, run by run, with the same folds and seeds \
(where one has more of them, with those of both).

{{ summary }}\
![Differences in {{ measured }}]({{ chart }})

{% if num_tested %}
A difference is the mean over runs, with its {{ "{:.0%}".format(confidence) }} t-interval in \
brackets. The intervals are not corrected for their number: if no change had an effect, \
{{ by_chance }} would be expected to exclude zero. They cover other runs on these clips, not other \
clips. A gain or a loss holds after Holm's correction over the {{ num_tested }} comparisons, \
{% if has_validation %}
with one sign and intervals that exclude zero on validation and on test. A hint has one sign on \
both, and an interval that excludes zero on one of them at least.
{% else %}
with an interval on test that excludes zero. A hint is an interval that excludes zero without that.
{% endif %}
{% else %}
A difference is of one run, without an interval.
{% endif %}

{{ tables }}"""


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
    """An entry, its base, the difference in a metric on each split, and the verdict on them."""

    entry: Row
    base: Row
    key: str  # of the metric
    by_split: dict[str, Difference]
    verdict: str

    @property
    def method(self) -> str:
        """The part of the entry's name after the base's."""
        return self.entry.name.removeprefix(f"{self.base.name}_")

    @property
    def difference(self) -> Difference:
        """The difference on the first split: that of the chart."""
        return next(iter(self.by_split.values()))


def compute_comparisons(context: ReportContext) -> list[Comparison]:
    """Return all comparisons of `compare.differences`, by the selection metric first.

    All are one family for Holm's correction, whichever their metric.

    Raises:
        UserError: if a name is no entry's or no metric's, or two entries have no run in common.
    """
    keys = [context.key, *context.settings.difference_metrics]
    for key in keys:
        if key not in context.metrics or keys.count(key) > 1:
            raise UserError(
                "params.yaml: compare.difference_metrics must name metrics of the task once, "
                f"beside {context.key} ({', '.join(context.metrics)}), got {key!r}"
            )
    triples = [
        (
            find_entry(context.entries, other, f"differences.{name}"),
            find_entry(context.entries, name, "differences"),
            key,
        )
        for key in keys
        for name, others in context.settings.differences.items()
        for other in others
    ]
    family = [
        [compare_runs(row, base, split, key) for split in context.splits]
        for row, base, key in triples
    ]
    verdicts = find_verdicts(family, [context.metrics[key].higher_is_better for *_, key in triples])
    return [
        Comparison(row, base, key, dict(zip(context.splits, by_split, strict=True)), verdict)
        for (row, base, key), by_split, verdict in zip(triples, family, verdicts, strict=True)
    ]


def changed_settings(config: dict[str, Any], base: dict[str, Any]) -> str:
    """Return the settings of an entry that differ from another's, without seeds and folds."""

    def flatten(entry: dict[str, Any]) -> dict[str, Any]:
        nested = ("network", "train", "seeds", "folds")
        own = {key: value for key, value in entry.items() if key not in nested}
        return own | entry.get("network", {}) | entry.get("train", {})

    base_settings = flatten(base)
    return ", ".join(
        f"`{key}: {value}`"
        for key, value in flatten(config).items()
        if base_settings.get(key) != value
    )


def difference_table(context: ReportContext, group: list[Comparison]) -> str:
    """Return the scores and differences of comparisons with one base by one metric, as Markdown."""
    base, key = group[0].base, group[0].key
    metric = context.metrics[key]
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
    title = f"{base.name}, {metric.title}" if context.settings.difference_metrics else base.name
    return f"### {title}\n\n{to_markdown(header, rows, right=3)}"


def difference_chart(comparisons: list[Comparison], title: str) -> dict[str, Any]:
    """Return a Vega-Lite chart: methods from top to bottom, bases by colour.

    Args:
        comparisons: all comparisons.
        title: of the axis.
    """
    rows = []
    for comparison in comparisons:
        mean = comparison.difference.mean
        low, high = comparison.difference.interval or (mean, mean)
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


def summarize_verdicts(context: ReportContext, comparisons: list[Comparison]) -> str:
    """Return gains, losses and hints of each metric, one line each, and other verdicts' numbers."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault(comparison.key, []).append(comparison)
    text = ""
    for key, group in groups.items():
        decimals = context.metrics[key].decimals
        names: dict[str, list[str]] = {}
        for comparison in group:
            means = [
                f"{difference.mean:+.{decimals}f} on {SPLIT_NAMES[split]}"
                for split, difference in comparison.by_split.items()
            ]
            name = f"{comparison.method} on {comparison.base.name} ({', '.join(means)})"
            names.setdefault(comparison.verdict, []).append(name)
        lines = {
            title: "; ".join(names.get(verdict, ["none"])) for verdict, title in TITLES.items()
        }
        for verdict, title in INCONCLUSIVE.items():
            if verdict in names:
                lines[title] = f"{len(names[verdict])} of {len(group)}"
        if len(groups) > 1:
            text += f"{context.metrics[key].title}:\n\n"
        text += "".join(f"- **{title}**: {line}.\n" for title, line in lines.items()) + "\n"
    return text


def section(context: ReportContext) -> str:
    """Return this section of the page, and write its chart; empty without comparisons."""
    comparisons = compute_comparisons(context)
    if not comparisons:
        return ""
    measured = f"{SPLIT_NAMES[context.splits[0]]} {context.metric.title}"
    chart_path = context.folder.comparison_plots / "differences.svg"
    charted = [comparison for comparison in comparisons if comparison.key == context.key]
    chart = difference_chart(charted, f"difference in {measured}")
    write_text(chart_path, render_svg(apply_theme(chart)))
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for comparison in comparisons:
        groups.setdefault((comparison.base.name, comparison.key), []).append(comparison)
    num_tested = sum(comparison.verdict != "one run" for comparison in comparisons)
    return render(
        SECTION,
        summary=summarize_verdicts(context, comparisons),
        measured=measured,
        chart=context.link(chart_path),
        num_tested=num_tested,
        confidence=CONFIDENCE,
        by_chance=f"{expected_by_chance(num_tested * len(context.splits))} intervals",
        has_validation=context.has_validation,
        tables="\n".join(difference_table(context, group) for group in groups.values()),
    )
