"""Stage `report`: the study's tables beside ours, the audit, and the page that tells of both."""

from statistics import mean, median, stdev
from typing import NamedTuple

from replication import audit
from replication.scoring import score
from replication.settings import FOLDER, RESULTS, Grid, load_grid
from tagging.base.errors import entry_point
from tagging.base.files import write_text
from tagging.data.clips import Index, read_index
from tagging.reports.picture import draw, in_the_look
from tagging.scoring.tables import read_rows, to_markdown

PRINTED = FOLDER / "printed.csv"
PAGE = FOLDER / "README.md"
PICTURES = FOLDER / "pictures"
# What the audit shows: the study's tables give validation results at 50 and 200 epochs, the test
# split's at 1000. Ours are read off the same split.
PRINTED_EPOCHS = (50, 200, 1000)
LAST_PRINTED = PRINTED_EPOCHS[-1]
CLOSE = 0.01  # a cell reproduces if it differs by less, in NDCG or precision at 1
LOWEST_DRAWN = 0.75  # NDCG, in all charts
METRICS = {"train_loss": "Train loss", "ndcg": "NDCG", "precision_at_1": "P@1"}


class Cell(NamedTuple):
    """One cell of the study's tables."""

    loss: str
    lr: float
    epochs: int


class Ours(NamedTuple):
    """The values of one cell over seeds: their mean, number and standard deviation."""

    value: float
    seeds: int
    spread: float | None

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.4f}"
        return f"{self.value:.4f}{spread}"


Printed = dict[str, dict[Cell, float]]  # for each metric, each cell's number
Curves = list[dict]  # a row a head, seed, loss, lr and epoch


def read_printed() -> Printed:
    """Return the printed tables."""
    tables: Printed = {metric: {} for metric in METRICS}
    for row in read_rows(PRINTED):
        cell = Cell(row["loss"], float(row["lr"]), int(row["epochs"]))
        tables[row["table"]][cell] = float(row["value"])
    return tables


def read_curves(settings: Grid) -> Curves:
    """Return all runs of params.yaml."""
    rows = []
    for head in settings.heads:
        for seed in settings.seeds:
            for row in read_rows(RESULTS / f"{head}-{seed}.csv"):
                numbers = {k: float(v) for k, v in row.items() if k != "loss" and v}
                rows.append({"head": head, "seed": seed, "loss": row["loss"], **numbers})
    return rows


def over_seeds(curves: Curves, head: str, column: str, cell: Cell) -> Ours | None:
    """Return a cell's values in a column of the results; None if it was not run."""
    values = [
        row[column]
        for row in curves
        if (row["head"], row["loss"], row["lr"], row["epoch"]) == (head, *cell) and column in row
    ]
    if not values:
        return None
    return Ours(mean(values), len(values), stdev(values) if len(values) > 1 else None)


def ours(curves: Curves, head: str, metric: str, cell: Cell) -> Ours | None:
    """Return our value of a cell, on the split that the study's is on; None if it was not run."""
    split = "test" if cell.epochs == LAST_PRINTED else "val"
    column = metric if metric == "train_loss" else f"{split}_{metric}"
    return over_seeds(curves, head, f"{column}_label_order" if metric == "ndcg" else column, cell)


def comparison(printed: dict[Cell, float], curves: Curves, metric: str) -> str:
    """Return one of the study's tables with ours beside it, as Markdown."""
    rows = []
    for cell, value in printed.items():
        softmax, logits = (ours(curves, head, metric, cell) for head in ("softmax", "logits"))
        difference = f"{softmax.value - value:+.4f}" if softmax else ""
        of_heads = [str(softmax or "not run"), difference, str(logits or "not run")]
        rows.append([cell.loss, f"{cell.lr:g}", str(cell.epochs), f"{value:.4f}", *of_heads])
    header = ["loss", "lr", "epochs", "printed", "ours, softmax", "difference", "ours, logits"]
    return to_markdown(header, rows, right=1)


