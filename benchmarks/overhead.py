"""What the pipeline costs beyond its work: `dvc repro` with nothing to do, and starting a stage."""

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.ratios import alternate, spread, timed
from benchmarks.results import Result, Target
from benchmarks.turns import ROOT
from benchmarks.workspace import run, write_params
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tools.demo import copy_project, make_repository, make_sample

TURNS = 7
# Those that train, score what was trained, or compute features; published weights are tensors too.
WITH_TORCH = (
    "stages.train", "stages.evaluate", "stages.features", "stages.weights", "replication.grid",
    "replication.report",
)  # fmt: skip
STAGES = [
    *sorted(f"stages.{file.stem}" for file in (ROOT / "stages").glob("[!_]*.py")),
    "replication.grid",
    "replication.report",
]
FEW = "dvc repro, nothing to do, a few models"
WHOLE = "dvc repro, nothing to do, the root's whole pipeline"
EMPTY, PYTHON = "dvc repro of a pipeline without stages", "python, nothing imported"
DVC = [sys.executable, "-m", "dvc"]


def small(params: dict[str, Any]) -> None:
    """Have a few models train an epoch on the sample: what is measured comes after that."""
    make_sample(params)
    params["train"]["epochs"] = 1
    for model in [*params["models"].values(), *params["students"].values()]:
        model.get("train", {}).pop("epochs", None)


def make_project(folder: Path) -> None:
    """Copy the project, with small parameters, and run its pipeline once."""
    copy_project(ROOT, folder)
    write_params(folder, small)
    make_repository(folder)
    run([*DVC, "repro", "--quiet"], folder)


def make_empty(folder: Path) -> None:
    """Make a repository whose pipeline has no stages."""
    folder.mkdir()
    run(["git", "init", "--quiet"], folder)
    run([*DVC, "init", "--quiet"], folder)
    (folder / ".dvc/config").write_bytes((ROOT / ".dvc/config").read_bytes())
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")


def up_to_date(project: Path) -> bool:
    """Return whether `dvc repro` would run nothing; False too where it could not run at all."""
    try:
        return "Running stage" not in run([*DVC, "repro", "--dry"], project)
    except UserError:
        return False


def timed_run(command: list[str], folder: Path) -> Callable[[], float]:
    """Return a way that takes the seconds of a command."""
    return lambda: timed(lambda: run(command, folder))


def imports_torch(module: str) -> bool:
    """Return whether importing a module imports PyTorch, however far down."""
    said = run([sys.executable, "-c", f"import {module}, sys; print('torch' in sys.modules)"], ROOT)
    return said.strip() == "True"


def beyond(seconds: list[float], own: list[float]) -> list[float]:
    """Return how much longer one took than the other in each turn."""
    return [a - b for a, b in zip(seconds, own, strict=True)]


def measure(
    turns: int = TURNS,
    project: Path | None = None,
    whole: Path = ROOT,
    stages: list[str] = STAGES,
) -> Result:
    """Time both in turns.

    Args:
        turns: how often.
        project: a project after a `dvc repro`; None to make one with a few models.
        whole: the project with all of its results; it is left out if there is something to do.
        stages: modules to import.
    """
    with TemporaryDirectory() as name, Progress("overhead", None, "run") as progress:
        empty = Path(name) / "empty"
        make_empty(empty)
        if project is None:
            progress.say("overhead: runs the pipeline once, on the sample")
            project = Path(name) / "project"
            make_project(project)
        if not up_to_date(project):
            raise UserError(f"{project}: dvc repro has something to do")
        folders = {FEW: project, EMPTY: empty} | ({WHOLE: whole} if up_to_date(whole) else {})
        commands = {way: timed_run([*DVC, "repro"], folder) for way, folder in folders.items()}
        python = {PYTHON: timed_run([sys.executable, "-c", "pass"], ROOT)}
        for module in stages:
            python[module] = timed_run([sys.executable, "-c", f"import {module}"], ROOT)
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
        "Python's own (nothing imported). PyTorch is imported by stages that train, score, or "
        "compute features.",
        rows,
        [
            Target(
                f"{WHOLE}: seconds (4.7 before)",
                "at most",
                2,
                spread(seconds[WHOLE]).median if WHOLE in seconds else None,
                "most of it is DVC's own reading of stages and their deps"
                if WHOLE in seconds
                else "the project itself is not up to date: dvc repro first",
            ),
            Target(
                "stages that import PyTorch and neither train, score, nor compute features",
                "at most",
                0,
                sum(with_torch and way not in WITH_TORCH for way, with_torch in torch.items()),
            ),
        ],
    )
