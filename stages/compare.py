"""Stage `compare`: the leaderboard of all that params.yaml has, and the data of the plots.

An entry is a model, a student or an ensemble. Names come from params.yaml, never from the files
that lie there: those of an entry that was removed stay until somebody deletes them.
"""

import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from tagging.dataset import Split, read_split, split_path
from tagging.errors import UserError, entry_point
from tagging.files import write_json, write_text
from tagging.parameters import Float, Int, Section, load, parse, read_entries, read_models
from tagging.picture import draw_leaderboard
from tagging.ranking import ndcg, precision_at_1
from tagging.tables import read_rows, to_csv, to_markdown

METRICS = Path("metrics")
PLOTS = Path("plots")
LEADERBOARD = Path("leaderboard")
CURVE_LABELS = 20  # precision-recall curves are for so many of the most frequent labels


class Published(Section):
    """A row of somebody else's results."""

    ndcg: Float = Field(description="a number from 0 to 1", ge=0, le=1)
    precision_at_1: Float = Field(description="a number from 0 to 1", ge=0, le=1)


class Compare(Section):
    """Published rows to stand beside the entries, and which entries the curves are of."""

    published: dict[str, Any] = Field(
        description="a mapping of names to {ndcg: .., precision_at_1: ..}"
    )
    published_clips: Int = Field(
        description="the number of prepared clips with which the published rows are shown"
    )
    plotted: list[str] = Field(
        description="a list of one name or more of models, students or ensembles; the best entry "
        "is compared with the first",
        min_length=1,
    )


class Row(NamedTuple):
    """One row of the leaderboard; what a row does not have is None."""

    name: str
    kind: str  # model, student, ensemble, published or baseline
    scores: dict[str, float]  # on the test split
    val: dict[str, float] | None = None
    parameters: int | None = None
    seconds: float | None = None


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def entry_rows(kind: str, entries: dict[str, Any]) -> list[Row]:
    """Return a row for each entry, from what `train`, `evaluate`, `ensemble` or `student` wrote.

    What an ensemble took is the training of its members, each counted once: several epochs of one
    model are one training.

    Args:
        kind: model, student or ensemble.
        entries: that section of params.yaml.
    """
    rows = []
    for name, entry in entries.items():
        metrics = read_json(METRICS / f"{name}.json")
        members = entry["members"] if kind == "ensemble" else [name]
        trained = sorted({member.partition("@")[0] for member in members})
        seconds = sum(
            read_json(METRICS / "timing" / f"{model}.json")["train_seconds"] for model in trained
        )
        rows.append(
            Row(name, kind, metrics["test"], metrics["val"], metrics["parameters"], seconds)
        )
    return rows


def choose(entries: list[Row]) -> Row:
    """Return the entry with the best NDCG on the validation split."""
    return max(entries, key=lambda row: row.val["ndcg"] if row.val else 0)


def choose_plotted(settings: Compare, entries: list[Row], best: Row) -> list[Row]:
    """Return the entries that the curves are of: those that `plotted` names, and the best.

    Ensembles are last: they have no learning curve, and the others keep their colours without them.

    Raises:
        UserError: if a name is no entry's.
    """
    rows = {row.name: row for row in entries}
    for name in settings.plotted:
        if name not in rows:
            raise UserError(
                f"params.yaml: compare.plotted has {name!r}; the models, students and ensembles "
                f"are {', '.join(rows)}"
            )
    names = dict.fromkeys([*settings.plotted, best.name])  # each once, in this order
    return sorted((rows[name] for name in names), key=lambda row: row.kind == "ensemble")


def baseline_rows(train: Split, test: Split) -> list[Row]:
    """Return what answers cost nothing: every clip ranked by label frequency, or at random.

    The random row is the expectation over all orders: equal scores count as that (see metrics).
    """
    answers = {
        "constant ranking": np.tile(train.labels.sum(axis=0, dtype=float), (len(test.labels), 1)),
        "random ranking": np.zeros(test.labels.shape),
    }
    return [
        Row(
            name,
            "baseline",
            {
                "ndcg": float(ndcg(test.labels, scores).mean()),
                "precision_at_1": float(precision_at_1(test.labels, scores).mean()),
            },
        )
        for name, scores in answers.items()
    ]


def published_rows(settings: Compare, data: dict) -> list[Row]:
    """Return the published rows, if they were got on as many clips of AudioSet as these."""
    rows = [
        Row(name, "published", parse(Published, row, f"compare.published.{name}").model_dump())
        for name, row in settings.published.items()
    ]
    clips = data["clips"]["with_a_top_label"]
    same = data["source"] == "AudioSet" and clips == settings.published_clips
    return rows if same else []


def describe(data: dict) -> str:
    """Say in one line what the numbers were got on."""
    records = ", ".join(f"{name} ({number:,})" for name, number in data["records"].items())
    sizes = " / ".join(f"{number:,}" for number in data["split"].values())
    real = data["source"] == "AudioSet"
    what = "AudioSet (Google, CC BY 4.0)" if real else "**Generated sample, not AudioSet**"
    return (
        f"{what}: records of {records}; {len(data['top_labels'])} most frequent labels; "
        f"{sizes} clips to train, validate and test."
    )


