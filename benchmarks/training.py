"""Training YoutubeAudioClassifier: the published study's recipe against what this project does.

Trainers take turns of an epoch each, so one run gives the seconds of an epoch and, summed up to
the first epoch that reaches it, the seconds to the study's best NDCG on validation.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from benchmarks.ratios import alternate, ratios, spread
from benchmarks.results import Result, Target
from benchmarks.turns import Failed, Worker
from benchmarks.workspace import make_workspace, prepare, source, stage_environment
from tagging.base.errors import UserError
from tagging.base.processes import cores
from tagging.base.progress import Progress

TURNS = 5
STUDY_BATCH, DEFAULT_BATCH = 16, 64
NDCG = 0.9166  # the best cell of the study's table
MODEL = "yac"
RECIPE = "the study's recipe (Lightning, DataLoader with workers)"
PLAIN = "plain loop in PyTorch, one core"
PIPELINE = f"train@{MODEL}, one core"
STACK = "stack of the grid, one core"
STACKS = "a stack on each core"


class Way(NamedTuple):
    """A trainer: what to run, with which arguments before the batch size, and in how many copies.

    Copies take their turns at the same time; the slowest one's seconds count.
    """

    module: str
    arguments: tuple[str, ...] = ()
    copies: int = 1


def ways() -> dict[str, Way]:
    """Return all trainers."""
    return {
        RECIPE: Way("benchmarks.trainers.recipe"),
        PLAIN: Way("benchmarks.trainers.plain"),
        PIPELINE: Way("benchmarks.trainers.pipeline", (MODEL,)),
        STACK: Way("benchmarks.trainers.stack"),
        STACKS: Way("benchmarks.trainers.stack", copies=cores()),
    }


class Team:
    """The workers of one way, and what each of its turns gave."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers
        self.networks = sum(worker.ready.get("networks", 1) for worker in workers)
        self.ndcg: list[float] = []

    def turn(self) -> float:
        """Train an epoch; return the seconds it took the slowest worker."""
        for worker in self.workers:
            worker.begin()
        answers = [worker.answer() for worker in self.workers]
        self.ndcg.append(max(answer["ndcg"] for answer in answers))
        return max(answer["seconds"] for answer in answers)


def seconds_to(ndcg: float, reached: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Return the seconds of all epochs up to the first that reached `ndcg`; None if none did."""
    for number, value in enumerate(reached, start=1):
        if value >= ndcg:
            return sum(seconds[:number])
    return None


def measure(
    turns: int = TURNS,
    batches: Sequence[int] = (STUDY_BATCH, DEFAULT_BATCH),
    trainers: dict[str, Way] | None = None,
    change: Callable[[dict[str, Any]], None] = source,
) -> Result:
    """Train in turns, with one batch size after the other.

    Args:
        turns: epochs a trainer.
        batches: batch sizes.
        trainers: by their names; None for all. The first is what others are held against.
        change: makes the parameters of what is trained on.
    """
    trainers = trainers or ways()
    table, seconds, networks = [], {}, {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_workspace(folder, change)
        counts = prepare(folder)
        real = counts["source"] == "AudioSet"
        with Progress("training", turns * len(trainers) * len(batches), "epoch") as progress:
            for batch in batches:
                with ExitStack() as stack:
                    teams = {way: _team(stack, trainers[way], batch, folder) for way in trainers}
                    times = alternate({way: teams[way].turn for way in teams}, turns, progress)
                seconds[batch] = times
                networks = {way: team.networks for way, team in teams.items()}
                table += rows(batch, times, teams, NDCG if real else None)
    about = (
        f"{counts['split']['train']:,} clips of "
        f"{'AudioSet' if real else 'the generated sample'}, {turns} epochs each, by turns. An "
        "epoch is training alone, without validation; where several networks share it, its seconds "
        f"are divided among them. NDCG {NDCG} on validation is the best that the study printed, "
        "after 1000 epochs."
        + ("" if real else " (The sample's labels are other ones: its NDCG would say nothing.)")
    )
    return Result(
        "Training against the study's recipe", about, table, targets(seconds, networks, table)
    )


def _team(stack: ExitStack, way: Way, batch: int, folder: Path) -> Team:
    try:
        return Team(
            [
                stack.enter_context(
                    Worker(
                        way.module,
                        [*way.arguments, str(batch)],
                        folder=folder,
                        environment=stage_environment(),
                    )
                )
                for _ in range(way.copies)
            ]
        )
    except Failed as problem:
        raise UserError(f"{problem}; make bench installs what is needed") from None


def per_network(times: Sequence[float], networks: int) -> list[float]:
    """Return the seconds of an epoch that one of several networks answers for."""
    return [seconds / networks for seconds in times]


def rows(
    batch: int, times: dict[str, list[float]], teams: dict[str, Team], ndcg: float | None
) -> list[dict]:
    """Return the rows of one batch size; `ndcg` is None where it is not to be reached."""
    base = next(iter(times.values()))
    table = []
    for way, team in teams.items():
        own = per_network(times[way], team.networks)
        table.append(
            {
                "way": way,
                "batch": batch,
                "networks": team.networks,
                "s an epoch and network": spread(own),
                "times as fast as the recipe": spread(ratios(base, own)),
                f"s to NDCG {NDCG}": seconds_to(ndcg, team.ndcg, times[way]) if ndcg else None,
                "highest NDCG": max(team.ndcg),
            }
        )
    return table


def targets(
    seconds: dict[int, dict[str, list[float]]], networks: dict[str, int], table: list[dict]
) -> list[Target]:
    """Hold the study's batch against the project's targets."""

    def faster(way: str) -> float | None:
        times = seconds.get(STUDY_BATCH, {})
        if RECIPE not in times or way not in times:
            return None
        return statistics.median(ratios(times[RECIPE], per_network(times[way], networks[way])))

    to_ndcg = [
        row[f"s to NDCG {NDCG}"]
        for row in table
        if (row["way"], row["batch"]) == (PIPELINE, DEFAULT_BATCH)
    ]
    many = "recipe's seconds an epoch / those of a network of the grid, batch 16"
    return [
        Target(f"{many}, a stack on each core", "at least", 8, faster(STACKS)),
        Target(f"{many}, a stack on each core: the aim", "at least", 20, faster(STACKS)),
        Target(f"{many}, on one core", "at least", 8, faster(STACK)),
        Target(
            f"train@{MODEL}: seconds to NDCG {NDCG}",
            "at most",
            10,
            to_ndcg[0] if to_ndcg else None,
            "" if to_ndcg and to_ndcg[0] else "not reached in these epochs, or not AudioSet",
        ),
    ]
