"""The cells of the study's tables: the printed numbers, and ours with their runs."""

from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np

from replication import audit
from replication.study import FOLDER, RESULTS, Grid
from tagging.scoring.tables import read_rows

PRINTED = FOLDER / "printed.csv"
# As the audit shows, the study's tables have validation results at 50 and 200 epochs, and test
# results at 1000. Ours are of the same split.
PRINTED_EPOCHS = (50, 200, 1000)
LAST_PRINTED = PRINTED_EPOCHS[-1]
METRICS = {"train_loss": "Train loss", "ndcg": "NDCG", "precision_at_1": "P@1"}


class Cell(NamedTuple):
    """One cell of the study's tables."""

    loss: str
    lr: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.loss}, lr {self.lr:g}, {self.epochs} epochs"


class CellValue(NamedTuple):
    """The mean of a cell over our seeds, their number and their standard deviation."""

    value: float
    seeds: int
    std: float | None

    def __str__(self) -> str:
        std = "" if self.std is None else f" ± {self.std:.4f}"
        return f"{self.value:.4f}{std}"


Printed = dict[str, dict[Cell, float]]  # the number in each cell, by metric
Curves = list[dict[str, Any]]  # one row per head, seed, loss, lr and epoch


def read_printed() -> Printed:
    """Return the printed tables."""
    tables: Printed = {metric: {} for metric in METRICS}
    for row in read_rows(PRINTED):
        cell = Cell(row["loss"], float(row["lr"]), int(row["epochs"]))
        tables[row["table"]][cell] = float(row["value"])
    return tables


def read_curves(settings: Grid) -> Curves:
    """Return the results of all runs in params.yaml."""
    rows = []
    for head in settings.heads:
        for seed in settings.seeds:
            for row in read_rows(RESULTS / f"{head}-{seed}.csv"):
                numbers = {k: float(v) for k, v in row.items() if k != "loss" and v}
                rows.append({"head": head, "seed": seed, "loss": row["loss"], **numbers})
    return rows


def mean_over_seeds(curves: Curves, head: str, column: str, cell: Cell) -> CellValue | None:
    """Return a cell's mean in a column of the results, or None if it was not run."""
    values = [
        row[column]
        for row in curves
        if (row["head"], row["loss"], row["lr"], row["epoch"]) == (head, *cell) and column in row
    ]
    if not values:
        return None
    return CellValue(mean(values), len(values), stdev(values) if len(values) > 1 else None)


def our_value(curves: Curves, head: str, metric: str, cell: Cell) -> CellValue | None:
    """Return our value of a cell, on the split of the printed one, or None if it was not run."""
    split = "test" if cell.epochs == LAST_PRINTED else "val"
    column = metric if metric == "train_loss" else f"{split}_{metric}"
    column = f"{column}_label_order" if metric == "ndcg" else column
    return mean_over_seeds(curves, head, column, cell)


def differences(printed: dict[Cell, float], curves: Curves, metric: str) -> dict[Cell, float]:
    """Return ours, with the softmax head, minus the printed number, of each cell that was run."""
    return {
        cell: ours.value - value
        for cell, value in printed.items()
        if (ours := our_value(curves, "softmax", metric, cell))
    }


def missing_cells(printed: dict[Cell, float], curves: Curves, heads: list[str]) -> list[str]:
    """Return a description of the cells that were not run, by head and number of epochs."""
    groups: dict[tuple[str, int], list[str]] = {}
    for head in heads:
        for cell in printed:
            if our_value(curves, head, "ndcg", cell) is None:
                groups.setdefault((head, cell.epochs), []).append(f"{cell.loss} {cell.lr:g}")
    cells = len({(cell.loss, cell.lr) for cell in printed})
    return [
        f"{head}, {epochs} epochs: {'all' if len(names) == cells else ', '.join(names)}"
        for (head, epochs), names in groups.items()
    ]


def describe_seeds(curves: Curves) -> str:
    """Return the number of seeds at each number of epochs, in words."""
    groups: dict[int, list[str]] = {}
    for epochs in PRINTED_EPOCHS:
        seeds = len({row["seed"] for row in curves if row["epoch"] == epochs})
        groups.setdefault(seeds, []).append(str(epochs))
    return "; ".join(
        f"{n or 'none'} at {' and '.join(epochs)} epochs" for n, epochs in groups.items()
    )


class Ending(NamedTuple):
    """The last scored epoch of a run, and the class it ranks first for every clip, if it does."""

    seed: int
    epoch: int
    constant_class: int | None


def run_endings(curves: Curves, loss: str, lr: float, val_labels: np.ndarray) -> list[Ending]:
    """Return how each run with the softmax head, this loss and this learning rate ends."""
    runs: dict[int, dict[str, Any]] = {}
    for row in curves:
        if (row["head"], row["loss"], row["lr"]) == ("softmax", loss, lr):
            last = runs.setdefault(row["seed"], row)
            runs[row["seed"]] = max(last, row, key=lambda row: row["epoch"])
    return [
        Ending(seed, int(row["epoch"]), audit.constant_class(row["val_precision_at_1"], val_labels))
        for seed, row in runs.items()
    ]
