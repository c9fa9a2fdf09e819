"""Stage `report`: the study's tables beside ours, the audit, and the page about both.

Every number on the page is computed here, from the committed results, the printed tables and the
labels; sentences that depend on a number are chosen by it.
"""

import textwrap
from statistics import mean, median
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from replication import audit
from replication.cells import (
    LAST_PRINTED,
    METRICS,
    PRINTED_EPOCHS,
    Cell,
    Curves,
    Printed,
    describe_seeds,
    differences,
    mean_over_seeds,
    missing_cells,
    our_value,
    read_curves,
    read_printed,
    run_endings,
)
from replication.charts import curve_chart, heat_map
from replication.study import CLIPS, FOLDER, VARIANTS_CSV, Grid, epoch_batches, load_grid, score
from tagging.base.errors import entry_point
from tagging.base.files import write_text
from tagging.data.clips import Index, read_index
from tagging.reports.charts import apply_theme, render_svg
from tagging.scoring.tables import read_rows, to_markdown

PAGE = FOLDER / "README.md"
PICTURES = FOLDER / "pictures"
CLOSE = 0.01  # NDCG and precision at 1: a cell within this distance counts as reproduced
HIGH_LR, STABLE_LR = 0.1, 0.01  # the rate at which runs differ in kind; all lower ones train
AUDIT_EPOCHS = 10  # epochs of batches over which the loss of a constant answer is averaged
PAGE_WIDTH = 100


def wrap(text: str, prefix: str = "") -> str:
    """Return a paragraph of the page, or a list item with its number as the prefix."""
    return textwrap.fill(
        " ".join(text.split()),
        PAGE_WIDTH,
        initial_indent=prefix,
        subsequent_indent=" " * len(prefix),
        break_long_words=False,
        break_on_hyphens=False,
    )


def comparison_table(printed: dict[Cell, float], curves: Curves, metric: str) -> str:
    """Return one of the study's tables beside our numbers, as Markdown."""
    rows = []
    for cell, value in printed.items():
        softmax, logits = (our_value(curves, head, metric, cell) for head in ("softmax", "logits"))
        difference = f"{softmax.value - value:+.4f}" if softmax else ""
        ours = [str(softmax or "not run"), difference, str(logits or "not run")]
        rows.append([cell.loss, f"{cell.lr:g}", str(cell.epochs), f"{value:.4f}", *ours])
    header = ["loss", "lr", "epochs", "printed", "ours, softmax", "difference", "ours, logits"]
    return to_markdown(header, rows, right=1)


def describe_collapse(printed: Printed, curves: Curves, index: Index) -> str:
    """Return how the runs with lr = 1 end, ours and the printed ones."""
    val = index.labels[index.folds[0].val]
    parts = []
    for loss in ("msml", "ce"):
        endings = run_endings(curves, loss, 1.0, val)
        classes = [end.constant_class for end in endings if end.constant_class is not None]
        names = sorted({index.classes[column].name for column in classes})
        printed_class = index.classes[collapsed_class(printed, index, loss)].name
        answer = f"answer {' or '.join(names)} for every clip" if names else "answer one class"
        parts.append(
            f"with {loss} {len(classes)} of our {len(endings)} runs {answer}, the printed one "
            f"{printed_class}"
        )
    return "; ".join(parts)


def describe_levels(printed: Printed, curves: Curves) -> str:
    """Return how far ours are from the printed numbers at the learning rates that train."""
    parts = []
    for metric in ("ndcg", "precision_at_1"):
        gaps = [
            gap
            for cell, gap in differences(printed[metric], curves, metric).items()
            if cell.lr <= STABLE_LR
        ]
        if gaps:
            close, above = sum(abs(gap) < CLOSE for gap in gaps), sum(gap > 0 for gap in gaps)
            parts.append(
                f"{above} of {len(gaps)} {METRICS[metric]} cells lie above the printed ones "
                f"(median {median(gaps):+.3f}; {close} within {CLOSE})"
            )
    for loss in ("ce", "msml"):
        gaps = [
            gap
            for cell, gap in differences(printed["train_loss"], curves, "train_loss").items()
            if cell.lr <= STABLE_LR and cell.loss == loss
        ]
        if gaps:
            parts.append(
                f"the training loss of {loss} differs by {min(gaps):+.3f} to {max(gaps):+.3f} in "
                f"{len(gaps)} cells"
            )
    return "; ".join(parts) or "no cell was run"


