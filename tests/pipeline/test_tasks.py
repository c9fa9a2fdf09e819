"""Every folder of `tasks/` runs on generated data beside the root, with the same stages."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo

from tagging.data.clips import read_index
from tagging.data.task_folder import TaskFolder
from tests.project import TASKS, Project, all_results


def entries(root: Path, folder: Path) -> dict[str, dict]:
    """Return all entries of a task that are evaluated."""
    params = yaml.safe_load((root / folder / "params.yaml").read_text())
    sections = ("models", "finetuned", "students", "ensembles")
    return {name: entry for section in sections for name, entry in params.get(section, {}).items()}


@pytest.mark.parametrize("folder", TASKS, ids=str)
def test_a_task_has_its_results_in_its_folder(whole: Path, folder: Path) -> None:
    board = json.loads((whole / folder / "leaderboard/leaderboard.json").read_text())
    page = (whole / folder / "leaderboard/README.md").read_text()
    for name in entries(whole, folder):
        scores = json.loads((whole / folder / f"evaluation/{name}.json").read_text())
        groups = [scores["test"].pop(key, {}) for key in ("confident", "calibration")]
        values = [value for group in (scores["test"], *groups) for value in group.values()]
        assert all(np.isfinite(value) for value in values if value is not None)
        assert name in board["rows"]
        assert name in page
    assert (whole / folder / "leaderboard/leaderboard.svg").read_text().startswith("<svg")


def test_all_that_stages_write_is_an_output(whole: Path) -> None:
    """Otherwise a folder of outputs differs in a clone that pulled them."""
    with Repo(whole) as repo:
        outs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]
    for folder in (Path(), *TASKS):
        for name in ("data", "models", "metrics", "evaluation", "plots", "leaderboard"):
            for file in (whole / folder / name).rglob("*"):
                is_source = file.is_dir() or file.name in (".gitignore", "dvc.yaml", "page.html")
                assert is_source or any(file.is_relative_to(out) for out in outs), file


def test_tasks_leave_the_root_as_it_was(whole: Path, baseline: Path) -> None:
    assert all_results(whole) == all_results(baseline)
    before, after = ((root / "dvc.lock").read_bytes() for root in (baseline, whole))
    assert before == after


def test_what_runs_when_a_task_changes(all_tasks: Project) -> None:
    targets = ["dvc.yaml", *(f"{folder}/dvc.yaml" for folder in TASKS)]
    assert all_tasks.repro(*targets) == set()
    assert all_tasks.status() == []
    all_tasks.change("models.yac_focal.train.loss", "bce", "tasks/ablation")
    # A new threshold trains no model of the original labels.
    all_tasks.change("students.multi_level_enhanced.relabel_threshold", 0, "tasks/official")
    ablation, official = (f"tasks/{name}/dvc.yaml:{{}}".format for name in ("ablation", "official"))
    assert all_tasks.repro(*targets) == {
        ablation("train@yac_focal"), ablation("evaluate@yac_focal"),
        ablation("ensemble@attention_seeds"), ablation("distill@yac_distilled"),
        ablation("evaluate_distilled@yac_distilled"), ablation("compare"),
        official("distill@multi_level_enhanced"),
        official("evaluate_distilled@multi_level_enhanced"), official("compare"),
    }  # fmt: skip


def test_the_official_split_and_its_labels_are_audiosets(whole: Path) -> None:
    index = read_index(TaskFolder(whole / "tasks/official").index)
    (fold,) = index.folds
    balanced, evaluation = (
        pd.read_parquet(whole / f"data/parquet/{subset}.parquet").set_index("video_id")
        for subset in ("bal_train", "eval")
    )
    ids = np.array([name.decode() for name in index.ids])
    assert set(ids[fold.test]) <= set(evaluation.index)
    assert set(ids[fold.train]) | set(ids[fold.val]) <= set(balanced.index)
    assert len(set(ids)) == len(fold.train) + len(fold.val) + len(fold.test)
    listed = pd.read_csv(whole / "data/class_labels_indices.csv").set_index("mid")["index"]
    columns = {int(listed[cls.id]): column for column, cls in enumerate(index.classes)}
    records = pd.concat([balanced, evaluation])["labels"]
    for name, hot in zip(ids, index.labels, strict=True):
        assert set(np.flatnonzero(hot)) == {columns[k] for k in records[name] if k in columns}


def test_students_of_one_teacher_differ_by_what_they_learn(whole: Path) -> None:
    folder = whole / "tasks/official/models"
    weights = [
        (folder / name / "seed0.safetensors").read_bytes()
        for name in ("multi_level", "multi_level_distilled", "multi_level_enhanced")
    ]
    assert len(set(weights)) == 3


def test_stages_run_the_code_of_the_checkout_that_they_are_in(
    baseline: Path, tmp_path: Path
) -> None:
    """Neither the installed code nor that of a checkout around it."""
    project = Project.copied(baseline, tmp_path / "project", Path(), Path(sys.executable).parent)
    inner = project.root / ".dvc/tmp/exps/copy"
    for root in (project.root, inner):
        for name in ("stages", "tagging/data"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("__init__", "data/parameters"):
            (root / f"tagging/{name}.py").write_text("")
        (root / "stages/which.py").write_text(
            "import tagging.data.parameters\nprint(__file__, tagging.data.parameters.__file__)\n"
        )
        printed = project.run("python", "-m", "stages.which", folder=root).stdout.split()
        assert printed == [f"{root}/stages/which.py", f"{root}/tagging/data/parameters.py"]
