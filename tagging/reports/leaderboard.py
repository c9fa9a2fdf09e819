"""The leaderboard: all rows on the same test clips, for the page, as data, and for the plots."""

from collections.abc import Mapping, Sequence
from typing import Any

from tagging.data.scores import read_resampled
from tagging.learning.metric import Metric
from tagging.reports.context import SAMPLE, ReportContext, Row, find_entry
from tagging.reports.failures import describe_failures, find_failures, summarize_losses
from tagging.reports.page import render
from tagging.reports.significance import LEVEL, expected_by_chance
from tagging.scoring.tables import to_csv, to_markdown

PANELS = 2  # metrics in the chart
PLOT_HEADER = (
    "model", "kind", "reference", "significantly_below", "data", "metric", "better", "value",
    "ci_low", "ci_high",
)  # fmt: skip
SOURCES = {
    "AudioSet": "AudioSet (Google, CC BY 4.0)",
    SAMPLE: f"**{SAMPLE.capitalize()}, not AudioSet**",
}
PURPOSES = {"train": "to train", "val": "to validate", "test": "to test"}

DATA = """\
{{ source }}\
{% if records %}: {{ "recordings" if has_recordings else "records" }} of {{ records }}{% endif %}\
; {{ classes }} classes; {{ split }}\
{% if clip_seconds %} (clips of at most {{ clip_seconds }} s\
{% if max_windows and max_windows > 1 %}, at most {{ max_windows }} of a recording{% endif %})\
{% endif %}\
{% if windows %}; {{ windows }} windows, of which those of a recording count as one clip, \
with their mean probability{% endif %}.\
{% if silent %} Silent windows left out: {{ silent }}; recordings without other windows: \
{{ without_clips }}.{% endif %}\
{% if unreadable %} Files left out because they cannot be decoded: {{ unreadable }}, named in \
data/summary.json.{% endif %}\
"""

SELECTION = """\
{% if reference is none %}\
No clips validate here, so no entry is selected: the order on test may be due to chance.\
{% else %}\
The entry in bold {{ reason }}\
{% if bfloat16 %}; it is trained in bfloat16, so its results depend on the processor{% endif %}. \
{% if others %}\
The column "{{ difference }}" is the interval of a paired bootstrap on the same clips. It covers \
other draws of clips, not other seeds, and is not corrected for the number of entries: if none \
differed, {{ by_chance }} intervals would be expected to exclude zero. After Holm's correction \
over these {{ others }}, {{ below }} of {{ others }} are significantly below {{ reference }} (in \
bold), and {{ above }} above. {{ hints }} more intervals exclude zero, which is only a hint.\
{% if resamples < needed %} {{ resamples }} resamples are too few for any difference to hold after \
the correction: it needs {{ needed }} or more.{% endif %}\
{% endif %}\
{% endif %}\
"""

PAGE = """\
# Leaderboard

{{ data }}

{% if note %}
{{ note }}

{% endif %}
{% if published %}
{{ published }}

{% endif %}
{{ table }}
Scores on the test split, best {{ metric }} first, with 95% bootstrap intervals over its clips. \
{% if several_runs %}With several runs, the mean ± the standard deviation over runs. {% endif %}\
{{ selection }} The training time of an ensemble is the sum of its members', that of a student \
excludes its teacher's.
{% if failures %}

{{ failures }}
{% endif %}
"""


def metric_cell(metric: Metric, scores: Mapping[str, Any], key: str) -> str:
    """Return a metric's cell in a table: mean ± standard deviation over runs (interval)."""
    value, digits = scores.get(key), metric.decimals
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    if (std := scores.get(f"{key}_std")) is not None:
        text += f" ± {std:.{digits}f}"
    if f"{key}_ci_low" in scores:
        low, high = (f"{scores[f'{key}_ci_{end}']:.{digits - 1}f}" for end in ("low", "high"))
        text += f" ({low}–{high})"
    return text