def describe_training(printed: Printed, curves: Curves, index: Index) -> str:
    """Return the lowest NDCG at the learning rates that train, and a constant answer's."""
    fold = index.folds[0]
    val = index.labels[fold.val]
    constant = score(val, audit.constant_scores(index.labels[fold.train], len(val))).ndcg
    cells = [cell for cell in printed["ndcg"] if cell.lr <= STABLE_LR]
    ours = [value.value for cell in cells if (value := our_value(curves, "softmax", "ndcg", cell))]
    lowest = f"{min(ours):.3f}" if ours else "none"
    return (
        f"learning rates up to {STABLE_LR} train: the lowest NDCG of ours is {lowest}, the lowest "
        f"printed {min(printed['ndcg'][cell] for cell in cells):.3f}, and a constant answer has "
        f"{constant:.3f}"
    )


def describe_order(printed: Printed, curves: Curves) -> str:
    """Return whether our cells come in the order of the printed ones, at rates that train."""
    parts = []
    for metric, loss in (("train_loss", "msml"), ("train_loss", "ce"), ("ndcg", None)):
        cells = [
            cell
            for cell in differences(printed[metric], curves, metric)
            if cell.lr <= STABLE_LR and loss in (cell.loss, None)
        ]
        if len(cells) > 2:
            ours = [our_value(curves, "softmax", metric, cell).value for cell in cells]
            rho = spearmanr([printed[metric][cell] for cell in cells], ours).statistic
            name = METRICS[metric] if loss is None else f"the training loss of {loss}"
            parts.append(f"{rho:.2f} for {name}")
    return ", ".join(parts) or "unknown"


def describe_high_rate(printed: Printed, curves: Curves, index: Index) -> str:
    """Return how our runs at `HIGH_LR` end, beside the printed cells."""
    fold = index.folds[0]
    val = index.labels[fold.val]
    constant = score(val, audit.constant_scores(index.labels[fold.train], len(val))).ndcg
    endings = [end for loss in ("msml", "ce") for end in run_endings(curves, loss, HIGH_LR, val)]
    collapsed = sum(end.constant_class is not None for end in endings)
    cells = [value for cell, value in printed["ndcg"].items() if cell.lr == HIGH_LR]
    below = sum(value <= constant for value in cells)
    gaps = [
        gap
        for cell, gap in differences(printed["ndcg"], curves, "ndcg").items()
        if cell.lr == HIGH_LR
    ]
    if not gaps:
        return "no run"
    return (
        f"{collapsed} of our {len(endings)} runs end with one class ranked first for every clip, "
        f"while {below or 'none'} of the {len(cells)} printed NDCG cells is as low as a constant "
        f"answer's: ours differ by {max(gaps):+.2f} to {min(gaps):+.2f}"
    )


def describe_best(printed: dict[Cell, float], curves: Curves) -> str:
    """Return how raw logits change the best cell, selected on validation by its mean over seeds."""
    parts = []
    for head in ("softmax", "logits"):
        val = {
            cell: value
            for cell in printed
            if (value := mean_over_seeds(curves, head, "val_ndcg", cell))
        }
        if not val:
            return "Only one of the two heads was run."
        cell = max(val, key=lambda cell: val[cell].value)
        ndcg, precision = (
            mean_over_seeds(curves, head, f"test_{metric}", cell)
            for metric in ("ndcg", "precision_at_1")
        )
        seeds = f"{val[cell].seeds} seed{'s' * (val[cell].seeds > 1)}"
        parts.append(f"NDCG {ndcg} / P@1 {precision} ({cell}, {seeds})")
    return (
        f"Raw logits move the best cell, selected on validation, from {parts[0]} to **{parts[1]}** "
        "on the test split."
    )


def variants_table(variants: list[dict[str, str]]) -> str:
    """Return the scores of the variants that were tried, as Markdown."""
    columns = {
        "train_loss": "train loss", "train_loss_evaluated": "evaluated", "ndcg": "NDCG",
        "precision_at_1": "P@1", "ndcg_batch_statistics": "NDCG, batch statistics",
        "precision_at_1_batch_statistics": "P@1, batch statistics",
    }  # fmt: skip
    rows = [
        [row["variant"], row["loss"], *(f"{float(row[column]):.4f}" for column in columns)]
        for row in variants
    ]
    return to_markdown(["variant", "loss", *columns.values()], rows, right=2)


