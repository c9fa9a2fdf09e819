"""A copy of the project in a temporary git and DVC repository, driven as users drive it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.demo import make_few

ROOT = Path(__file__).parents[1]
# Of the real run, tracked by git.
OUTPUTS = (
    "leaderboard/", "metrics/", "plots/", "dvc.lock", "official/average_precision/",
    "official/dvc.lock", "official/enhanced.json", "official/metrics/", "official/per_class.",
    "official/README.md",
)  # fmt: skip


@dataclass
class Project:
    """A repository at `root` whose `download` takes the archive of `mirror`."""

    root: Path
    mirror: Path
    python_folder: Path  # first in PATH

    @classmethod
    def of_sources(cls, source: Path, root: Path, *where: Path) -> "Project":
        """Copy what git would commit of `source`, without the results, into a new repository."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=source, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in sorted(set(listed.split("\0")) - {""}):
            if name.startswith((*OUTPUTS, "tests/")) or not (source / name).is_file():
                continue
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, root / name)
        project = cls(root, *where)
        project.git("init", "--quiet")
        return project

    @classmethod
    def copied(cls, source: Path, root: Path, *where: Path) -> "Project":
        """Copy a whole repository, cache and outputs included."""
        shutil.copytree(source, root, symlinks=True)
        return cls(root, *where)

    def environment(self) -> dict[str, str]:
        """Return the environment of the commands run here."""
        path = os.pathsep.join([str(self.python_folder), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "AUDIOSET_MIRROR": str(self.mirror)}

    def run(self, *command: str, check: bool = True, **environment: str):
        """Run a command in the project; what it prints, to either stream, is in `stdout`."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done

    def git(self, *arguments: str) -> str:
        """Run git; return what it prints."""
        return self.run("git", *arguments).stdout

    def dvc(self, *arguments: str, **environment: str) -> str:
        """Run DVC's command-line client; return what it prints."""
        return self.run("dvc", *arguments, **environment).stdout

    def fails(self, *command: str) -> str:
        """Run a command that must fail without a traceback; return what it prints."""
        done = self.run(*command, check=False)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def repro(self, *arguments: str) -> set[str]:
        """Run `dvc repro`; return the names of the stages whose commands ran."""
        return stages_run(self.dvc("repro", *arguments))

    def commit(self) -> None:
        """Commit whatever is there."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A change")

    def params(self) -> dict[str, Any]:
        """Return params.yaml."""
        return yaml.safe_load((self.root / "params.yaml").read_text())

    def write_params(self, params: dict[str, Any]) -> None:
        """Replace params.yaml."""
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def status(self) -> list[str]:
        """Return what git sees changed or new."""
        return self.git("status", "--porcelain").splitlines()


def stages_run(output: str) -> set[str]:
    """Return the stages that DVC says it ran: `Running stage 'train@yac':`."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage '")]
    return {line.split("'")[1] for line in lines}


def make_small(project: Project) -> None:
    """Set the parameters that make a stage take a second; their meaning stays."""
    params = project.params()
    params["prepare"]["top_labels"] = 5
    params["train"] |= {"epochs": 2, "batch_size": 8}
    # A few models stand for all; tests/test_configured.py looks at each that params.yaml has.
    make_few(params)
    for model in [*params["models"].values(), *params["students"].values()]:
        for name, small in (("epochs", 2), ("batch_size", 8)):
            if name in model.get("train", {}):
                model["train"][name] = small
        for name, small in (("hidden", 8), ("layers", 1)):
            if name in model["network"]:
                model["network"][name] = small
    params["evaluate"]["resamples"] = 100
    project.write_params(params)
