"""Stage `report`: the leaderboard beside published results, and which classes are easy and hard.

Names come from params.yaml, never from the files that lie there: those of a model that was removed
stay until somebody deletes them.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import vl_convert

from official.settings import (
    ADDED,
    BY_CLASS,
    FOLDER,
    METRICS,
    Official,
    Published,
    read_ensemble,
    read_official,
)
from tagging.errors import entry_point
from tagging.files import write_text
from tagging.labels import CLASSES
from tagging.parameters import parse
from tagging.tables import read_rows, to_csv, to_markdown

PAGE = FOLDER / "README.md"
PICTURE = FOLDER / "per_class.svg"
TABLE = FOLDER / "per_class.csv"
SHOWN = 10  # best and worst classes
NAMED = 5  # classes named in the picture, of those that gain and of those that lose most
VEGA_LITE = "5.21"  # the version that draws, so that the bytes stay


class Entry(NamedTuple):
    """What was trained or averaged here, and how it scores."""

    name: str
    kind: str  # model, enhanced labels or ensemble
    val: dict[str, float]
    test: dict[str, float]
    parameters: int
    seconds: float  # of training; of an ensemble, of all its members
    by_class: dict[str, float]  # average precision on test; nan for a class without clips there


class Facts(NamedTuple):
    """All that the page tells of."""

    official: Official
    data: dict[str, Any]  # as the stage prepare wrote
    added: dict[str, Any]  # as the stage enhance wrote
    entries: list[Entry]
    test_clips: dict[str, int]  # of each class
    published: dict[str, Published]


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_entry(official: Official, name: str, kind: str) -> Entry:
    """Return an entry from what the stages wrote of it."""
    scores = read_json(METRICS / f"{name}.json")
    trained = read_ensemble(official, name) if kind == "ensemble" else [name]
    seconds = [read_json(METRICS / "timing" / f"{each}.json")["train_seconds"] for each in trained]
    rows = read_rows(BY_CLASS / f"{name}.csv")
    by_class = {row["label"]: float(row["average_precision"]) for row in rows}
    return Entry(
        name, kind, scores["val"], scores["test"], scores["parameters"], sum(seconds), by_class
    )


def read_facts() -> Facts:
    """Read what the page tells of."""
    official = read_official()
    data = read_json(METRICS / "data.json")
    kinds = {"model": official.models, "enhanced labels": official.enhanced}
    kinds["ensemble"] = official.ensembles
    entries = [read_entry(official, name, kind) for kind, names in kinds.items() for name in names]
    first = read_rows(BY_CLASS / f"{entries[0].name}.csv")
    clips = {row["label"]: int(row["test_clips"]) for row in first}
    published = {
        name: parse(Published, row, f"official.published.{name}")
        for name, row in official.published.items()
    }
    # Others' results are results on AudioSet's evaluation set, with all its classes.
    same = data["source"] == "AudioSet" and len(clips) == CLASSES
    if not (same and official.prepare["split"] == "official"):
        published = {}
    return Facts(official, data, read_json(ADDED), entries, clips, published)


def precision(scores: dict[str, float]) -> float:
    """Return a split's mean average precision."""
    return scores["mean_average_precision"]


def choose(entries: list[Entry]) -> Entry:
    """Return the entry with the highest mAP on validation, the first of equals."""
    return max(entries, key=lambda entry: precision(entry.val))


def weakest(entries: list[Entry]) -> Entry:
    """Return the entry that validation ranks last."""
    return min(entries, key=lambda entry: precision(entry.val))


def interval(scores: dict[str, float]) -> str:
    """Return a test score with its interval, as text."""
    low, high = (scores[f"mean_average_precision_{end}"] for end in ("low", "high"))
    return f"{precision(scores):.4f} ({low:.3f}–{high:.3f})"