def missing(printed: dict[Cell, float], curves: Curves, heads: list[str]) -> list[str]:
    """Say which cells were not run, those of one head and number of epochs together."""
    groups: dict[tuple[str, int], list[str]] = {}
    for head in heads:
        for cell in printed:
            if ours(curves, head, "ndcg", cell) is None:
                groups.setdefault((head, cell.epochs), []).append(f"{cell.loss} {cell.lr:g}")
    cells = len({(cell.loss, cell.lr) for cell in printed})
    return [
        f"{head}, {epochs} epochs: {'all' if len(names) == cells else ', '.join(names)}"
        for (head, epochs), names in groups.items()
    ]


def seeds_told(curves: Curves) -> str:
    """Say of how many seeds the cells of each number of epochs are."""
    groups: dict[int, list[str]] = {}
    for epochs in PRINTED_EPOCHS:
        seeds = len({row["seed"] for row in curves if row["epoch"] == epochs})
        groups.setdefault(seeds, []).append(str(epochs))
    return "; ".join(
        f"{n or 'none'} at {' and '.join(epochs)} epochs" for n, epochs in groups.items()
    )


def reproduction(printed: Printed, curves: Curves) -> str:
    """Say how far our numbers with the softmax head are from the printed ones."""
    parts = []
    for metric in ("ndcg", "precision_at_1"):
        off = [
            got.value - value
            for cell, value in printed[metric].items()
            if (got := ours(curves, "softmax", metric, cell))
        ]
        if off:
            near = sum(abs(value) < CLOSE for value in off)
            higher = sum(value > 0 for value in off)
            parts.append(
                f"{METRICS[metric]}: {near} of {len(off)} cells lie within {CLOSE} of the printed "
                f"ones, {higher} are higher, and the median difference is {median(off):+.4f}"
            )
    return "; ".join(parts) or "no cell was run"


def best_sentence(printed: dict[Cell, float], curves: Curves) -> str:
    """Say how far raw logits move the best cell, chosen by validation; means over its seeds."""
    told = []
    for head in ("softmax", "logits"):
        val = {cell: got for cell in printed if (got := over_seeds(curves, head, "val_ndcg", cell))}
        if not val:
            return "Only one of the two heads was run."
        cell = max(val, key=lambda cell: val[cell].value)
        ndcg, precision = (
            over_seeds(curves, head, f"test_{metric}", cell)
            for metric in ("ndcg", "precision_at_1")
        )
        seeds = f"{val[cell].seeds} seed{'s' * (val[cell].seeds > 1)}"
        name = f"{cell.loss}, lr {cell.lr:g}, {cell.epochs} epochs, {seeds}"
        told.append(f"NDCG {ndcg} / P@1 {precision} ({name})")
    return (
        f"Raw logits move the best cell, chosen by validation, from {told[0]} to **{told[1]}** on "
        "the test split."
    )


def collapse_table(printed: Printed, index: Index) -> str:
    """Return what a softmax that always answers one class scores, beside the printed numbers."""
    fold = index.folds[0]
    train, test = index.labels[fold.train], index.labels[fold.test]
    rows = []
    for cell in (Cell("msml", 1.0, LAST_PRINTED), Cell("ce", 1.0, LAST_PRINTED)):
        loss, ndcg, precision = (printed[metric][cell] for metric in METRICS)
        losses = [audit.one_hot_loss(train, cell.loss, k) for k in range(len(index.classes))]
        always = min(range(len(losses)), key=lambda k: abs(losses[k] - loss))
        scored = score(test, audit.collapsed_scores(test, always))
        numbers = (
            losses[always], loss, scored.precision_at_1, precision, scored.ndcg_label_order, ndcg,
            scored.ndcg,
        )  # fmt: skip
        rows.append([cell.loss, index.classes[always].name, *(f"{v:.4f}" for v in numbers)])
    header = [
        "loss", "always answers", "loss, computed", "printed", "P@1, computed", "printed",
        "NDCG, ties in label order", "printed", "NDCG, ties as their mean",
    ]  # fmt: skip
    return to_markdown(header, rows, right=2)


def shares_table(precisions: dict[Cell, float], clips: tuple[int, int]) -> str:
    """Return how well the printed precisions fit as shares of either number of clips."""
    rows = []
    for epochs in PRINTED_EPOCHS:
        values = [value for cell, value in precisions.items() if cell.epochs == epochs]
        worst = [max(audit.fit_share(value, n).error for value in values) for n in clips]
        rows.append([str(epochs), str(len(values)), *(f"{error:.1e}" for error in worst)])
    header = ["epochs", "values", f"worst error as k/{clips[0]}", f"as k/{clips[1]}"]
    return to_markdown(header, rows, right=0)


