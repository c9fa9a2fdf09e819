"""A folder with its own parameters for running stages; it leaves the project's data unchanged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.workers import ROOT
from tagging.base.errors import UserError
from tagging.data.task_folder import TaskFolder
from tools.demo import environment

ARCHIVE = Path("data/features.tar.gz")
LABELS = Path("data/class_labels_indices.csv")
PROJECT_DATA = ROOT / "data"  # has the archive if the stage `download` has run


def write_params(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the params.yaml of the project, after `change` edited it, into `folder`."""
    params = read_params(ROOT)
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def read_params(folder: Path) -> dict[str, Any]:
    """Return the content of params.yaml in a folder."""
    return yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))


def make_workspace(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Make a git repository in `folder` with the project's params.yaml, edited by `change`."""
    write_params(folder, change)
    own = ["-c", "user.name=Benchmark", "-c", "user.email=benchmark@localhost"]
    # DVCLive needs a commit.
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "Begin"]):
        subprocess.run(["git", *own, *command], cwd=folder, env=environment(), check=True)


def stage_command(name: str, *arguments: str) -> list[str]:
    """Return the command of a stage of the task in the working directory."""
    return [sys.executable, "-m", f"stages.{name}", ".", *arguments]


def stage_environment() -> dict[str, str]:
    """Return the environment for stages that run in a workspace."""
    return environment() | {"PYTHONPATH": str(ROOT)}


def run(command: list[str], folder: Path) -> str:
    """Run a command in the environment of stages; return its output.

    Raises:
        UserError: if it fails.
    """
    done = subprocess.run(
        command, cwd=folder, env=stage_environment(), capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        # The last line of DVC only says which stage failed.
        errors = [line for line in lines if line.startswith("error: ")] or lines
        name = " ".join(command[1:]).removeprefix("-m ")
        raise UserError(f"{name} failed: {errors[-1].removeprefix('error: ')}")
    return done.stdout


def provide_archive(folder: Path) -> None:
    """Put an archive into a workspace: the project's, that of `AUDIOSET_MIRROR`, or the sample."""
    if all((PROJECT_DATA / file.name).exists() for file in (ARCHIVE, LABELS)):
        for file in (ARCHIVE, LABELS):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).symlink_to(PROJECT_DATA / file.name)
    else:
        run(stage_command("download"), folder)


def select_source(params: dict[str, Any]) -> None:
    """Let `download` generate the sample if there is no mirror, as Google's archive is large."""
    if not os.environ.get("AUDIOSET_MIRROR"):
        params["download"]["source"] = "sample"


def prepare_clips(folder: Path) -> dict[str, Any]:
    """Run the stages up to `prepare` in a folder with a params.yaml; return its summary."""
    provide_archive(folder)
    for subset in read_params(folder)["prepare"]["subsets"]:
        run(stage_command("convert", subset), folder)
    run(stage_command("prepare"), folder)
    return json.loads(TaskFolder(folder).summary.read_text(encoding="utf-8"))
