"""Models are fetched from another repository: by path and by name."""

import json
import shutil
import subprocess
from pathlib import Path

import dvc.api
import numpy as np
import pytest
import yaml

import tagging
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.metric import load_metric
from tests.project import EVALUATED, ROOT
from tests.small_models import yac_model


def read(folder: Path, name: str) -> dict:
    return yaml.safe_load((ROOT / folder / name).read_text(encoding="utf-8"))


MODEL = read(Path(), "params.yaml")["artifact"]["path"]


@pytest.mark.parametrize("folder", EVALUATED, ids=str)
def test_the_best_model_of_a_task_has_a_name(folder: Path) -> None:
    """The best by validation, or the reference of the report where no clips validate."""
    params = read(folder, "params.yaml")
    selection = Task(**params["task"]).selection_metric
    best, best_value = params["compare"].get("reference"), None
    sections = ("models", "finetuned", "students")
    for name in [name for section in sections for name in params.get(section, {})]:
        metrics = TaskFolder(ROOT / folder).evaluation(name)
        if params["compare"].get("reference") or not metrics.is_file():
            continue
        scores = json.loads(metrics.read_text(encoding="utf-8"))
        value = scores.get("val", {}).get(selection.key)
        if value is not None and (
            best_value is None or load_metric(selection).is_better(value, best_value)
        ):
            best, best_value = name, value
    ((name, artifact),) = read(folder, "dvc.yaml")["artifacts"].items()
    assert (name, artifact["path"]) == ("${artifact.name}", "${artifact.path}")
    assert artifact["type"] == "model" and artifact["labels"]
    assert params["artifact"]["name"] and params["artifact"]["desc"]
    assert Path(params["artifact"]["path"]).parent == Path("models", best)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another repository, whose model DVC tracks, under the name that the root's model has."""
    root = tmp_path_factory.mktemp("other")
    yac_model(root / MODEL)
    (root / "dvc.yaml").write_text(
        yaml.safe_dump({"artifacts": read(Path(), "dvc.yaml")["artifacts"]})
    )
    (root / "params.yaml").write_text(
        yaml.safe_dump({"artifact": read(Path(), "params.yaml")["artifact"]})
    )
    for command in (
        "git init -q", "dvc init -q", f"dvc add -q {MODEL}", "git add .", "git commit -qm A-model",
        "git tag -a top-10@v1.0.0 -m first",
    ):  # fmt: skip
        subprocess.run(command.split(), cwd=root, check=True, capture_output=True)
    shutil.copy(root / MODEL, root.with_suffix(".copy"))
    (root / MODEL).unlink()  # only DVC's cache has it
    return root


@pytest.mark.parametrize(
    "command", [["get", "{repo}", MODEL], ["artifacts", "get", "{repo}", "top-10"]]
)
def test_a_model_is_fetched_on_the_command_line(
    other: Path, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word.format(repo=other) for word in command]
    copy = "copy.safetensors"
    subprocess.run(["dvc", *words, "-q", "-o", copy], check=True, capture_output=True)
    assert Path(copy).read_bytes() == other.with_suffix(".copy").read_bytes()
    embedding = np.random.default_rng(0).normal(127, 60, (10, 128)).clip(0, 255).astype(np.uint8)
    assert len(tagging.load(copy)(embedding)["labels"]) == 10


def test_a_model_is_fetched_in_python(other: Path, tmp_path: Path) -> None:
    content = other.with_suffix(".copy").read_bytes()
    with dvc.api.open(MODEL, repo=str(other), mode="rb") as file:
        assert file.read() == content
    files = dvc.api.DVCFileSystem(str(other))
    assert MODEL in files.ls(str(Path(MODEL).parent), detail=False)
    files.get_file(MODEL, str(tmp_path / "copy.safetensors"))
    assert (tmp_path / "copy.safetensors").read_bytes() == content
    artifact = dvc.api.artifacts_show("top-10", repo=str(other))
    assert artifact["path"] == MODEL
