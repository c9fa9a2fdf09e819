"""`python -m tools.demo`: run the whole pipeline on the generated sample, in a copy of the project.

The copy is in `.demo`, which git ignores, so that the working tree and its results do not change.
No network is needed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tagging.base.errors import UserError, entry_point
from tagging.data.parameters import parse
from tagging.data.task import MetricSettings, Task
from tagging.learning.metric import load_metric
from tools.plots import write_page

ROOT = Path(__file__).parents[1]
DEMO = ROOT / ".demo"
NAME_COLUMNS = 46
MAX_EPOCHS = 5
# More models and seeds would add minutes.
SEEDS = {"yac": [0, 1], "yac_published": [0], "attention": [0]}


def environment() -> dict[str, str]:
    """Return environment variables for the copy: this Python first in PATH, no git settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return own | {
        # Waiting threads sleep; on a busy machine, spinning ones are ten times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # The user's hooks, or a required signature, could stop the commit.
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def copy_project(root: Path, copy: Path) -> None:
    """Replace `copy` with a copy of the project, without the files that git ignores.

    Raises:
        UserError: if `root` is not a git repository.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        raise UserError(
            f"{root} must be a git repository: make run copies the files that git knows"
        )
    if copy.exists():
        shutil.rmtree(copy)
    for name in sorted(set(listed.stdout.split("\0")) - {"", "dvc.lock"}):
        if (root / name).is_file():  # git also lists deleted files
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)


def make_repository(copy: Path) -> None:
    """Make `copy` a repository with its own cache and with one commit, which DVCLive requires."""
    (copy / ".dvc/config.local").write_text(
        "[cache]\n    dir = cache\n[core]\n    autostage = true\n"
    )
    for command in (
        ["init", "--quiet"],
        ["config", "user.name", "Demo"],
        ["config", "user.email", "demo@localhost"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "The project, on the generated sample"],
    ):
        subprocess.run(["git", *command], cwd=copy, env=environment(), check=True)


def leaderboard_table(leaderboard: dict[str, Any], metrics: list[MetricSettings]) -> str:
    """Return the content of `leaderboard.json` as a table, at most 100 columns wide."""

    def score(row: dict[str, Any], name: str) -> str:
        if row.get(name) is None:
            return ""
        text = f"{row[name]:.3f}"
        if f"{name}_ci_low" in row:
            text += f" ({row[f'{name}_ci_low']:.3f}–{row[f'{name}_ci_high']:.3f})"
        return text

    titles = [load_metric(metric).title for metric in metrics]
    lines = [f"{'':{NAME_COLUMNS}}{''.join(f'{title:21}' for title in titles)}{'parameters'}"]
    for name, row in leaderboard["rows"].items():
        runs = f", {row['runs']} runs" if "runs" in row else ""
        kind = f" ({row['kind']}{runs})" if row["kind"] != "model" or runs else ""
        room = NAME_COLUMNS - len(kind) - 2
        shown = name if len(name) <= room else f"{name[: room - 1]}…"
        number = f"{row['parameters']:,}" if "parameters" in row else ""
        scores = "".join(f"{score(row, metric.key):21}" for metric in metrics)
        lines.append(f"{shown + kind:{NAME_COLUMNS}}{scores}{number:>10}")
    return "\n".join(line.rstrip() for line in lines)


def make_few(params: dict[str, Any]) -> None:
    """Keep a few models with few seeds, an ensemble of them, and a student of it."""
    models = params["models"]
    params["models"] = {
        name: models[name] | {"seeds": seeds, "score_train": True} for name, seeds in SEEDS.items()
    }
    params["ensembles"] = {"yac_and_attention": {"members": ["yac", "attention"]}}
    for student in params["students"].values():
        student |= {"teacher": "yac_and_attention", "seeds": [0]}
    params["compare"]["plot"] = ["yac", "attention"]


def make_sample(params: dict[str, Any]) -> None:
    """Change parameters to the generated sample and short trainings of a few models."""
    params["download"]["source"] = "sample"
    make_few(params)
    entries = [params, *params["models"].values(), *params["students"].values()]
    trains = [entry["train"] for entry in entries if "epochs" in entry.get("train", {})]
    for train in trains:
        train["epochs"] = min(train["epochs"], MAX_EPOCHS)


@entry_point
def main() -> None:
    """Run the pipeline in the copy and print its leaderboard."""
    copy_project(ROOT, DEMO)
    file = DEMO / "params.yaml"
    params = yaml.safe_load(file.read_text(encoding="utf-8"))
    before, models = params["download"]["source"], len(params["models"])
    make_sample(params)
    file.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    make_repository(DEMO)
    print(
        f"A copy of the project in {DEMO}; changed there: download.source: {before} -> sample; "
        f"{len(SEEDS)} of its {models} models, with fewer seeds and at most {MAX_EPOCHS} epochs\n"
    )
    sys.stdout.flush()
    ran = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=DEMO, env=environment())
    if ran.returncode:
        raise UserError(f"dvc repro failed in {DEMO}; see above")
    page = write_page(DEMO)
    leaderboard = json.loads((DEMO / "leaderboard/leaderboard.json").read_text(encoding="utf-8"))
    task = parse(Task, params["task"], "task")
    print(
        f"\nData: {leaderboard['data']}. This shows that the pipeline works; it says nothing "
        "about AudioSet.\nScores on the test split, with 95% intervals:\n\n"
        f"{leaderboard_table(leaderboard, task.metrics)}\n\nPlots: {page}"
    )


if __name__ == "__main__":
    main()
