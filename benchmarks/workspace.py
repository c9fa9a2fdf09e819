"""A folder to run stages in, with parameters of its own: the project's data stay as they are."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.turns import ROOT
from tagging.base.errors import UserError
from tools.demo import environment

ARCHIVE = Path("data/features.tar.gz")
LABELS = Path("data/class_labels_indices.csv")
OWN_DATA = ROOT / "data"  # of a project whose stage `download` has run


def write_params(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write the project's params.yaml, changed by `change`, into `folder`."""
    params = read_params(ROOT)
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def read_params(folder: Path) -> dict[str, Any]:
    """Return a folder's params.yaml."""
    return yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))


def make_workspace(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Put the project's params.yaml, changed by `change`, into a new repository in `folder`."""
    write_params(folder, change)
    own = ["-c", "user.name=Benchmark", "-c", "user.email=benchmark@localhost"]
    # DVCLive takes a commit.
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "Begin"]):
        subprocess.run(["git", *own, *command], cwd=folder, env=environment(), check=True)


def stage(name: str, *arguments: str) -> list[str]:
    """Return the command of a stage."""
    return [sys.executable, "-m", f"stages.{name}", *arguments]


def stage_environment() -> dict[str, str]:
    """Return the environment that stages of a workspace run in."""
    return environment() | {"PYTHONPATH": str(ROOT)}


def run(command: list[str], folder: Path) -> str:
    """Run a command in the environment of stages; return what it prints.

    Raises:
        UserError: if it fails.
    """
    done = subprocess.run(
        command, cwd=folder, env=stage_environment(), capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        # DVC's own last line only says which stage failed.
        said = [line for line in lines if line.startswith("error: ")] or lines
        words = " ".join(command[1:]).removeprefix("-m ")
        raise UserError(f"{words} failed: {said[-1].removeprefix('error: ')}")
    return done.stdout


def bring_archive(folder: Path) -> None:
    """Put an archive into a workspace: the project's, or `AUDIOSET_MIRROR`'s, or the sample."""
    if all((OWN_DATA / file.name).exists() for file in (ARCHIVE, LABELS)):
        for file in (ARCHIVE, LABELS):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).symlink_to(OWN_DATA / file.name)
    else:
        run(stage("download"), folder)


def source(params: dict[str, Any]) -> None:
    """Have `download` generate the sample where there is no mirror: Google's archive is large."""
    if not os.environ.get("AUDIOSET_MIRROR"):
        params["download"]["source"] = "sample"


def prepare(folder: Path) -> dict[str, Any]:
    """Make the clips in a folder with a params.yaml; return what the stage `prepare` says."""
    bring_archive(folder)
    for subset in read_params(folder)["prepare"]["subsets"]:
        run(stage("convert", subset), folder)
    run(stage("prepare"), folder)
    return json.loads((folder / "metrics/data.json").read_text(encoding="utf-8"))