def alike_but_for_seed(models: list[Any]) -> bool:
    """Tell whether entries of `models` differ in their seed and kept checkpoints alone."""
    apart = ("seed", "checkpoints")
    same = [
        {**model, "train": {k: v for k, v in model.get("train", {}).items() if k not in apart}}
        for model in models
    ]
    return all(model == same[0] for model in same)


def spread_over_seeds(entries: list[Row], models: dict[str, Any], ensembles: dict[str, Any]) -> str:
    """Say, of each ensemble of one model's seeds, how far the members lie apart on their own."""
    rows = {row.name: row for row in entries}
    lines = []
    for name, ensemble in ensembles.items():
        members = ensemble["members"]
        if not set(members) <= set(models) or len(set(members)) < len(members):
            continue
        if not alike_but_for_seed([models[member] for member in members]):
            continue
        shown = []
        for label, key in (("NDCG", "ndcg"), ("P@1", "precision_at_1")):
            values = [rows[member].scores[key] for member in members]
            shown.append(f"{label} {mean(values):.4f} ± {stdev(values):.4f}")
        lines.append(
            f"\nThe {len(members)} members of {name} differ in their seed alone; each on its own: "
            f"{', '.join(shown)} (mean and standard deviation on the test split).\n"
        )
    return "".join(lines)


def leaderboard_markdown(rows: list[Row], best: Row, data: dict) -> str:
    """Return the leaderboard as a page, the row of the best entry in bold."""

    def interval(row: Row, name: str) -> str:
        text = f"{row.scores[name]:.4f}"
        if f"{name}_low" in row.scores:
            low, high = row.scores[f"{name}_low"], row.scores[f"{name}_high"]
            text += f" ({low:.3f}–{high:.3f})"
        return text

    def number(value: float | None, style: str) -> str:
        return "" if value is None else format(value, style)

    table = to_markdown(
        [
            "entry", "kind", "NDCG", "P@1", "mAP", "ROC AUC", "lwlrap", "val NDCG", "parameters",
            "training, s",
        ],
        [
            [
                f"**{row.name}**" if row is best else row.name,
                f"**{row.kind}, chosen**" if row is best else row.kind,
                interval(row, "ndcg"),
                interval(row, "precision_at_1"),
                number(row.scores.get("mean_average_precision"), ".3f"),
                number(row.scores.get("roc_auc"), ".3f"),
                number(row.scores.get("lwlrap"), ".3f"),
                number(row.val and row.val["ndcg"], ".4f"),
                number(row.parameters, ","),
                number(row.seconds, ".0f"),
            ]
            for row in rows
        ],
        right=2,
    )  # fmt: skip
    return (
        f"{describe(data)}\n\n{table}\n"
        "Scores on the test split, best NDCG first, with 95% bootstrap intervals over its clips. "
        "The best entry, in bold, is chosen by NDCG on the validation split, never by the test "
        "split. An ensemble's training is its members', a student's is without its teacher's.\n"
    )


def learning_curves(plotted: list[Row], data: dict) -> str:
    """Return the scores after each epoch of the entries that were trained, as CSV."""
    rows = []
    for name in (row.name for row in plotted if row.kind != "ensemble"):
        folder = PLOTS / "train" / name / "plots" / "metrics"
        columns = [
            read_rows(folder / f"{metric}.tsv")
            for metric in ("train/loss", "val/ndcg", "val/precision_at_1")
        ]
        for loss, val_ndcg, val_precision in zip(*columns, strict=True):
            rows.append(
                [name, int(loss["step"]) + 1, loss["loss"], val_ndcg["ndcg"],
                 val_precision["precision_at_1"], data["source"]]
            )  # fmt: skip
    return to_csv(["model", "epoch", "train_loss", "val_ndcg", "val_precision_at_1", "data"], rows)


def average_precision(plotted: list[Row], test: Split, data: dict) -> str:
    """Return each entry's average precision for each label, as CSV, most frequent labels first.

    A ranking at random has the share of the clips that have the label.
    """
    return to_csv(
        ["model", "label", "average_precision", "random_ranking", "test_clips", "data"],
        [
            [
                name,
                row["label"],
                row["average_precision"],
                int(row["test_clips"]) / len(test.labels),
                row["test_clips"],
                data["source"],
            ]
            for name in (row.name for row in plotted)
            for row in read_rows(PLOTS / "evaluate" / name / "average_precision.csv")
        ],
    )