def leaderboard(facts: Facts) -> str:
    """Return the leaderboard as Markdown, highest mean average precision first."""

    def number(value: float | None, style: str) -> str:
        return "" if value is None else format(value, style)

    chosen = choose(facts.entries)
    train_clips = facts.data["split"]["train"]
    rows = [
        (
            precision(entry.test),
            [
                f"**{entry.name}**" if entry is chosen else entry.name,
                f"{entry.kind}, **validation's choice**" if entry is chosen else entry.kind,
                interval(entry.test),
                number(entry.test["roc_auc"], ".4f"),
                number(entry.test["d_prime"], ".3f"),
                number(entry.test["lwlrap"], ".4f"),
                f"{precision(entry.val):.4f}",
                f"{train_clips:,}",
                f"{entry.parameters:,}",
                f"{entry.seconds:.0f}",
            ],
        )
        for entry in facts.entries
    ]
    for name, row in facts.published.items():
        shown = [f"{row.mean_average_precision:.3f}", f"{row.roc_auc:.3f}"]
        clips = f"about {row.train_clips:,}"
        cells = [name, "published", *shown, "", "", "", clips, "", ""]
        rows.append((row.mean_average_precision, cells))
    header = [
        "", "", "mAP", "AUC", "d′", "lwlrap", "val mAP", "training clips", "parameters",
        "training, s",
    ]  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    return to_markdown(header, [cells for _, cells in rows], right=2)


def result(facts: Facts) -> str:
    """Say how the entry that validation chose does, beside the published rows."""
    chosen = choose(facts.entries)
    train_clips = facts.data["split"]["train"]
    sentences = [
        f"`{chosen.name}`, chosen by validation, has a mean average precision of "
        f"**{interval(chosen.test)}** on the test split."
    ]
    for name, row in facts.published.items():
        gap = precision(chosen.test) - row.mean_average_precision
        side = "above" if gap > 0 else "below"
        sentences.append(
            f"That is {abs(gap):.4f} {side} the {row.mean_average_precision:.3f} of {name}, from "
            f"{train_clips / row.train_clips:.1%} of the training clips."
        )
    highest = max(facts.entries, key=lambda entry: precision(entry.test))
    if highest is not chosen:
        sentences.append(
            f"`{highest.name}` has {precision(highest.test):.4f} there, but validation did not "
            "choose it."
        )
    return " ".join(sentences)


def enhancement(facts: Facts) -> str:
    """Say in one line what the enhanced labels are worth to models trained on them and without."""
    added = facts.added
    how = "mean" if added["threshold"] == "mean" else f"percentile {added['threshold']:g}"
    found = (
        f"With the teacher `{added['teacher']}` and its thresholds ({how}), {added['added']:,} "
        f"labels join the {added['labels']:,} of the training split "
        f"({added['added_type_1']:,} kinds of a class that a clip has, {added['added_type_2']:,} "
        "classes that one is a kind of, some of them both)"
    )
    named = {entry.name: entry for entry in facts.entries}
    worth = []
    for name, settings in facts.official.enhanced.items():
        for twin in [k for k, other in facts.official.models.items() if other == settings]:
            ours, plain = named[name], named[twin]
            change = precision(ours.test) - precision(plain.test)
            half = precision(plain.test) - plain.test["mean_average_precision_low"]
            size = "less" if abs(change) < half else "no less"
            worth.append(
                f"`{name}` has an mAP of {precision(ours.test):.4f}, `{twin}`, trained alike on "
                f"AudioSet's labels, {precision(plain.test):.4f}: {change:+.4f} on test, {size} "
                f"than the ±{half:.4f} of its interval, and "
                f"{precision(ours.val) - precision(plain.val):+.4f} on validation"
            )
    nothing = "no entry of `enhanced` has a twin in `models`, so that nothing tells their worth"
    return f"{found}: {'; '.join(worth) or nothing}."


