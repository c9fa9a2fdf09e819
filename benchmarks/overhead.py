"""What the pipeline costs beyond its work: `dvc repro` with nothing to do, and starting a stage."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from benchmarks.ratios import alternate, spread
from benchmarks.results import Result, Target
from benchmarks.turns import ROOT
from benchmarks.workspace import stage_environment
from tagging.errors import UserError
from tagging.progress import Progress
from tools.demo import copy_project, make_repository, make_sample

TURNS = 7
# Stages that train, or score what was trained, or compute its losses.
WITH_TORCH = ("stages.train", "stages.evaluate", "published.grid", "published.report")
STAGES = [
    *sorted(f"stages.{file.stem}" for file in (ROOT / "stages").glob("*.py")),
    "published.grid",
    "published.report",
]
REPRO, EMPTY = "dvc repro, nothing to do", "dvc repro of a pipeline without stages"
PYTHON = "python, nothing imported"
DVC = [sys.executable, "-m", "dvc"]


def run(command: list[str], folder: Path) -> str:
    """Run a command; return what it prints.

    Raises:
        UserError: if it fails.
    """
    done = subprocess.run(
        command, cwd=folder, env=stage_environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"{' '.join(command[1:])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def small(params: dict[str, Any]) -> None:
    """Have a few models train an epoch on the sample: what is measured comes after that."""
    make_sample(params)
    params["train"]["epochs"] = 1
    for model in params["models"].values():
        model.get("train", {}).pop("epochs", None)


def make_project(folder: Path) -> None:
    """Copy the project, with small parameters, and run its pipeline once."""
    copy_project(ROOT, folder)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    small(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    make_repository(folder)
    run([*DVC, "repro", "--quiet"], folder)


def make_empty(folder: Path) -> None:
    """Make a repository whose pipeline has no stages."""
    folder.mkdir()
    run(["git", "init", "--quiet"], folder)
    run([*DVC, "init", "--quiet"], folder)
    (folder / ".dvc/config").write_bytes((ROOT / ".dvc/config").read_bytes())
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")


def timed(command: list[str], folder: Path) -> Callable[[], float]:
    """Return a way that takes the seconds of a command."""

    def turn() -> float:
        begin = time.perf_counter()
        run(command, folder)
        return time.perf_counter() - begin

    return turn


def imports_torch(module: str) -> bool:
    """Return whether importing a module imports PyTorch, however far down."""
    said = run([sys.executable, "-c", f"import {module}, sys; print('torch' in sys.modules)"], ROOT)
    return said.strip() == "True"


def beyond(seconds: list[float], own: list[float]) -> list[float]:
    """Return how much longer one took than the other in each turn."""
    return [a - b for a, b in zip(seconds, own, strict=True)]


def measure(turns: int = TURNS, project: Path | None = None, stages: list[str] = STAGES) -> Result:
    """Time both in turns.

    Args:
        turns: how often.
        project: the project after a `dvc repro`; None to make one.
        stages: modules to import.
    """
    with TemporaryDirectory() as name, Progress("overhead", None, "run") as progress:
        empty = Path(name) / "empty"
        make_empty(empty)
        if project is None:
            progress.say("overhead: runs the pipeline once, on the sample")
            project = Path(name) / "project"
            make_project(project)
        if "Running stage" in run([*DVC, "repro", "--dry"], project):
            raise UserError(f"{project}: dvc repro has something to do")
        commands = {REPRO: timed([*DVC, "repro"], project), EMPTY: timed([*DVC, "repro"], empty)}
        python = {PYTHON: timed([sys.executable, "-c", "pass"], ROOT)}
        for module in stages:
            python[module] = timed([sys.executable, "-c", f"import {module}"], ROOT)
        alternate(commands | python, 1, progress)  # compiles to bytecode, fills caches
        seconds = alternate(commands, turns, progress) | alternate(python, turns, progress)
    torch = {module: imports_torch(module) for module in stages}
    rows = [
        {
            "what": f"import {way}" if way in torch else way,
            "PyTorch": ("yes" if torch[way] else "no") if way in torch else "",
            "seconds": spread(times),
            "seconds beyond": None
            if way in (EMPTY, PYTHON)
            else spread(beyond(times, seconds[EMPTY if way in commands else PYTHON])),
        }
        for way, times in seconds.items()
    ]
    return Result(
        "What the pipeline costs beyond its work",
        "The last column is what a turn took beyond DVC's own time (a pipeline without stages) or "
        "Python's own (nothing imported). PyTorch is imported by stages that train or score.",
        rows,
        [
            Target(
                "stages that import PyTorch and neither train nor score",
                "at most",
                0,
                sum(with_torch and way not in WITH_TORCH for way, with_torch in torch.items()),
            )
        ],
    )