def audit_section(printed: Printed, index: Index) -> str:
    """Return what the audit finds, each claim with its figure."""
    train, val, test = (index.labels[places] for places in index.folds[0])
    constant = audit.constant_scores(train, len(test))
    of_test, of_val = score(test, constant), score(val, audit.constant_scores(train, len(val)))
    return f"""\
1. **The outputs went through a softmax before the loss.** At lr = 1 it collapses to a single label
   for every clip. The loss of that answer can be computed from the labels alone, and it is the one
   printed; its precision is the label's share of the clips; its NDCG is printed as if the nine tied
   labels stood in the order of their frequency.

{collapse_table(printed, index)}
2. **Two thirds of the "test" results are validation results.** A precision is a number of clips
   over all clips: {len(val):,} in validation, {len(test):,} in test. Only one of them fits each
   printed value.

{shares_table(printed["precision_at_1"], (len(val), len(test)))}
3. **Text and tables disagree**: the text speaks of 50, 100 and 200 epochs, the tables of 50, 200
   and 1000.
4. **A constant answer is strong.** Ranking every clip
   {" > ".join(of.name for of in index.classes[:3])} > ... scores NDCG {of_test.ndcg:.3f} and
   P@1 {of_test.precision_at_1:.3f} on test ({of_val.ndcg:.3f} and {of_val.precision_at_1:.3f} on
   validation). A score is worth what it is above that.
5. **NDCG over a flattened batch is another number.** The same constant answer gets
   {audit.flattened_ndcg(test, constant, len(test)):.3f} when all clips' labels are ranked as one
   list, as `torchmetrics.functional.retrieval_normalized_dcg` does with a (clips, labels) array.
   All numbers here are computed a clip at a time.
6. **0.877 is no yardstick.** The study sets its P@1 beside 0.877 of video classification on
   YouTube-8M: other data, other labels, no comparison.
"""


def heat_map(printed: Printed, curves: Curves, metric: str) -> dict:
    """Return a Vega-Lite chart: the printed table beside ours, loss and rate against epochs."""
    rows = []
    for cell, value in printed[metric].items():
        values = {"printed": value}
        for head in ("softmax", "logits"):
            if got := ours(curves, head, metric, cell):
                values[f"ours, {head}"] = got.value
        run = {"run": f"{cell.loss}  {cell.lr:g}", "epochs": cell.epochs}
        rows += [run | {"source": source, "value": v} for source, v in values.items()]
    lowest, dark = (LOWEST_DRAWN, 0.9) if metric == "ndcg" else (0.5, 0.8)
    color = {
        "field": "value",
        "type": "quantitative",
        "title": METRICS[metric],
        "scale": {"scheme": "viridis", "domainMin": lowest, "clamp": True},
    }
    legible = {"condition": {"test": f"datum.value > {dark}", "value": "black"}, "value": "white"}
    text = {"field": "value", "type": "quantitative", "format": ".3f"}
    return {
        "data": {"values": rows},
        "title": {
            "text": f"{METRICS[metric]}: validation at 50 and 200 epochs, then test",
            "subtitle": f"ours: mean over seeds ({seeds_told(curves)})",
        },
        "facet": {
            "column": {
                "field": "source",
                "sort": ["printed", "ours, softmax", "ours, logits"],
                "title": None,
            }
        },
        "spec": {
            "width": 190,
            "height": 260,
            "encoding": {
                "x": {"field": "epochs", "type": "ordinal", "axis": {"labelAngle": 0}},
                "y": {"field": "run", "type": "ordinal", "title": "loss, rate", "sort": None},
            },
            "layer": [
                {"mark": "rect", "encoding": {"color": color}},
                {
                    "mark": {"type": "text", "fontSize": 12},
                    "encoding": {"text": text, "color": legible},
                },
            ],
        },
    }


