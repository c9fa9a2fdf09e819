"""`make repro` against plain `dvc repro`: the trainings of some models, and all that comes of them.

By turns, on two cores, each turn in a new copy of one project whose clips are prepared: nothing of
a turn before is there, neither outputs nor DVC's cache. Both must give the same scores.
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.machine import on_cores
from benchmarks.ratios import alternate, ratios, spread, timed
from benchmarks.results import Result, Target
from benchmarks.turns import ROOT
from benchmarks.workspace import prepare, run, source, write_params
from tagging.base.errors import UserError
from tagging.base.processes import cores
from tagging.base.progress import Progress
from tools.demo import copy_project, make_repository

TURNS = 3
CORES = 2
# A run each, as a stage trains several side by side anyway; and their epochs.
EPOCHS = {"yac": 3, "attention": 1, "attention_feature": 1, "multi_level": 1, "ast": 1, "lstm": 2}
PREPARATION = ("download", "convert", "prepare")
RESULTS = ("leaderboard", "metrics", "plots")
PLAIN, SIDE_BY_SIDE = "dvc repro", "make repro"
COMMANDS = {PLAIN: ["-m", "dvc", "repro"], SIDE_BY_SIDE: ["-m", "tools.repro"]}


def few(params: dict[str, Any]) -> None:
    """Leave the models, with those epochs, and the ensembles that can be made of them."""
    models = {name: params["models"][name] for name in EPOCHS}
    for name, model in models.items():
        own = {**model.get("train", {}), "epochs": EPOCHS[name], "checkpoints": 0}
        models[name] = model | {"seeds": [0], "train": own}
    # One of a single model's runs takes several of them.
    ensembles = {
        name: ensemble
        for name, ensemble in params["ensembles"].items()
        if len(ensemble["members"]) > 1 and {*ensemble["members"]} <= {*models}
    }
    params |= {"models": models, "students": {}, "ensembles": ensembles}
    params["compare"]["plotted"] = [*models][:2]


def make_project(folder: Path, change: Callable[[dict[str, Any]], None] = source) -> str:
    """Copy the project with its clips prepared, as data that no stage makes; say what they are.

    Args:
        folder: the copy's.
        change: makes the parameters of what is trained on.
    """
    copy_project(ROOT, folder)
    for name in RESULTS:
        shutil.rmtree(folder / name, ignore_errors=True)

    def change_both(params: dict[str, Any]) -> None:
        change(params)
        few(params)

    write_params(folder, change_both)
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    for name in PREPARATION:
        del pipeline["stages"][name]
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    make_repository(folder)
    counts = prepare(folder)
    shutil.rmtree(folder / "data/parquet")
    data = "AudioSet" if counts["source"] == "AudioSet" else "the generated sample"
    return (
        f"{len(EPOCHS)} models, a run each of {min(EPOCHS.values())} to {max(EPOCHS.values())} "
        f"epochs on {counts['split']['train']:,} clips of {data}, their ensembles and the "
        "leaderboard"
    )


def measure(turns: int = TURNS, make: Callable[[Path], str] = make_project) -> Result:
    """Time both in turns.

    Args:
        turns: how often.
        make: makes the project in a folder, and says what its pipeline does.

    Raises:
        UserError: if a command fails, or their scores differ.
    """
    scores: dict[str, Mapping[str, bytes]] = {}
    with TemporaryDirectory() as name, on_cores(CORES):
        state, copy = Path(name) / "state", Path(name) / "project"
        progress = Progress("repro", turns * len(COMMANDS), "run")
        progress.say("repro: prepares clips")
        does = make(state)

        def turn(way: str) -> float:
            shutil.copytree(state, copy, symlinks=True)
            seconds = timed(lambda: run([sys.executable, *COMMANDS[way]], copy))
            scores[way] = {file.name: file.read_bytes() for file in copy.glob("metrics/*.json")}
            shutil.rmtree(copy)
            return seconds

        with progress:
            seconds = alternate(
                {way: lambda way=way: turn(way) for way in COMMANDS}, turns, progress
            )
    if not scores[PLAIN] or scores[PLAIN] != scores[SIDE_BY_SIDE]:
        raise UserError(f"{SIDE_BY_SIDE} gives other scores than {PLAIN}")
    gain = ratios(seconds[PLAIN], seconds[SIDE_BY_SIDE])
    rows = [
        {
            "way": way,
            "seconds": spread(times),
            "times as fast as dvc repro": spread(ratios(seconds[PLAIN], times)),
        }
        for way, times in seconds.items()
    ]
    enough = cores() >= CORES
    target = Target(
        f"seconds of dvc repro / those of make repro, on {CORES} cores",
        "at least",
        1.6,
        spread(gain).median if enough else None,
        "what follows all trainings has nothing beside it, and each dvc takes a second to start"
        if enough
        else "there are fewer cores",
    )
    return Result(
        "Stages side by side",
        f"{does}: by turns, on {min(CORES, cores())} cores, from the same state with nothing "
        "cached. Both gave the same scores.",
        rows,
        [target],
    )