def describe_data(context: ReportContext) -> str:
    """Describe the clips in one line: source, number, splits, and what was left out."""
    summary, folds = context.summary, context.index.folds
    records = summary.get("records", {}).items()
    sizes = {PURPOSES[k]: len(clips) for k, clips in folds[0]._asdict().items() if len(clips)}
    split = " / ".join(f"{size:,}" for size in sizes.values())
    split += f" clips {' / '.join(sizes)}"
    if len(folds) > 1:
        tested = sum(len(fold.test) for fold in folds)
        split = f"{tested:,} clips in {len(folds)} folds, each the test split once"
    aggregated = context.windows is not context.index
    return render(
        DATA,
        source=SOURCES.get(summary["source"], f"Recordings ({summary['source']})"),
        has_recordings=context.windows.recordings is not None,
        records=", ".join(f"{name} ({number:,})" for name, number in records),
        classes=len(context.index.classes),
        split=split,
        clip_seconds=f"{seconds:g}" if (seconds := summary.get("clip_seconds")) else "",
        max_windows=summary.get("max_windows"),
        windows=f"{len(context.windows.ids):,}" if aggregated else "",
        silent=f"{silent:,}" if (silent := summary.get("silent_windows")) else "",
        without_clips=f"{summary.get('recordings_without_clips', 0):,}",
        unreadable=f"{len(files):,}" if (files := summary.get("unreadable_files")) else "",
    )


def difference_title(context: ReportContext) -> str:
    """Return the title of the column with differences to the reference."""
    name = context.reference.name if context.reference else None
    return f"difference to {name} (95% CI)"


def describe_selection(context: ReportContext) -> str:
    """Say why the entry in bold is the reference, and how the others compare with it."""
    if (reference := context.reference) is None:
        return render(SELECTION, reference=None)
    train = context.configs[reference.kind][reference.name].get("train", {})
    verdicts = [row.verdict for row in context.entries if row.difference is not None]
    resampled = read_resampled(context.folder.resampled(reference.section, reference.name))
    return render(
        SELECTION,
        reference=reference.name,
        reason=f"is selected by {context.metric.title} on the validation split, never on the test "
        "split" if context.has_validation
        else "is named in params.yaml (`compare.reference`), as no clips validate here",
        bfloat16=train.get("precision") == "bfloat16",
        difference=difference_title(context),
        by_chance=expected_by_chance(len(verdicts)),
        below=verdicts.count("loss"),
        above=verdicts.count("gain"),
        hints=sum(verdict.startswith("hint") for verdict in verdicts),
        others=len(verdicts),
        resamples=len(resampled),
        needed=round(len(verdicts) / LEVEL),  # the lowest p-value is 1 / (resamples + 1)
    )  # fmt: skip


