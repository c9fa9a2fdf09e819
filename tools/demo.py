"""`python -m tools.demo`: the whole pipeline on the generated sample, in a copy of the project.

The copy lies in `.demo`, which git ignores: the working tree and its results stay as they are.
Nothing here needs a network.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from dvc.utils.serialize import modify_yaml

from tagging.errors import UserError, entry_point
from tools.plots import draw

ROOT = Path(__file__).parents[1]
DEMO = ROOT / ".demo"
NAME_COLUMNS = 46
MODELS = ("yac", "yac_published", "attention")  # the rest would take minutes more


def environment() -> dict[str, str]:
    """Return the environment for the copy: this Python first, and nobody's git settings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return own | {
        # Threads that wait are to sleep: spinning, they are ten times slower on a busy machine.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        # A signature that is asked for or a hook of the user's would stop the commit.
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def copy_project(root: Path, copy: Path) -> None:
    """Copy the project's files, those that git does not ignore, to `copy`, replacing it.

    Raises:
        UserError: if `root` is no git repository.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        raise UserError(f"{root} is no git repository; the demo takes a clone of the project")
    if copy.exists():
        shutil.rmtree(copy)
    for name in sorted(set(listed.stdout.split("\0")) - {"", "dvc.lock"}):
        if (root / name).is_file():  # not deleted since it was committed
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)


def make_repository(copy: Path) -> None:
    """Make `copy` a git repository with one commit, which DVCLive asks for, and a cache inside."""
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


def table(leaderboard: dict) -> str:
    """Return what `leaderboard.json` holds as a table for a terminal of 100 columns."""

    def score(row: dict, name: str) -> str:
        text = f"{row[name]:.3f}"
        if f"{name}_low" in row:
            text += f" ({row[f'{name}_low']:.3f}–{row[f'{name}_high']:.3f})"
        return text

    lines = [f"{'':{NAME_COLUMNS}}{'NDCG':21}{'P@1':21}{'parameters'}"]
    for name, row in leaderboard["rows"].items():
        kind = "" if row["kind"] == "model" else f" ({row['kind']})"
        room = NAME_COLUMNS - len(kind) - 2
        shown = name if len(name) <= room else f"{name[: room - 1]}…"
        number = f"{row['parameters']:,}" if "parameters" in row else ""
        lines.append(
            f"{shown + kind:{NAME_COLUMNS}}{score(row, 'ndcg'):21}"
            f"{score(row, 'precision_at_1'):21}{number:>10}"
        )
    return "\n".join(line.rstrip() for line in lines)


def make_few(params: dict[str, Any]) -> None:
    """Leave a few models in the parameters, and what can be made of them."""
    params["models"] = {name: params["models"][name] for name in MODELS}
    params["ensembles"] = {"of_models": {"members": ["yac", "attention"]}}
    params["compare"]["plotted"] = ["yac", "attention"]


def make_sample(params: dict[str, Any]) -> None:
    """Set the parameters to the generated sample, and to a few models of those that are there."""
    params["download"]["source"] = "sample"
    make_few(params)


@entry_point
def main() -> None:
    """Run the pipeline in the copy and show what comes of it."""
    copy_project(ROOT, DEMO)
    with modify_yaml(DEMO / "params.yaml") as params:
        before, models = params["download"]["source"], len(params["models"])
        make_sample(params)
    make_repository(DEMO)
    print(
        f"A copy of the project in {DEMO}; changed there: download.source: {before} -> sample; "
        f"{len(MODELS)} of its {models} models\n"
    )
    sys.stdout.flush()
    ran = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=DEMO, env=environment())
    if ran.returncode:
        raise UserError(f"dvc repro failed in {DEMO}; see above")
    page = draw(DEMO)
    leaderboard = json.loads((DEMO / "leaderboard/leaderboard.json").read_text(encoding="utf-8"))
    print(
        f"\nData: {leaderboard['data']}. This shows that the pipeline works; it says nothing "
        "about AudioSet.\nScores on the test split, with 95% intervals:\n\n"
        f"{table(leaderboard)}\n\nPlots: {page}"
    )


if __name__ == "__main__":
    main()