def gain(best: Row, reference: str, data: dict) -> str:
    """Return both average precisions of each label, the best entry's and the reference's, as CSV.

    The label that gains most is first; labels that no test clip has are left out.
    """
    ours, theirs = (
        {
            row["label"]: row
            for row in read_rows(PLOTS / "evaluate" / name / "average_precision.csv")
        }
        for name in (best.name, reference)
    )
    rows = []
    for label, row in ours.items():
        value = float(row["average_precision"])
        other = float(theirs[label]["average_precision"])
        if not math.isnan(value):
            rows.append(
                [label, best.name, value, reference, other, value - other, row["test_clips"],
                 data["source"]]
            )  # fmt: skip
    rows.sort(key=lambda row: -row[5])
    return to_csv(
        ["label", "model", "average_precision", "reference", "reference_average_precision",
         "difference", "test_clips", "data"],
        rows,
    )  # fmt: skip


def precision_recall(plotted: list[Row], data: dict) -> str:
    """Return the entries' precision-recall curves of the most frequent labels, as CSV."""
    labels = list(data["top_labels"])[:CURVE_LABELS]
    return to_csv(
        ["model", "label", "recall", "precision", "data"],
        [
            [name, row["label"], row["recall"], row["precision"], data["source"]]
            for name in (row.name for row in plotted)
            for row in read_rows(PLOTS / "evaluate" / name / "precision_recall.csv")
            if row["label"] in labels
        ],
    )


def label_counts(data: dict) -> str:
    """Return the number of clips that have each label, as CSV, most frequent labels first."""
    return to_csv(
        ["label", "clips", "data"],
        [[name, label["clips"], data["source"]] for name, label in data["top_labels"].items()],
    )


def cost(entries: list[Row], best: Row, data: dict) -> str:
    """Return what each entry takes and gives, as CSV; seconds differ from run to run."""
    columns = ["ndcg", "ndcg_low", "ndcg_high"]
    return to_csv(
        ["model", "kind", "best", "data", "parameters", "train_seconds", *columns],
        [
            [row.name, row.kind, yes_no(row is best), data["source"], row.parameters, row.seconds,
             *(row.scores[name] for name in columns)]
            for row in entries
        ],
    )  # fmt: skip


def yes_no(value: bool) -> str:
    """Return a truth value as the plots take it."""
    return "yes" if value else "no"


def leaderboard_json(rows: list[Row], best: Row, data: dict) -> dict:
    """Return the leaderboard as data, best first; seconds differ from run to run and stay out."""
    return {
        "data": data["source"],
        "best_by_validation": best.name,
        "rows": {
            row.name: {"kind": row.kind}
            | row.scores
            | ({"val_ndcg": row.val["ndcg"]} if row.val else {})
            | ({"parameters": row.parameters} if row.parameters else {})
            for row in rows
        },
    }


def leaderboard_csv(rows: list[Row], best: Row, data: dict) -> str:
    """Return the leaderboard as the plot takes it."""
    columns = [
        f"{metric}{end}" for metric in ("ndcg", "precision_at_1") for end in ("", "_low", "_high")
    ]
    return to_csv(
        ["model", "kind", "best", "data", *columns],
        [
            [row.name, row.kind, yes_no(row is best), data["source"],
             *(row.scores.get(name, "") for name in columns)]
            for row in rows
        ],
    )  # fmt: skip


@entry_point
def main() -> None:
    """Run the stage."""
    settings = load(Compare, "compare")
    models, ensembles = read_models(), read_entries("ensembles")
    entries = [
        *entry_rows("model", models),
        *entry_rows("student", read_entries("students")),
        *entry_rows("ensemble", ensembles),
    ]
    best = choose(entries)
    plotted = choose_plotted(settings, entries, best)
    data = read_json(METRICS / "data.json")
    test = read_split(split_path("test"))
    rows = [
        *entries,
        *baseline_rows(read_split(split_path("train")), test),
        *published_rows(settings, data),
    ]
    if len({row.name for row in rows}) < len(rows):
        raise UserError(
            "params.yaml: a row of compare.published has the name of a model, student, ensemble or "
            "baseline; it takes another"
        )
    rows.sort(key=lambda row: -row.scores["ndcg"])

    write_json(LEADERBOARD / "leaderboard.json", leaderboard_json(rows, best, data))
    page = "# Leaderboard\n\n" + leaderboard_markdown(rows, best, data)
    page += spread_over_seeds(entries, models, ensembles)
    write_text(LEADERBOARD / "README.md", page)
    plots = PLOTS / "compare"
    write_text(plots / "leaderboard.csv", leaderboard_csv(rows, best, data))
    write_text(LEADERBOARD / "leaderboard.svg", draw_leaderboard(plots / "leaderboard.csv"))
    write_text(plots / "cost.csv", cost(entries, best, data))
    write_text(plots / "gain.csv", gain(best, settings.plotted[0], data))
    write_text(plots / "learning_curves.csv", learning_curves(plotted, data))
    write_text(plots / "average_precision.csv", average_precision(plotted, test, data))
    write_text(plots / "precision_recall.csv", precision_recall(plotted, data))
    write_text(plots / "label_counts.csv", label_counts(data))


if __name__ == "__main__":
    main()