def curve_chart(curves: Curves) -> dict:
    """Return a Vega-Lite chart of validation NDCG against epochs, a line a run."""
    rows = [
        {k: row[k] for k in ("head", "loss", "seed", "epoch", "val_ndcg")}
        | {"lr": f"{row['lr']:g}"}
        for row in curves
    ]
    best: dict[str, float] = {}
    for row in rows:
        run = f"{row['head']}, lr {row['lr']}, {row['loss']}"
        best[run] = max(best.get(run, 0.0), row["val_ndcg"])
    hidden = "; ".join(sorted(run for run, ndcg in best.items() if ndcg < LOWEST_DRAWN))
    lr = {
        "field": "lr",
        "type": "nominal",
        "title": "learning rate",
        "sort": sorted({row["lr"] for row in rows}, key=float, reverse=True),
    }
    ndcg = {
        "field": "val_ndcg",
        "type": "quantitative",
        "title": "NDCG",
        "scale": {"domain": [LOWEST_DRAWN, 0.96]},
    }
    return {
        "data": {"values": rows},
        "title": {
            "text": "NDCG on validation after each epoch, a line a seed",
            "subtitle": f"Always below {LOWEST_DRAWN:g}, so not seen: {hidden or 'none'}.",
            "anchor": "start",
        },
        "facet": {
            "row": {"field": "loss", "title": "loss", "sort": ["msml", "ce"]},
            "column": {"field": "head", "title": "head", "sort": ["softmax", "logits"]},
        },
        "spec": {
            "width": 320,
            "height": 200,
            "mark": {"type": "line", "clip": True, "opacity": 0.6},
            "encoding": {
                "x": {"field": "epoch", "type": "quantitative", "scale": {"type": "log"}},
                "y": ndcg,
                "color": lr,
                "detail": {"field": "seed"},
            },
        },
    }


def page(settings: Grid, printed: Printed, curves: Curves, index: Index) -> str:
    """Return the page: what was reported, what reproduces, what does not, what to do instead."""
    absent = missing(printed["ndcg"], curves, settings.heads)
    not_run = f"\nNot run, and not filled in: {'; '.join(absent)}.\n" if absent else ""
    tables = "\n".join(
        f"### {title}\n\n{comparison(printed[metric], curves, metric)}"
        for metric, title in METRICS.items()
    )
    clips = " / ".join(f"{len(places):,}" for places in index.folds[0])
    return f"""\
# The published study, trained again

`YoutubeAudioClassifier`: 5 learning rates x 2 losses, seen after 50, 200 and 1000 epochs, some 50
hours on 8 CPUs. This page is written by `dvc repro replication/dvc.yaml`.

**What reproduces.** With the softmax head, on our own random split and one draw of initial weights
a seed: {reproduction(printed, curves)}.

**What does not hold.** The outputs were squashed before the loss, two thirds of the test results
are validation results, at lr = 1 a constant answer passes for 0.78 NDCG, and the 0.877 of
YouTube-8M is no comparison ([the audit](#the-audit)).

**What to do instead.** {best_sentence(printed["ndcg"], curves)}

![NDCG, printed and ours](pictures/ndcg.svg)

![NDCG against epochs](pictures/curves.svg)

## The audit

{audit_section(printed, index)}
## The tables

Ours beside the printed numbers: batch {settings.batch_size}, Adam at a constant rate, bytes / 256,
{clips} clips split at random (not the study's own draw, which was not published).
Mean ± standard deviation over seeds ({seeds_told(curves)}); of one seed no spread is known.
NDCG here breaks ties by the labels' frequency, as the printed one does; only where the softmax has
collapsed (lr = 1, some of 0.1) does it matter.
{not_run}
{tables}
![P@1, printed and ours](pictures/precision_at_1.svg)

Data: AudioSet's embeddings and labels, by Google, CC BY 4.0.
"""


@entry_point
def main() -> None:
    """Run the stage."""
    settings = load_grid()
    printed, curves, index = read_printed(), read_curves(settings), read_index()
    charts = {name: heat_map(printed, curves, name) for name in ("ndcg", "precision_at_1")}
    for name, chart in (charts | {"curves": curve_chart(curves)}).items():
        write_text(PICTURES / f"{name}.svg", draw(in_the_look(chart)))
    write_text(PAGE, page(settings, printed, curves, index))


if __name__ == "__main__":
    main()
