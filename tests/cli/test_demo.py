"""`make run`: the whole pipeline on the sample, in a copy; the working tree does not change."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tagging.base.errors import UserError
from tagging.data.task import MetricSettings
from tests.preloaded import command_of
from tests.project import ROOT, project_files
from tools.demo import MAX_EPOCHS, copy_project, leaderboard_table, make_sample


def git(folder: Path, *command: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *command],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone with a smaller sample, one epoch, and changes that are not committed."""
    clone = tmp_path_factory.mktemp("demo") / "clone"
    for name in project_files():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    sample = clone / "tagging/sources/audioset/sample.py"
    smaller = 'CLIPS = {"bal_train": 300, "eval": 200}\n'
    sample.write_text(re.sub("(?m)^CLIPS = .*\n", smaller, sample.read_text()))
    params = clone / "params.yaml"
    params.write_text(re.sub("epochs: [0-9]+", "epochs: 1", params.read_text()))
    git(clone, "init", "--quiet")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message", "A project")
    (clone / "notes.txt").write_text("not committed\n")
    (clone / "Makefile").write_text("# changed\n")
    (clone / ".ci/run").unlink()
    return clone


@pytest.fixture(scope="module")
def demo(project, tmp_path_factory, python_folder):
    """The demo's run, for a user whose git signs commits and asks a hook that refuses them."""
    home = tmp_path_factory.mktemp("home")
    hook = home / "hooks/pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[commit]\n\tgpgsign = true\n[core]\n\thooksPath = {hook.parent}\n"
    )
    before = git(project, "status", "--porcelain")
    ran = subprocess.run(
        command_of("tools.demo", python_folder),
        cwd=project,
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran, before


def test_the_working_tree_does_not_change(project, demo):
    assert git(project, "status", "--porcelain") == demo[1]
    assert (project / "Makefile").read_text() == "# changed\n"


def test_the_copy_is_of_the_working_tree(project, demo):
    assert (project / ".demo/notes.txt").exists()
    assert not (project / ".demo/.ci/run").exists()
    ours, theirs = (
        yaml.safe_load((folder / "params.yaml").read_text())
        for folder in (project, project / ".demo")
    )
    seeds = {"yac": [0, 1], "yac_published": [0], "attention": [0]}
    students = {
        name: student | {"teacher": "yac_and_attention", "seeds": [0]}
        for name, student in ours["students"].items()
    }
    assert theirs == ours | {
        "download": ours["download"] | {"source": "sample"},
        "models": {
            name: ours["models"][name] | {"seeds": seeds[name], "score_train": True}
            for name in seeds
        },
        "ensembles": {"yac_and_attention": {"members": ["yac", "attention"]}},
        "students": students,
        "compare": ours["compare"] | {"plot": ["yac", "attention"]},
    }


def test_trainings_are_short():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"]["epochs"] = 15
    params["models"]["attention"]["train"] = {"epochs": 4, "lr": 0.5}
    make_sample(params)
    assert params["train"]["epochs"] == MAX_EPOCHS
    assert params["models"]["attention"]["train"] == {"epochs": 4, "lr": 0.5}


def test_its_cache_is_its_own(project, demo):
    assert (project / ".demo/.dvc/cache/files").is_dir()
    assert not (project / ".dvc/cache").exists()


def test_the_leaderboard_is_printed(demo):
    printed = demo[0].stdout
    table = printed[printed.index("Data: generated sample") :]
    names = ("attention", "yac (model, 2 runs)", "yac_published", "constant ranking (baseline)")
    for name in names:
        assert re.search(rf"(?m)^{re.escape(name)} +0\.\d{{3}} ", table)
    assert "(published)" not in table  # the study's rows are of other data
    lines = table[: table.index("Plots: ")].splitlines()
    assert max(map(len, lines)) <= 100


def test_the_page_needs_no_network(project, demo):
    address = re.search(r"(?m)^Plots: (file://\S+)$", demo[0].stdout).group(1)
    page = project / ".demo/dvc_plots/index.html"
    assert address == page.as_uri()
    assert "generated sample" in page.read_text()
    assert "vegaEmbed" in (page.parent / "vega.js").read_text()


def test_the_copy_is_replaced(project, demo):
    (project / ".demo/left.txt").write_text("from before\n")
    code = "from tools.demo import *; copy_project(ROOT, DEMO); print(sorted(DEMO.glob('l*')))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=project, check=True, capture_output=True, text=True
    )
    assert "left.txt" not in ran.stdout


def test_the_table_fits_a_terminal_of_100_columns():
    scores = {
        f"{metric}{end}": 1.0
        for metric in ("ndcg", "precision_at_1")
        for end in ("", "_ci_low", "_ci_high")
    }
    rows = {
        "m" * 200: {"kind": "model", "parameters": 604_948, **scores},
        "p" * 200: {"kind": "published", "ndcg": 0.5, "precision_at_1": 0.25},
    }
    metrics = [MetricSettings(name="ndcg"), MetricSettings(name="precision", k=1)]
    title, model, published = leaderboard_table({"rows": rows}, metrics).splitlines()
    assert title.split() == ["NDCG", "P@1", "parameters"]
    assert max(len(model), len(published)) <= 100
    assert model.endswith("1.000 (1.000–1.000)     604,948")
    assert published.endswith("… (published)  0.500                0.250")


def test_a_folder_without_git_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be a git repository: make run copies"):
        copy_project(tmp_path, tmp_path / ".demo")