def classes(facts: Facts) -> str:
    """Return the best and the worst classes of the entry that validation chose, as Markdown."""
    chosen, other = choose(facts.entries), weakest(facts.entries)
    found = {name: value for name, value in chosen.by_class.items() if not math.isnan(value)}
    falling = sorted(found, key=lambda name: -found[name])
    number = min(SHOWN, len(falling) // 2)

    def cells(name: str) -> list[str]:
        values = [f"{found[name]:.3f}", f"{other.by_class[name]:.3f}"]
        return [name, *values, f"{facts.test_clips[name]:,}"]

    rows = [
        cells(best) + cells(worst)
        for best, worst in zip(falling[:number], falling[::-1][:number], strict=True)
    ]
    header = ["AP", f"of {other.name}", "test clips"]
    table = to_markdown(["best", *header, "worst", *header], rows, right=1)
    # Names are to the left in both halves.
    lines = table.split("\n")
    lines[1] = "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |"
    return "\n".join(lines)


def class_rows(facts: Facts) -> list[list]:
    """Return each class's name, number of test clips and average precision of all entries."""
    return [
        [name, clips, *(entry.by_class[name] for entry in facts.entries)]
        for name, clips in facts.test_clips.items()
    ]


def chart(facts: Facts) -> dict:
    """Return a Vega-Lite chart of each class: validation's choice against its last."""
    chosen, other = choose(facts.entries), weakest(facts.entries)
    rows = [
        {"class": name, "ours": value, "other": other.by_class[name], "clips": clips}
        for name, clips in facts.test_clips.items()
        if not math.isnan(value := chosen.by_class[name])
    ]
    rows.sort(key=lambda row: row["ours"] - row["other"])
    for row in rows[:NAMED] + rows[-NAMED:]:
        row["name"] = row["class"]

    def axis(field: str, entry: Entry) -> dict:
        title = f"average precision of {entry.name}"
        return {
            "field": field, "type": "quantitative", "title": title, "scale": {"domain": [0, 1]},
        }  # fmt: skip

    place = {"x": axis("other", other), "y": axis("ours", chosen)}
    color = {
        "field": "clips",
        "type": "quantitative",
        "title": "test clips",
        "scale": {"type": "log", "scheme": "viridis", "reverse": True},
    }
    diagonal = {"values": [{"other": 0, "ours": 0}, {"other": 1, "ours": 1}]}
    return {
        "data": {"values": rows},
        "title": f"Each class: {chosen.name} against {other.name}",
        "width": 560,
        "height": 560,
        "layer": [
            {"data": diagonal, "mark": {"type": "line", "color": "gray"}, "encoding": place},
            {"mark": {"type": "circle", "size": 36}, "encoding": {**place, "color": color}},
            {
                "transform": [{"filter": "isValid(datum.name)"}],
                "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 11},
                "encoding": {**place, "text": {"field": "name"}},
            },
        ],
    }


def page(facts: Facts) -> str:
    """Return the page."""
    data = facts.data
    train, val, test = (f"{data['split'][part]:,}" for part in ("train", "val", "test"))
    real = data["source"] == "AudioSet"
    what = "AudioSet" if real else "A **generated sample, not AudioSet**"
    official = facts.official.prepare["split"] == "official"
    split = (
        f"`eval` is the test split ({test} clips), a part of `bal_train` validates ({val}), the "
        f"rest trains ({train})"
        if official
        else f"split at random into {train} clips to train, {val} to validate and {test} to test"
    )
    chosen, other = choose(facts.entries), weakest(facts.entries)
    found = [value for value in chosen.by_class.values() if not math.isnan(value)]
    credit = (
        "\nData: AudioSet's embeddings and labels, by Google, CC BY 4.0; its ontology, CC BY-SA "
        "4.0.\n"
        if real
        else ""
    )
    published = (
        " Published rows are as printed, trained on embeddings of all of AudioSet."
        if facts.published
        else ""
    )
    return f"""\
# The official benchmark: {len(facts.test_clips)} classes

{what}: {split}.
This page is written by `dvc repro official/dvc.yaml`; the settings are the section `official` of
`params.yaml`.

{result(facts)}

{leaderboard(facts)}
mAP and AUC are means over the classes, d′ is that of this AUC, lwlrap a mean over all labels of all
clips. In brackets, a 95% interval of mAP over the test clips; it knows nothing of what another seed
would give. What is best is chosen by mAP on validation; the test split chooses nothing. Seconds of
an ensemble are those of all its members.{published}

**What label enhancement is worth.** {enhancement(facts)}
All scores are against the original labels.

## Easy and hard classes

Of {len(found)} classes with test clips, `{chosen.name}` has an average precision of 0.5 or more on
{sum(v >= 0.5 for v in found)}, and of less than 0.1 on {sum(v < 0.1 for v in found)}.
`{other.name}` beside it is the entry that validation ranks last. All classes and entries:
[per_class.csv](per_class.csv).

{classes(facts)}
![Average precision of each class]({PICTURE.name})
{credit}"""


@entry_point
def main() -> None:
    """Run the stage."""
    facts = read_facts()
    schema = {"$schema": "https://vega.github.io/schema/vega-lite/v5.json", "background": "white"}
    picture = vl_convert.vegalite_to_svg({**schema, **chart(facts)}, vl_version=VEGA_LITE)
    write_text(PICTURE, picture)
    header = ["label", "test_clips", *(entry.name for entry in facts.entries)]
    write_text(TABLE, to_csv(header, class_rows(facts)))
    write_text(PAGE, page(facts))


if __name__ == "__main__":
    main()
