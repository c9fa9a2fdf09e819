"""The leaderboard: all rows on the same test clips, as a page, as data and for the plots."""

from collections.abc import Mapping

from tagging.reports.facts import SAMPLE, Facts, Row, find
from tagging.scoring.metric import Metric
from tagging.scoring.tables import to_csv, to_markdown

PANELS = 2  # metrics in the picture
PLOT_HEADER = (
    "model", "kind", "best", "behind", "data", "metric", "better", "value", "low", "high",
)  # fmt: skip
SOURCES = {
    "AudioSet": "AudioSet (Google, CC BY 4.0)",
    SAMPLE: f"**{SAMPLE.capitalize()}, not AudioSet**",
}
WORDS = {"train": "to train", "val": "to validate", "test": "to test"}


def cell(metric: Metric, scores: Mapping[str, float | None], name: str) -> str:
    """Return a metric as a table has it: mean ± standard deviation over runs (interval)."""
    value, digits = scores.get(name), metric.decimals
    if value is None:
        return ""
    text = f"{value:.{digits}f}"
    if (spread := scores.get(f"{name}_std")) is not None:
        text += f" ± {spread:.{digits}f}"
    if f"{name}_low" in scores:
        low, high = (f"{scores[f'{name}_{end}']:.{digits - 1}f}" for end in ("low", "high"))
        text += f" ({low}–{high})"
    return text


def describe(facts: Facts) -> str:
    """Say in one line what the numbers were got on, and what was left out."""
    data, folds = facts.data, facts.index.folds
    records = ", ".join(f"{name} ({number:,})" for name, number in data.get("records", {}).items())
    sizes = {WORDS[k]: len(places) for k, places in folds[0]._asdict().items() if len(places)}
    split = " / ".join(f"{size:,}" for size in sizes.values())
    split += f" clips {' / '.join(sizes)}"
    if len(folds) > 1:
        split = f"{len(facts.index.ids):,} clips in {len(folds)} folds, each of which tests once"
    if seconds := data.get("seconds"):
        most = data["clips_of_a_recording"]
        split += f" (a clip: {seconds:g} s at most"
        split += f"; of a recording, at most {most})" if (most or 0) > 1 else ")"
    if facts.windows is not facts.index:
        split += f"; {len(facts.windows.ids):,} windows, and those of a clip answer together"
    what = SOURCES.get(data["source"], f"Recordings ({data['source']})")
    them = "records" if facts.windows.recordings is None else "recordings"  # AudioSet's, or sounds
    of_records = f": {them} of {records}" if records else ""
    text = f"{what}{of_records}; {len(facts.index.classes)} classes; {split}."
    if silent := data.get("silent_windows"):
        whole = data["recordings_without_a_clip"]
        text += f" Windows left out as silent: {silent:,}; recordings without another: {whole:,}."
    return text


def how_chosen(facts: Facts) -> str:
    """Say which entry is marked, and why, and how the others stand to it."""
    if facts.chosen is None:
        return "Nothing validates here: no entry is chosen, and which leads on test may be chance."
    others = [row for row in facts.entries if row.behind is not None]
    how = (
        f"is chosen by {facts.metric.title} on the validation split, never by the test split"
        if facts.by_validation
        else "is named in params.yaml: nothing validates here, and nothing is chosen"
    )
    entry = facts.params[facts.chosen.kind][facts.chosen.name]
    if entry.get("train", {}).get("precision") == "bfloat16":
        how += "; it is trained in bfloat16, so its results depend on the processor"
    return (
        f"The entry in bold {how}. The column behind {facts.chosen.name} is the 95% interval of "
        "what it is better by on the same clips, by a paired bootstrap; in bold where surely: "
        f"{sum(row.surely_behind for row in others)} of {len(others)}. This is about other clips, "
        "not about other seeds."
    )


