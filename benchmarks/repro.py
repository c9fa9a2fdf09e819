"""`make repro` and plain `dvc repro`: trainings of some models, and all stages after them.

Interleaved, on two cores, each run in a new copy of one project whose clips are prepared, without
outputs or a DVC cache of earlier runs. Both must give the same scores.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.machine import on_cores
from benchmarks.results import Result, Target
from benchmarks.timing import interleave, measure_seconds, ratios, spread
from benchmarks.workers import ROOT
from benchmarks.workspace import prepare_clips, run, select_source, write_params
from tagging.base.errors import UserError
from tagging.base.processes import cores
from tagging.base.progress import Progress
from tools.demo import copy_project, make_repository

ROUNDS = 3
CORES = 2
# The models, with one run each, as a stage trains several in parallel anyway; and their epochs.
EPOCHS = {
    "yac": 3, "yac_published": 1, "attention": 1, "attention_feature": 1, "multi_level": 1,
    "lstm": 2,
}  # fmt: skip
PREPARATION = ("download", "convert", "prepare")
RESULTS = ("evaluation", "leaderboard", "metrics", "plots/compare")
PLAIN, PARALLEL = "dvc repro", "make repro"
COMMANDS = {PLAIN: ["-m", "dvc", "repro"], PARALLEL: ["-m", "tools.repro"]}


def shorten(params: dict[str, Any]) -> None:
    """Keep the models, with their epochs, and the ensembles of several of them."""
    models = {name: params["models"][name] for name in EPOCHS}
    for name, model in models.items():
        own = {**model.get("train", {}), "epochs": EPOCHS[name], "save_last_epochs": 0}
        models[name] = model | {"seeds": [0], "train": own}
    ensembles = {
        name: ensemble
        for name, ensemble in params["ensembles"].items()
        if len(ensemble["members"]) > 1 and {*ensemble["members"]} <= {*models}
    }
    params |= {"models": models, "students": {}, "ensembles": ensembles}
    params["compare"]["plot"] = [*models][:2]


def make_project(folder: Path, change: Callable[[dict[str, Any]], None] = select_source) -> str:
    """Copy the project, with prepared clips that no stage makes; return a description.

    Args:
        folder: of the copy.
        change: edits the parameters of the data.
    """
    copy_project(ROOT, folder)
    for name in RESULTS:
        shutil.rmtree(folder / name, ignore_errors=True)

    def change_both(params: dict[str, Any]) -> None:
        change(params)
        shorten(params)

    write_params(folder, change_both)
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    for name in (*PREPARATION, "review"):  # which shows clips, and trains nothing
        del pipeline["stages"][name]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    make_repository(folder)
    summary = prepare_clips(folder)
    shutil.rmtree(folder / "data/parquet")
    data = "AudioSet" if summary["source"] == "AudioSet" else "the generated sample"
    return (
        f"{len(EPOCHS)} models, one run each of {min(EPOCHS.values())} to {max(EPOCHS.values())} "
        f"epochs on {summary['split']['train']:,} clips of {data}, their ensembles and the "
        "leaderboard"
    )


def measure(rounds: int = ROUNDS, make: Callable[[Path], str] = make_project) -> Result:
    """Time both, interleaved.

    Args:
        rounds: number of rounds.
        make: makes the project in a folder and returns a description of its pipeline.

    Raises:
        UserError: if a command fails, or their scores differ.
    """
    scores: dict[str, Mapping[str, bytes]] = {}
    with TemporaryDirectory() as folder, on_cores(CORES):
        state, copy = Path(folder) / "state", Path(folder) / "project"
        progress = Progress("repro", rounds * len(COMMANDS), "run")
        progress.say("repro: preparing clips")
        description = make(state)

        def run_command(name: str) -> float:
            shutil.copytree(state, copy, symlinks=True)
            seconds = measure_seconds(lambda: run([sys.executable, *COMMANDS[name]], copy))
            scores[name] = {file.name: file.read_bytes() for file in copy.glob("metrics/*.json")}
            shutil.rmtree(copy)
            return seconds

        with progress:
            runs = {name: partial(run_command, name) for name in COMMANDS}
            seconds = interleave(runs, rounds, progress)
    if not scores[PLAIN] or scores[PLAIN] != scores[PARALLEL]:
        raise UserError(f"the scores of {PARALLEL} differ from those of {PLAIN}")
    speedup = ratios(seconds[PLAIN], seconds[PARALLEL])
    rows = [
        {
            "command": name,
            "seconds": spread(times),
            "speedup over dvc repro": spread(ratios(seconds[PLAIN], times)),
        }
        for name, times in seconds.items()
    ]
    has_enough_cores = cores() >= CORES
    target = Target(
        f"seconds of dvc repro / those of make repro, on {CORES} cores",
        "at least",
        1.6,
        spread(speedup).median if has_enough_cores else None,
        "stages after all trainings run alone, and each dvc takes a second to start"
        if has_enough_cores
        else "the machine has fewer cores",
    )
    return Result(
        "Stages in parallel",
        f"{description}: interleaved, on {min(CORES, cores())} cores, from the same state with an "
        "empty cache. Both gave the same scores.",
        rows,
        [target],
    )
