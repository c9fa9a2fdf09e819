"""What DVC and Python cost beyond the work of the stages.

`dvc repro` with nothing to do, `dvc metrics show` and `dvc metrics diff`, and the imports of each
stage. The environment variable BASELINE names another checkout with all of its results, such as an
earlier commit: its commands are timed interleaved with those of this one.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.results import Result, Target
from benchmarks.timing import interleave, measure_seconds, ratios, spread
from benchmarks.workers import ROOT
from benchmarks.workspace import run, write_params
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tools.demo import copy_project, make_repository, make_sample

ROUNDS = 7
# Stages that train, score or compute features, read or write weights, or compute losses.
WITH_TORCH = (
    "stages.train", "stages.evaluate", "stages.features", "stages.weights", "replication.grid",
    "replication.variants", "replication.write_report",
)  # fmt: skip
STAGES = [
    *sorted(f"stages.{file.stem}" for file in (ROOT / "stages").glob("[!_]*.py")),
    "replication.grid",
    "replication.variants",
    "replication.write_report",
]
REPRO = "dvc repro, nothing to do"
FEW_MODELS, THIS_PROJECT, BASELINE = "a few models", "this project", "baseline"
EMPTY, PYTHON = "dvc repro of a pipeline without stages", "python without imports"
DVC = [sys.executable, "-m", "dvc"]
# Commands that read metrics, of the working tree and of another commit.
METRICS = {
    "dvc metrics show": ["metrics", "show"],
    "dvc metrics diff": ["metrics", "diff", "HEAD~1"],
}


def shorten(params: dict[str, Any]) -> None:
    """Set the parameters to an epoch of a few models on the sample: only its end is measured."""
    make_sample(params)
    params["train"]["epochs"] = 1
    for model in [*params["models"].values(), *params["students"].values()]:
        model.get("train", {}).pop("epochs", None)


def make_project(folder: Path) -> None:
    """Copy the project, with a few short trainings, and run its pipeline once."""
    copy_project(ROOT, folder)
    write_params(folder, shorten)
    make_repository(folder)
    run([*DVC, "repro", "--quiet"], folder)


def make_empty(folder: Path) -> None:
    """Make a repository whose pipeline has no stages."""
    folder.mkdir()
    run(["git", "init", "--quiet"], folder)
    run([*DVC, "init", "--quiet"], folder)
    (folder / ".dvc/config").write_bytes((ROOT / ".dvc/config").read_bytes())
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")


def is_up_to_date(project: Path) -> bool:
    """Return whether `dvc repro` would run nothing; False too if it fails."""
    try:
        return "Running stage" not in run([*DVC, "repro", "--dry"], project)
    except UserError:
        return False


def has_earlier_commit(project: Path) -> bool:
    """Return whether the folder is a git repository with two commits or more."""
    command = ["git", "rev-parse", "--quiet", "--verify", "HEAD~1"]
    return subprocess.run(command, cwd=project, capture_output=True).returncode == 0


def dvc_commands(project: Path, label: str) -> dict[str, tuple[list[str], Path]]:
    """Return the commands of DVC that can be timed in a project, and where, by their names."""
    commands = {}
    if is_up_to_date(project):
        commands[f"{REPRO}, {label}"] = [*DVC, "repro"]
    if has_earlier_commit(project):
        commands |= {f"{name}, {label}": [*DVC, *words] for name, words in METRICS.items()}
    return {name: (command, project) for name, command in commands.items()}


def time_command(command: list[str], folder: Path) -> Callable[[], float]:
    """Return a function that runs a command and returns its seconds."""
    return lambda: measure_seconds(lambda: run(command, folder))


def imports_torch(module: str) -> bool:
    """Return whether importing a module imports PyTorch, directly or indirectly."""
    code = f"import {module}, sys; print('torch' in sys.modules)"
    return run([sys.executable, "-c", code], ROOT).strip() == "True"


def subtract(seconds: list[float], base: list[float]) -> list[float]:
    """Return the difference of two times in each round."""
    return [a - b for a, b in zip(seconds, base, strict=True)]


def measure(
    rounds: int = ROUNDS,
    project: Path | None = None,
    whole: Path = ROOT,
    stages: list[str] = STAGES,
) -> Result:
    """Time all commands and imports, interleaved.

    Args:
        rounds: number of rounds.
        project: a project after `dvc repro`; None makes one with a few models.
        whole: the project with all of its results; `dvc repro` is not timed if it has work to do.
        stages: modules to import.

    Raises:
        UserError: if `dvc repro` of `project` has something to do.
    """
    with TemporaryDirectory() as name, Progress("overhead", None, "run") as progress:
        empty = Path(name) / "empty"
        make_empty(empty)
        if project is None:
            progress.say("overhead: running the pipeline once, on the sample")
            project = Path(name) / "project"
            make_project(project)
        if not is_up_to_date(project):
            raise UserError(f"{project}: dvc repro must have nothing to do")
        commands = {EMPTY: ([*DVC, "repro"], empty)}
        commands[f"{REPRO}, {FEW_MODELS}"] = ([*DVC, "repro"], project)
        commands |= dvc_commands(whole, THIS_PROJECT)
        if baseline := os.environ.get("BASELINE"):
            commands |= dvc_commands(Path(baseline), BASELINE)
        lines = {
            name: len(run(*command).splitlines())
            for name, command in commands.items()
            if name.startswith(tuple(METRICS))
        }
        imports = {PYTHON: time_command([sys.executable, "-c", "pass"], ROOT)}
        for module in stages:
            imports[module] = time_command([sys.executable, "-c", f"import {module}"], ROOT)
        timed = {name: time_command(*command) for name, command in commands.items()}
        interleave(timed | imports, 1, progress)  # compiles to bytecode, fills caches
        seconds = interleave(timed, rounds, progress) | interleave(imports, rounds, progress)
    torch = {module: imports_torch(module) for module in stages}
    rows = []
    for name, times in seconds.items():
        base = seconds[EMPTY if name in commands else PYTHON]
        rows.append(
            {
                "command": f"import {name}" if name in torch else name,
                "PyTorch": ("yes" if torch[name] else "no") if name in torch else "",
                "lines": lines.get(name),
                "seconds": spread(times),
                "seconds added": None if base is times else spread(subtract(times, base)),
            }
        )
    return Result(
        "Overhead of DVC and imports",
        "The last column subtracts the seconds of a pipeline without stages, or of Python without "
        "imports, in the same round. Stages that train, score or compute features import PyTorch.",
        rows,
        targets(seconds, torch),
    )


def targets(seconds: dict[str, list[float]], torch: dict[str, bool]) -> list[Target]:
    """Return the targets of `dvc repro`, of commands beside the baseline's, and of imports."""
    repro = f"{REPRO}, {THIS_PROJECT}"
    compared = [_compare_with_baseline(seconds, name) for name in (REPRO, "dvc metrics diff")]
    return [
        Target(
            f"{repro}: seconds (4.7 before)",
            "at most",
            2,
            spread(seconds[repro]).median if repro in seconds else None,
            "DVC spends most of it reading stages and their deps"
            if repro in seconds
            else "dvc repro of the project has something to do",
        ),
        *compared,
        Target(
            "stages that import PyTorch and neither train, score, nor compute features",
            "at most",
            0,
            sum(has_torch and name not in WITH_TORCH for name, has_torch in torch.items()),
        ),
    ]


def _compare_with_baseline(seconds: dict[str, list[float]], command: str) -> Target:
    ours, base = f"{command}, {THIS_PROJECT}", f"{command}, {BASELINE}"
    quantity = f"{command}: seconds / those of the baseline"
    if ours not in seconds or base not in seconds:
        reason = "BASELINE names no checkout with all of its results, or this one lacks them"
        return Target(quantity, "at most", 0.5, None, reason)
    return Target(quantity, "at most", 0.5, spread(ratios(seconds[ours], seconds[base])).median)