def table(facts: Facts) -> str:
    """Return the leaderboard as Markdown, the chosen entry in bold, without empty columns."""
    rows, metric, name = facts.rows, facts.metric, facts.task.chooses
    best = facts.chosen.name if facts.chosen else None

    def score(row: Row, key: str) -> str:
        value, of = row.test.get(key), facts.metrics[key]
        if row.kind == "published" and value is not None:
            return str(round(value, of.decimals))  # no more digits than were printed
        return cell(of, row.test, key)

    def behind(row: Row) -> str:
        text = " to ".join(f"{end:+.{metric.decimals}f}" for end in row.behind or ())
        return f"**{text}**" if row.surely_behind else text

    def number(value: float | None, shown: bool = True) -> str:
        return f"{value:,.0f}" if value and shown else ""

    several = any(len(row.runs) > 1 for row in rows)
    clips = any(row.train_clips for row in rows if row.kind == "published")
    chosen = {best: ", chosen"} if facts.by_validation else {}
    columns = {
        "entry": [row.name for row in rows],
        "kind": [row.kind + chosen.get(row.name, "") for row in rows],
        "runs": [number(len(row.runs), several) for row in rows],
        **{of.title: [score(row, key) for row in rows] for key, of in facts.metrics.items()},
        f"val {metric.title}": [cell(metric, row.val, name) for row in rows],
        f"behind {best}": [behind(row) for row in rows],
        "training clips": [number(row.train_clips, clips) for row in rows],
        "parameters": [number(row.parameters) for row in rows],
        "training, s": [number(row.seconds) for row in rows],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    lines = [list(cells) for cells in zip(*columns.values(), strict=True)]
    for line in lines:
        if line[0] == best:
            line[:2] = [f"**{text}**" for text in line[:2]]
    return to_markdown(list(columns), lines, right=2)


def result(facts: Facts) -> str:
    """Say how entries do beside the published rows, or that these are of other clips."""
    best, metric, name = facts.chosen, facts.metric, facts.task.chooses
    published = [row for row in facts.rows if row.kind == "published"]
    if published and facts.settings.published_clips == "other":
        sources = "; ".join(dict.fromkeys(row.source for row in published if row.source))
        return (
            f"Published rows{f' ({sources})' if sources else ''} are of other clips with other "
            "labels: their numbers do not compare with these, at most their order does.\n\n"
        )
    compared = [row for row in published if row.test.get(name)]
    if best is None or not compared:
        return ""
    others = [find(facts.entries, of, "beside_published") for of in facts.settings.beside_published]
    text = " ".join(beside_published(metric, name, entry, compared) for entry in [best, *others])
    sources = "; ".join(f"{row.name}: {row.source}" for row in compared if row.source)
    return f"{text}\n\n" + (f"Published: {sources}.\n\n" if sources else "")


def beside_published(metric: Metric, name: str, entry: Row, published: list[Row]) -> str:
    """Say how an entry does beside rows that others published for the same clips."""
    text = f"`{entry.name}` has the {metric.title} **{cell(metric, entry.test, name)}** on test."
    low, high = entry.test[f"{name}_low"], entry.test[f"{name}_high"]
    told = []
    for row in published:
        gap = entry.test[name] - row.test[name]
        side = f"{abs(gap):.{metric.decimals}f} {'above' if gap > 0 else 'below'}"
        if low <= row.test[name] <= high:
            side = "not told apart from"  # by its interval
        text_of = f"{side} the {round(row.test[name], metric.decimals)} of {row.name}"
        if row.train_clips:
            text_of += f", from {entry.train_clips / row.train_clips:.1%} of the training clips"
        told.append(text_of)
    return f"{text} That is {'; '.join(told)}."


def page(facts: Facts) -> str:
    """Return the leaderboard as the first part of the page."""
    several = any(len(row.runs) > 1 for row in facts.rows)
    note = f"{facts.settings.note.strip()}\n\n" if facts.settings.note else ""
    runs = "Of several runs, the mean ± the standard deviation over them. " if several else ""
    return (
        f"# Leaderboard\n\n{describe(facts)}\n\n{note}{result(facts)}{table(facts)}\n"
        f"Scores on the test split, best {facts.metric.title} first, with 95% bootstrap intervals "
        f"over its clips. {runs}{how_chosen(facts)} An ensemble's training is its members', a "
        "student's is without its teacher's.\n"
    )


def as_json(facts: Facts) -> dict:
    """Return the leaderboard as data, best first; seconds differ from run to run and stay out."""
    name, rows = facts.task.chooses, {}
    for row in facts.rows:
        scores = row.test if row.kind != "published" else {k: row.test[k] for k in facts.metrics}
        of_row = {"kind": row.kind, **scores, f"val_{name}": row.val.get(name)}
        of_row |= {"runs": len(row.runs)} if len(row.runs) > 1 else {}
        of_row |= dict(zip(("behind_low", "behind_high"), row.behind or (), strict=False))
        of_row["parameters"] = row.parameters
        rows[row.name] = {key: value for key, value in of_row.items() if value is not None}
    best = {"best_by_validation": facts.chosen.name} if facts.by_validation else {}
    return {"data": facts.data["source"], **best, "rows": rows}


def plot_rows(facts: Facts, row: Row, names: list[str]) -> list[list]:
    """Return a row for each of these metrics that the leaderboard's row has, as `PLOT_HEADER`."""
    best = facts.chosen is not None and row.name == facts.chosen.name
    marks = ["yes" if mark else "no" for mark in (best, row.surely_behind)]
    return [
        [row.name, row.kind, *marks, facts.data["source"], facts.metrics[name].title,
         "higher" if facts.metrics[name].higher_is_better else "lower",
         *(row.test.get(f"{name}{end}", "") for end in ("", "_low", "_high"))]
        for name in names if row.test.get(name) is not None
    ]  # fmt: skip


def as_csv(facts: Facts) -> str:
    """Return the leaderboard as its plot takes it: the first metrics, each a panel."""
    names = list(facts.metrics)[:PANELS]
    return to_csv(PLOT_HEADER, [of for row in facts.rows for of in plot_rows(facts, row, names)])


def cost(facts: Facts) -> str:
    """Return what each entry takes and gives, as CSV; seconds differ from run to run."""
    names = [facts.task.chooses]
    rows = [
        [*of, row.parameters, row.seconds]
        for row in facts.entries
        for of in plot_rows(facts, row, names)
    ]
    return to_csv([*PLOT_HEADER, "parameters", "train_seconds"], rows)
