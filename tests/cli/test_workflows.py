"""Workflows, hooks and files about the repository: they are valid, and their commands run."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tagging.base.errors import UserError
from tests.closure import ROOT
from tools.pull_request import comment

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def commands(workflow: Path) -> list[str]:
    content = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    steps = (step for job in content["jobs"].values() for step in job["steps"])
    return [step["run"] for step in steps if "run" in step]


def test_workflows_follow_githubs_schema() -> None:
    assert len(WORKFLOWS) == 2
    command = ["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS]
    subprocess.run(command, check=True, capture_output=True)


def test_workflows_call_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = [line for workflow in WORKFLOWS for line in commands(workflow)]
    targets = {target for line in lines for target in re.findall(r"\bmake ([\w-]+)", line)}
    assert targets == {"test", "comment", "plots"}
    for target in targets:
        assert re.search(rf"^{target}: ", makefile, re.MULTILINE)


def test_hooks_are_the_linters_of_make_lint() -> None:
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in content["repos"] for hook in repo["hooks"]]
    entries = {
        hook["entry"].split()[0].removeprefix(".venv/bin/")
        for hook in hooks
        if hook.get("language") == "system"
    }
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.partition("\nlint:")[2].partition("\n\n")[0]
    assert set(re.findall(r"@(\w+)", lint)) == entries - {"python"}


def test_the_citation_names_the_projects_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in project
    assert f'license = "{citation["license"]}"' in project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with one file of metrics and one of parameters, committed with DVC."""
    write(tmp_path, ndcg=0.9, lr=0.1)
    (tmp_path / "dvc.yaml").write_text("metrics: [metrics.json]\nparams: [params.yaml]\n")
    for command in (
        ["git", "init", "--quiet"],
        ["dvc", "init", "--quiet"],
        ["git", "add", "."],
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", "first"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def write(folder: Path, **values: Any) -> None:
    (folder / "metrics.json").write_text(json.dumps({"test": {"ndcg": values["ndcg"]}}))
    (folder / "params.yaml").write_text(yaml.safe_dump({"train": {"lr": values["lr"]}}))


def test_a_pull_requests_comment_has_what_changed_and_nothing_else(project: Path) -> None:
    assert comment(project, "HEAD") == "No metrics changed.\n\nNo params changed.\n"
    write(project, ndcg=0.95, lr=0.1)
    text = comment(project, "HEAD")
    assert re.search(r"\| metrics\.json +\| test\.ndcg +\| 0\.9 +\| 0\.95 +\| 0\.05 +\|", text)
    assert text.endswith("No params changed.\n")
    write(project, ndcg=0.9, lr=0.01)
    text = comment(project, "HEAD")
    assert text.startswith("No metrics changed.\n\n### Changed params\n")
    assert re.search(r"\| params\.yaml +\| train\.lr +\| 0\.1 +\| 0\.01 +\|", text)


def test_a_revision_that_is_none_is_an_error(project: Path) -> None:
    with pytest.raises(
        UserError, match=r"dvc metrics diff no-such-branch failed: .*no-such-branch"
    ):
        comment(project, "no-such-branch")