def leaderboard_table(context: ReportContext) -> str:
    """Return the leaderboard as Markdown, the reference in bold, without empty columns."""
    rows, metric = context.rows, context.metric
    reference = context.reference.name if context.reference else None

    def score(row: Row, key: str) -> str:
        value, decimals = row.test.get(key), context.metrics[key].decimals
        if row.kind == "published" and value is not None:
            return str(round(value, decimals))  # no more digits than were published
        return metric_cell(context.metrics[key], row.test, key)

    def difference(row: Row) -> str:
        text = " to ".join(f"{end:+.{metric.decimals}f}" for end in row.difference or ())
        return f"**{text}**" if row.significantly_below else text

    def number(value: float | None, is_shown: bool = True) -> str:
        return f"{value:,.0f}" if value and is_shown else ""

    has_runs = any(len(row.runs) > 1 for row in rows)
    has_clips = any(row.train_clips for row in rows if row.kind == "published")
    marks = {reference: ", selected"} if context.has_validation else {}
    columns = {
        "entry": [row.name for row in rows],
        "kind": [row.kind + marks.get(row.name, "") for row in rows],
        "runs": [number(len(row.runs), has_runs) for row in rows],
        **{m.title: [score(row, key) for row in rows] for key, m in context.metrics.items()},
        f"val {metric.title}": [metric_cell(metric, row.val, context.key) for row in rows],
        difference_title(context): [difference(row) for row in rows],
        "training clips": [number(row.train_clips, has_clips) for row in rows],
        "parameters": [number(row.parameters) for row in rows],
        "training, s": [number(row.seconds) for row in rows],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    lines = [list(cells) for cells in zip(*columns.values(), strict=True)]
    for line in lines:
        if line[0] == reference:
            line[:2] = [f"**{text}**" for text in line[:2]]
    return to_markdown(list(columns), lines, right=2)


def describe_published(context: ReportContext) -> str:
    """Compare entries with the published rows, or say that these are of other clips."""
    published = [row for row in context.rows if row.kind == "published"]
    if published and context.settings.published_clips == "other":
        sources = "; ".join(dict.fromkeys(row.source for row in published if row.source))
        return (
            f"Published rows{f' ({sources})' if sources else ''} are of other clips with other "
            "labels: their values do not compare with those of entries, at most their order does."
        )
    published = [row for row in published if row.test.get(context.key)]
    if context.reference is None or not published:
        return ""
    names = context.settings.compare_with_published
    others = [find_entry(context.entries, name, "compare_with_published") for name in names]
    text = " ".join(
        compare_with_published(context.metric, context.key, entry, published)
        for entry in [context.reference, *others]
    )
    text += " Published values come without intervals: these comparisons are not tests."
    sources = "; ".join(f"{row.name}: {row.source}" for row in published if row.source)
    return f"{text}\n\nPublished: {sources}." if sources else text


def compare_with_published(metric: Metric, key: str, entry: Row, published: Sequence[Row]) -> str:
    """Compare an entry with published rows; `compare.note` says how their clips were split."""
    value, digits = entry.test[key], metric.decimals
    comparisons = []
    for row in published:
        gap = value - row.test[key]
        side = f"{abs(gap):.{digits}f} {'above' if gap > 0 else 'below'}"
        text = f"{side} the {round(row.test[key], digits)} of {row.name}"
        if entry.test[f"{key}_ci_low"] <= row.test[key] <= entry.test[f"{key}_ci_high"]:
            text += ", which its interval includes"
        if row.train_clips and entry.train_clips:
            text += f", from {entry.train_clips / row.train_clips:.1%} of the training clips"
        comparisons.append(text)
    return (
        f"`{entry.name}` has the {metric.title} **{metric_cell(metric, entry.test, key)}** on "
        f"test. That is {'; '.join(comparisons)}."
    )


def leaderboard_page(context: ReportContext) -> str:
    """Return the leaderboard as the first part of the page."""
    return render(
        PAGE,
        data=describe_data(context),
        note=context.settings.note.strip(),
        published=describe_published(context),
        table=leaderboard_table(context),
        metric=context.metric.title,
        several_runs=any(len(row.runs) > 1 for row in context.rows),
        selection=describe_selection(context),
        failures=describe_failures(context),
    )


def leaderboard_json(context: ReportContext) -> dict[str, Any]:
    """Return the leaderboard as data, best first, without seconds, which vary between runs."""
    rows, failures = {}, find_failures(context)
    for row in context.rows:
        scores = dict(row.test)
        if row.kind == "published":
            scores = {key: row.test[key] for key in context.metrics}
        cells = {"kind": row.kind, **scores, f"val_{context.key}": row.val.get(context.key)}
        if len(row.runs) > 1:
            cells["runs"] = len(row.runs)
        if row.difference is not None:
            cells["delta_ci_low"], cells["delta_ci_high"] = row.difference
        if row.name in failures:
            cells["failed_runs"] = len(failures[row.name])
        if losses := summarize_losses(context, row):
            cells["training_loss"] = losses
        cells["parameters"] = row.parameters
        rows[row.name] = {key: value for key, value in cells.items() if value is not None}
    best = {}
    if context.reference and context.has_validation:
        best = {"best_by_validation": context.reference.name}
    return {"data": context.summary["source"], **best, "rows": rows}


def plot_rows(context: ReportContext, row: Row, keys: Sequence[str]) -> list[list[Any]]:
    """Return a line for each of the metrics that a leaderboard's row has, as `PLOT_HEADER`."""
    is_reference = context.reference is not None and row.name == context.reference.name
    marks = ["yes" if mark else "no" for mark in (is_reference, row.significantly_below)]
    return [
        [row.name, row.kind, *marks, context.summary["source"], context.metrics[key].title,
         "higher" if context.metrics[key].higher_is_better else "lower",
         *(row.test.get(f"{key}{end}", "") for end in ("", "_ci_low", "_ci_high"))]
        for key in keys if row.test.get(key) is not None
    ]  # fmt: skip


def leaderboard_csv(context: ReportContext) -> str:
    """Return the data of the leaderboard's chart: the first metrics, a panel each."""
    keys = list(context.metrics)[:PANELS]
    lines = [line for row in context.rows for line in plot_rows(context, row, keys)]
    return to_csv(PLOT_HEADER, lines)


def cost_csv(context: ReportContext) -> str:
    """Return each entry's metric, parameters and seconds of training, which vary between runs."""
    lines = [
        [*line, row.parameters, row.seconds]
        for row in context.entries
        for line in plot_rows(context, row, [context.key])
    ]
    return to_csv([*PLOT_HEADER, "parameters", "train_seconds"], lines)