class Shift(NamedTuple):
    """The lowest and highest change of a number."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:+.4f} to {self.high:+.4f}"


def variant_shifts(variants: list[dict[str, str]]) -> dict[str, Shift]:
    """Return how far the variants move ce's training loss and NDCG from the grid's network.

    The first variant is the grid's network. `ndcg_batch_statistics` compares, within each variant,
    statistics of the batch with running ones; `ce_evaluated` the loss of ce likewise.
    """
    reference = {row["loss"]: row for row in variants if row["variant"] == variants[0]["variant"]}

    def shift(column: str, base: str, within: bool, loss: str | None = None) -> Shift:
        changes = [
            float(row[column]) - float((row if within else reference[row["loss"]])[base])
            for row in variants
            if loss in (None, row["loss"]) and (within or row is not reference[row["loss"]])
        ]
        return Shift(min(changes), max(changes))

    return {
        "ndcg": shift("ndcg", "ndcg", within=False),
        "ndcg_batch_statistics": shift("ndcg_batch_statistics", "ndcg", within=True),
        "ce": shift("train_loss", "train_loss", within=False, loss="ce"),
        "ce_evaluated": shift("train_loss_evaluated", "train_loss", within=True, loss="ce"),
    }


def describe_variants(printed: Printed, curves: Curves, variants: list[dict[str, str]]) -> str:
    """Return how far the variants move the numbers, and how far the printed ones are away."""
    shifts = variant_shifts(variants)
    ndcg, ce = (
        [
            -gap
            for cell, gap in differences(printed[metric], curves, metric).items()
            if cell.lr <= STABLE_LR and (metric == "ndcg" or cell.loss == "ce")
        ]
        for metric in ("ndcg", "train_loss")
    )
    runs = [
        row
        for row in curves
        if row["head"] == "softmax"
        and row["lr"] == float(variants[0]["lr"])
        and row["epoch"] == float(variants[0]["epochs"])
    ]
    seed_ranges = "; ".join(
        f"{name} {value_range([row[column] for row in runs if row['loss'] == loss])} ({loss})"
        for loss in ("msml", "ce")
        for name, column in (("NDCG", "val_ndcg_label_order"), ("a training loss of", "train_loss"))
    )
    return f"""To reach the printed levels of all epochs, NDCG would have to change by
        {median(ndcg):+.4f} (median) and ce's training loss by {median(ce):+.4f}. Against the
        network of the grid, the variants change NDCG by {shifts["ndcg"]} and ce's training loss by
        {shifts["ce"]}; statistics of the batch change NDCG by {shifts["ndcg_batch_statistics"]},
        and evaluation after the epoch changes ce's loss by {shifts["ce_evaluated"]}. At the
        same point, the seeds of the grid alone have {seed_ranges}."""


def collapsed_class(printed: Printed, index: Index, loss: str) -> int:
    """Return the class whose constant answer has the loss that is printed for lr = 1."""
    train = index.labels[index.folds[0].train]
    value = printed["train_loss"][Cell(loss, 1.0, LAST_PRINTED)]
    losses = [audit.collapsed_loss(train, loss, k) for k in range(len(index.classes))]
    return min(range(len(losses)), key=lambda k: abs(losses[k] - value))


def logged_loss(labels: np.ndarray, loss: str, column: int, settings: Grid) -> float:
    """Return the mean loss that a training logs while a saturated softmax answers one class."""
    batches = [
        batch
        for epoch in range(AUDIT_EPOCHS)
        for batch in epoch_batches(len(labels), settings.batch_size, settings.seeds[0], epoch)
    ]
    return audit.collapsed_loss(labels, loss, column, batches)


def trained_loss(curves: Curves, loss: str, column: int, val_labels: np.ndarray) -> float | None:
    """Return the mean training loss of our runs where they answer one class, or None."""
    values = [
        row["train_loss"]
        for row in curves
        if (row["head"], row["loss"]) == ("softmax", loss)
        and row["epoch"] in PRINTED_EPOCHS
        and audit.constant_class(row["val_precision_at_1"], val_labels) == column
    ]
    return mean(values) if values else None


def value_range(values: list[float]) -> str:
    """Return the lowest and the highest value, or one of them if they do not differ."""
    low, high = f"{min(values):.4f}", f"{max(values):.4f}"
    return low if low == high else f"{low} to {high}"


def collapse_table(printed: Printed, curves: Curves, index: Index, settings: Grid) -> str:
    """Return the scores of a softmax that always answers one class, beside the printed ones."""
    fold = index.folds[0]
    train, val, test = (index.labels[clips] for clips in fold)
    rows = []
    for loss in ("msml", "ce"):
        cell = Cell(loss, 1.0, LAST_PRINTED)
        column = collapsed_class(printed, index, loss)
        printed_losses = [
            value for each, value in printed["train_loss"].items() if each[:2] == cell[:2]
        ]
        ours = trained_loss(curves, loss, column, val)
        scores = score(test, audit.collapsed_scores(test, column))
        numbers = (
            scores.precision_at_1, printed["precision_at_1"][cell], scores.ndcg_label_order,
            printed["ndcg"][cell], scores.ndcg,
        )  # fmt: skip
        rows.append(
            [
                loss, index.classes[column].name,
                f"{logged_loss(train, loss, column, settings):.4f}",
                "none" if ours is None else f"{ours:.4f}", value_range(printed_losses),
                *(f"{number:.4f}" for number in numbers),
            ]
        )  # fmt: skip
    header = [
        "loss", "constant answer", "loss, computed", "our runs", "printed", "P@1, computed",
        "printed", "NDCG, ties in label order", "printed", "NDCG, ties as their mean",
    ]  # fmt: skip
    return to_markdown(header, rows, right=2)


def bounds_table(printed: Printed, curves: Curves, train_labels: np.ndarray) -> str:
    """Return the lowest training loss that a softmax head can reach, beside printed and ours."""
    rows = []
    for loss in ("msml", "ce"):
        cells = [cell for cell in printed["train_loss"] if cell.loss == loss]
        stable = [cell for cell in cells if cell.lr <= STABLE_LR]
        ours = {
            head: [
                value.value
                for cell in stable
                if (value := our_value(curves, head, "train_loss", cell))
            ]
            for head in ("softmax", "logits")
        }
        rows.append(
            [
                loss, f"{audit.lowest_softmax_loss(train_labels, loss):.4f}",
                value_range([printed["train_loss"][cell] for cell in stable]),
                *(value_range(values) if values else "not run" for values in ours.values()),
            ]
        )  # fmt: skip
    header = ["loss", "lowest possible", "printed", "ours, softmax", "ours, logits"]
    return to_markdown(header, rows, right=1)


def shares_table(precisions: dict[Cell, float], clips: tuple[int, int]) -> str:
    """Return how well the printed precisions fit as shares of each number of clips."""
    rows = []
    for epochs in PRINTED_EPOCHS:
        values = [value for cell, value in precisions.items() if cell.epochs == epochs]
        worst = [max(audit.fit_share(value, n).error for value in values) for n in clips]
        rows.append([str(epochs), str(len(values)), *(f"{error:.1e}" for error in worst)])
    header = ["epochs", "values", f"largest error as k/{clips[0]}", f"as k/{clips[1]}"]
    return to_markdown(header, rows, right=0)


def describe_selection(printed: Printed) -> str:
    """Return the printed cells with the highest scores, and what each has in the other score."""
    ndcg, precision = printed["ndcg"], printed["precision_at_1"]
    best_ndcg, best_precision = max(ndcg, key=ndcg.get), max(precision, key=precision.get)
    same = "the same cell" if best_ndcg == best_precision else "different cells"
    return (
        f"the highest NDCG of {len(ndcg)} cells, {ndcg[best_ndcg]:.4f} ({best_ndcg}), and the "
        f"highest P@1, {precision[best_precision]:.4f} ({best_precision}), belong to {same}: the "
        f"first has P@1 {precision[best_ndcg]:.4f}, the second NDCG {ndcg[best_precision]:.4f}"
    )


def audit_section(printed: Printed, curves: Curves, index: Index, settings: Grid) -> str:
    """Return the findings of the audit, each with its numbers."""
    train, val, test = (index.labels[clips] for clips in index.folds[0])
    constant = audit.constant_scores(train, len(test))
    test_scores = score(test, constant)
    val_scores = score(val, audit.constant_scores(train, len(val)))
    speech = collapsed_class(printed, index, "ce")
    printed_ce = [
        value
        for cell, value in printed["train_loss"].items()
        if (cell.loss, cell.lr) == ("ce", 1.0)
    ]
    name = index.classes[speech].name
    ndcg_of_music = printed["ndcg"][Cell("msml", 1.0, LAST_PRINTED)]
    ranking = " > ".join(label.name for label in index.classes[:3])
    softmax = [
        wrap(
            """**The outputs most likely went through a softmax before the loss.** The last line of
            `forward` is illegible in the source: this is an inference, from three observations.
            First, the numbers printed for lr = 1 are those of a constant answer of 1 for one class
            and 0 for all others, which is a saturated softmax: its loss follows from the labels
            alone, its precision is the share of the class, and its NDCG is the printed one if the
            nine tied classes are ranked by their frequency. A saturated sigmoid could answer
            several classes, or none.""",
            "1. ",
        ),
        collapse_table(printed, curves, index, settings),
        wrap(
            f"""A training logs the mean loss of batches of {settings.batch_size}. For ce this
            differs from the loss of all clips as one batch, which is
            {audit.collapsed_loss(train, "ce", speech):.4f} for {name}, as ce divides by the number
            of labels in a batch. The study's clips are another random draw, with slightly other
            shares of each class.""",
            "   ",
        ),
        wrap(
            f"""Second, outputs of a softmax cannot bring either loss below a bound that the labels
            determine. No printed loss is below it; raw logits are far below it. Third, our runs
            with a softmax end near the printed losses. For learning rates up to {STABLE_LR}:""",
            "   ",
        ),
        bounds_table(printed, curves, train),
    ]
    validation = [
        wrap(
            f"""**Two thirds of the "test" results are validation results.** A precision is a number
            of clips divided by all clips: {len(val):,} in validation, {len(test):,} in test. Each
            printed value fits only one of the two.""",
            "2. ",
        ),
        shares_table(printed["precision_at_1"], (len(val), len(test))),
    ]
    others = [
        f"""**The best cells were selected on the test split.** In the printed tables
        {describe_selection(printed)}. Both are test results, by the previous point, and no model
        has both.""",
        """**Text and tables disagree on the epochs**: 50, 100 and 200 in the text, 50, 200 and 1000
        in the tables.""",
        f"""**Text and code disagree on the cross-entropy.** The text divides the loss of a clip by
        its number of labels, the code divides the logits. A constant answer of {name} costs
        {audit.collapsed_loss_as_written(train, speech):.4f} by the text and
        {logged_loss(train, "ce", speech, settings):.4f} by the code; the tables have
        {value_range(printed_ce)}. We follow the code.""",
        f"""**The printed NDCG formula rewards irrelevant labels**: its gain 2^(rel - 1) is 1/2 for
        a label that the clip does not have. The constant answer of point 8 would score
        {audit.ndcg_as_written(test, constant):.4f} by it, and {test_scores.ndcg:.4f} by
        2^rel - 1. The {ndcg_of_music:.4f} printed at lr = 1 agrees with the latter.""",
        """**`df[~df.isnull()]` drops no row.** It selects by element: every row stays, and missing
        values stay missing. `df.dropna()` drops rows.""",
        f"""**A constant answer is a strong baseline.** Ranking {ranking} > ... for every clip
        scores NDCG {test_scores.ndcg:.3f} and P@1 {test_scores.precision_at_1:.3f} on test
        ({val_scores.ndcg:.3f} and {val_scores.precision_at_1:.3f} on validation).""",
        f"""**NDCG of a flattened batch is another number.** The same constant answer gets
        {audit.flattened_ndcg(test, constant, len(test)):.3f} if the labels of all clips form one
        ranking, as `torchmetrics.functional.retrieval_normalized_dcg` computes it for a (clips,
        labels) array. All numbers here are computed clip by clip.""",
        """**0.877 is no reference.** The study compares its P@1 with 0.877 of video classification
        on YouTube-8M: other data and other labels.""",
    ]
    items = [wrap(text, f"{number}. ") for number, text in enumerate(others, start=3)]
    return "\n\n".join(part.rstrip("\n") for part in (*softmax, *validation, *items)) + "\n"


def page(
    settings: Grid, printed: Printed, curves: Curves, index: Index, variants: list[dict[str, str]]
) -> str:
    """Return the page: which numbers reproduce, which do not, the audit and all tables."""
    absent = missing_cells(printed["ndcg"], curves, settings.heads)
    not_run = f"\nNot run: {'; '.join(absent)}.\n" if absent else ""
    tables = "\n".join(
        f"### {title}\n\n{comparison_table(printed[metric], curves, metric)}"
        for metric, title in METRICS.items()
    )
    clips = " / ".join(f"{len(split):,}" for split in index.folds[0])
    stable = sum(cell.lr <= STABLE_LR for cell in printed["ndcg"])
    first = variants[0]
    paragraphs = [
        """`YoutubeAudioClassifier`: 5 learning rates x 2 losses, reported after 50, 200 and 1000
        epochs, about 50 hours on 8 CPUs. `dvc repro replication/dvc.yaml` writes this page; its
        numbers are computed from [results](results), [printed.csv](printed.csv) and the labels.
        Ours are of our own random split, as the study's was not published, and of the softmax head
        unless a sentence says otherwise.""",
        f"""**What reproduces.** The collapse at lr = 1:
        {describe_collapse(printed, curves, index)}. And
        {describe_training(printed, curves, index)}.""",
        f"""**What does not: the levels.** With learning rates up to {STABLE_LR},
        {describe_levels(printed, curves)}. Spearman's rank correlation of these {stable} cells with
        the printed ones is {describe_order(printed, curves)}.""",
        f"""**What does not: lr = {HIGH_LR}.** There
        {describe_high_rate(printed, curves, index)}.""",
        """**The cause of the difference is not identified.** Layers, losses and optimizer are those
        that the study describes; [what was tried](#what-was-tried) says which open details were
        varied.""",
        """**What the tables do not show.** The outputs most likely went through a softmax before
        the loss, two thirds of the test results are validation results, the best cells were
        selected on test, and a constant answer scores as much as the rows of lr = 1 ([the
        audit](#the-audit)).""",
        f"""**What to do instead.** {describe_best(printed["ndcg"], curves)}""",
    ]
    tried = f"""The source leaves details open: the width of a max pooling (6, 7 and 8 give the same
        shape; the grid has 8), whether batch normalization precedes ReLU, and whether the printed
        numbers were computed with the statistics of the batch or the running ones. Each variant was
        trained with one seed for {first["epochs"]} epochs at lr {first["lr"]}: too few to compare
        with the printed numbers, but enough to see what a variant changes. "Evaluated" is the loss
        of the training clips after the last epoch, with running statistics; "batch statistics"
        normalizes batches of {settings.batch_size} clips by themselves. Scores are of the
        validation split. Not varied: the illegible kernel of a dilated convolution, of which 9 x 3
        is the one that fits without padding, and the split."""
    about_tables = f"""Our numbers beside the printed ones: batch {settings.batch_size}, Adam at a
        constant rate, bytes / 256, {clips} clips, split at random. Mean ± standard deviation over
        seeds ({describe_seeds(curves)}); one seed has no deviation. NDCG here breaks ties by class
        frequency, as the printed one does; this matters only where the softmax is saturated (lr =
        1, some runs of 0.1)."""
    summary = "\n\n".join(map(wrap, paragraphs))
    return f"""\
# The published study, repeated

{summary}

![NDCG, printed and ours](pictures/ndcg.svg)

![NDCG by epoch](pictures/curves.svg)

## The audit

{audit_section(printed, curves, index, settings)}
## What was tried

{wrap(tried)}

{variants_table(variants)}
{wrap(describe_variants(printed, curves, variants))}

## The tables

{wrap(about_tables)}
{not_run}
{tables}
![P@1, printed and ours](pictures/precision_at_1.svg)

Data: AudioSet's embeddings and labels, by Google, CC BY 4.0.
"""


@entry_point
def main() -> None:
    """Run the stage."""
    settings = load_grid()
    printed, curves, index = read_printed(), read_curves(settings), read_index(CLIPS.index)
    charts = {name: heat_map(printed, curves, name) for name in ("ndcg", "precision_at_1")}
    for name, chart in (charts | {"curves": curve_chart(curves)}).items():
        write_text(PICTURES / f"{name}.svg", render_svg(apply_theme(chart)))
    write_text(PAGE, page(settings, printed, curves, index, read_rows(VARIANTS_CSV)))


if __name__ == "__main__":
    main()
