"""Training YoutubeAudioClassifier: the published study's recipe and the project's trainers.

Each round is an epoch of every trainer. This measures the seconds of an epoch and, as a sum over
epochs, the seconds until validation reaches the study's best NDCG.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.results import Cell, Result, Target
from benchmarks.timing import interleave, ratios, spread
from benchmarks.workers import Worker, WorkerError
from benchmarks.workspace import (
    make_workspace,
    prepare_clips,
    select_source,
    stage_environment,
)
from tagging.base.errors import UserError
from tagging.base.processes import cores
from tagging.base.progress import Progress

ROUNDS = 5
STUDY_BATCH, DEFAULT_BATCH = 16, 64
NDCG = 0.9166  # the best cell of the study's table
MODEL = "yac"
RECIPE = "the study's recipe (Lightning, DataLoader with workers)"
PLAIN = "plain loop in PyTorch, one core"
PIPELINE = f"train@{MODEL}, one core"
STACK = "stack of the grid, one core"
STACKS = "a stack on each core"


class Trainer(NamedTuple):
    """A module to run, its arguments before the batch size, and the number of processes.

    Several processes train at the same time; the seconds of the slowest count.
    """

    module: str
    arguments: tuple[str, ...] = ()
    processes: int = 1


def list_trainers() -> dict[str, Trainer]:
    """Return all trainers by name."""
    return {
        RECIPE: Trainer("benchmarks.trainers.recipe"),
        PLAIN: Trainer("benchmarks.trainers.plain"),
        PIPELINE: Trainer("benchmarks.trainers.pipeline", (MODEL,)),
        STACK: Trainer("benchmarks.trainers.stack"),
        STACKS: Trainer("benchmarks.trainers.stack", processes=cores()),
    }


class Team:
    """The workers of one trainer, and the NDCG after each epoch."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers
        self.networks = sum(worker.ready.get("networks", 1) for worker in workers)
        self.ndcg: list[float] = []

    def train_epoch(self) -> float:
        """Train an epoch; return the seconds of the slowest worker."""
        for worker in self.workers:
            worker.send_request()
        results = [worker.receive() for worker in self.workers]
        self.ndcg.append(max(result["ndcg"] for result in results))
        return max(result["seconds"] for result in results)


def seconds_to(ndcg: float, epoch_ndcg: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the seconds of all epochs up to the first that reached `ndcg`; None if none did."""
    for number, value in enumerate(epoch_ndcg, start=1):
        if value >= ndcg:
            return sum(seconds[:number])
    return None


def measure(
    rounds: int = ROUNDS,
    batches: Sequence[int] = (STUDY_BATCH, DEFAULT_BATCH),
    trainers: dict[str, Trainer] | None = None,
    change: Callable[[dict[str, Any]], None] = select_source,
) -> Result:
    """Train with all trainers, interleaved, for one batch size after the other.

    Args:
        rounds: epochs of each trainer.
        batches: batch sizes.
        trainers: by name; None for all. Speedups are relative to the first.
        change: edits the parameters of the data.
    """
    trainers = trainers or list_trainers()
    table: list[dict[str, Cell]] = []
    seconds, networks = {}, {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder, change)
        summary = prepare_clips(folder)
        is_audioset = summary["source"] == "AudioSet"
        with Progress("training", rounds * len(trainers) * len(batches), "epoch") as progress:
            for batch in batches:
                with ExitStack() as stack:
                    teams = {
                        name: _start_team(stack, trainer, batch, folder)
                        for name, trainer in trainers.items()
                    }
                    epochs = {name: team.train_epoch for name, team in teams.items()}
                    times = interleave(epochs, rounds, progress)
                seconds[batch] = times
                networks = {name: team.networks for name, team in teams.items()}
                table += make_rows(batch, times, teams, NDCG if is_audioset else None)
    description = (
        f"{summary['split']['train']:,} clips of "
        f"{'AudioSet' if is_audioset else 'the generated sample'}, {rounds} epochs each, "
        "interleaved. An epoch is training without validation; networks that are trained together "
        f"share its seconds. NDCG {NDCG} is the best that the study printed, after 1000 epochs."
        + ("" if is_audioset else " (The labels of the sample are others: no NDCG is compared.)")
    )
    return Result(
        "Training and the study's recipe", description, table, targets(seconds, networks, table)
    )


def _start_team(stack: ExitStack, trainer: Trainer, batch: int, folder: Path) -> Team:
    try:
        return Team(
            [
                stack.enter_context(
                    Worker(
                        trainer.module,
                        [*trainer.arguments, str(batch)],
                        folder=folder,
                        environment=stage_environment(),
                    )
                )
                for _ in range(trainer.processes)
            ]
        )
    except WorkerError as problem:
        raise UserError(f"{problem}; make bench installs the packages it needs") from None


def per_network(times: Sequence[float], networks: int) -> list[float]:
    """Return the seconds of epochs divided by the number of networks that share them."""
    return [seconds / networks for seconds in times]


def make_rows(
    batch: int, times: dict[str, list[float]], teams: dict[str, Team], ndcg: float | None
) -> list[dict[str, Cell]]:
    """Return the rows of one batch size; `ndcg` is None where none is compared."""
    reference = next(iter(times.values()))
    table = []
    for name, team in teams.items():
        own = per_network(times[name], team.networks)
        table.append(
            {
                "implementation": name,
                "batch": batch,
                "networks": team.networks,
                "s per epoch and network": spread(own),
                "speedup over the recipe": spread(ratios(reference, own)),
                f"s to NDCG {NDCG}": seconds_to(ndcg, team.ndcg, times[name]) if ndcg else None,
                "highest NDCG": max(team.ndcg),
            }
        )
    return table


def targets(
    seconds: dict[int, dict[str, list[float]]],
    networks: dict[str, int],
    table: list[dict[str, Cell]],
) -> list[Target]:
    """Return the targets of the study's batch size."""

    def speedup(name: str) -> float | None:
        times = seconds.get(STUDY_BATCH, {})
        if RECIPE not in times or name not in times:
            return None
        return statistics.median(ratios(times[RECIPE], per_network(times[name], networks[name])))

    to_ndcg = [
        row[f"s to NDCG {NDCG}"]
        for row in table
        if (row["implementation"], row["batch"]) == (PIPELINE, DEFAULT_BATCH)
    ]
    quantity = "speedup of a network of the grid over the recipe, batch 16"
    return [
        Target(f"{quantity}, a stack on each core", "at least", 8, speedup(STACKS)),
        Target(f"{quantity}, a stack on each core: the aim", "at least", 20, speedup(STACKS)),
        Target(f"{quantity}, on one core", "at least", 8, speedup(STACK)),
        Target(
            f"train@{MODEL}: seconds to NDCG {NDCG}",
            "at most",
            10,
            to_ndcg[0] if to_ndcg else None,
            ""
            if to_ndcg and to_ndcg[0]
            else "not reached in these epochs, or the data are not AudioSet's",
        ),
    ]
