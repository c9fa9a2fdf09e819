"""Every dvc.lock and all committed results were made by the committed code and parameters."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from dvc.stage import PipelineStage

from tagging.commands.models import DEFAULT_EMBEDDING_MODEL
from tagging.learning.model_file import load_network
from tests.project import PIPELINES, ROOT

AGAIN = "run `dvc repro` and commit dvc.lock with the results"


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def stages(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> list[PipelineStage]:
    """The stages as DVC loads them where nothing lies but what git tracks."""
    root = tmp_path_factory.mktemp("tracked")
    for name in tracked:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    subprocess.run(["git", "init", "--quiet", root], check=True)
    with Repo(root) as repo:
        return [
            stage for stage in repo.index.stages if Path(stage.path_in_repo).parent in PIPELINES
        ]


def in_git(stage: PipelineStage, path: str, tracked: set[str]) -> bool:
    """Tell whether git tracks the file or folder `path` of a dep or out."""
    name = str(Path(path).relative_to(stage.repo.root_dir))
    return name in tracked or any(
        file.startswith(f"{name}/") and not file.endswith(".gitignore") for file in tracked
    )


@pytest.mark.parametrize("folder", PIPELINES, ids=str)
def test_a_lock_has_the_stages_of_its_dvc_yaml(stages: list[PipelineStage], folder: Path) -> None:
    lock = ROOT / folder / "dvc.lock"
    assert lock.exists(), AGAIN
    locked = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"]
    wanted = {stage.name for stage in stages if stage.path_in_repo == str(folder / "dvc.yaml")}
    assert wanted
    assert set(locked) == wanted, AGAIN


def test_commands_and_parameters_are_those_of_the_run(stages: list[PipelineStage]) -> None:
    changed = [f"{stage.name}: cmd" for stage in stages if stage.cmd_changed]
    for stage in stages:
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency) and (status := dep.status()):
                changed.append(f"{stage.name}: {status}")
    assert not changed, AGAIN


def test_files_are_those_of_the_run(stages: list[PipelineStage], tracked: set[str]) -> None:
    changed = []
    for stage in stages:
        files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
        for file in [*files, *stage.outs]:
            if in_git(stage, file.fs_path, tracked) and file.changed_checksum():
                changed.append(f"{stage.name}: {file}")
    assert not changed, AGAIN


def test_code_and_uncached_results_are_in_git(
    stages: list[PipelineStage], tracked: set[str]
) -> None:
    outs = {out.fs_path for stage in stages for out in stage.outs}
    for stage in stages:
        for file in [*stage.deps, *stage.outs]:
            if file.fs_path.endswith(".py") or (file in stage.outs and not file.use_cache):
                assert in_git(stage, file.fs_path, tracked), f"{stage.name}: git add {file}"
            elif file.fs_path not in outs and file.protocol == "local":
                # An output may lie in the dep, or have it, such as one run of a model.
                is_made = any(
                    f"{out}/".startswith(f"{file.fs_path}/") or file.fs_path.startswith(f"{out}/")
                    for out in outs
                )
                assert is_made or in_git(stage, file.fs_path, tracked), (
                    f"{stage.name}: nothing makes {file}"
                )


def test_what_one_stage_made_is_what_the_next_read(stages: list[PipelineStage]) -> None:
    made = {out.fs_path: out.hash_info for stage in stages for out in stage.outs}
    for stage in stages:
        for dep in stage.deps:
            if dep.fs_path in made:
                assert dep.hash_info == made[dep.fs_path], f"{stage.name}: {dep}; {AGAIN}"


def test_the_weights_that_the_package_brings_are_those_of_the_results() -> None:
    trained = load_network(DEFAULT_EMBEDDING_MODEL, torch.device("cpu"))
    names = [label.name for label in trained.model_spec.classes]
    packaged = {
        name: None if np.isnan(value) else float(value)
        for name, value in zip(names, trained.clips.thresholds, strict=True)
    }
    evaluation = json.loads((ROOT / "evaluation/yac_distilled.json").read_text())
    assert packaged == evaluation["thresholds"], (
        f"cp models/yac_distilled/seed0.safetensors {DEFAULT_EMBEDDING_MODEL}"
    )
