"""Which change makes which stages run: all of them, and only what is affected.

One table says it of every parameter, another of changes that stand for all, with the real client.
What follows is told by its inputs: `evaluate` runs again when weights are others, `ensemble` when a
model's answers are, `student` when its teacher's are, `compare` when a metric or a plot is, and
seconds of training are. tests/test_dependencies.py says which code is whose.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from tests.project import ROOT, TASKS, Project

TRAINING = {"train", "train_student"}
SCORING = {"evaluate", "ensemble", "evaluate_student"}

# Every parameter: its section, or the longest part of its name that stands here, and the stages of
# the same pipeline that run when it changes; with @ those of its entry alone.
SECTIONS = {
    "task": {*TRAINING, *SCORING, "compare"},
    "task.features": {"prepare", *TRAINING, *SCORING, "compare"},
    "task.shown": {*SCORING, "compare"},  # and no training
    "task.pooled": {*SCORING, "compare"},
    "task.kind": {"decode", *TRAINING, *SCORING, "compare"},
    "download": {"download"},
    "convert": {"prepare"},  # and the subsets' own stages, which come and go
    "prepare": {"prepare"},
    "decode": {"decode"},
    "protocol": {"prepare", "decode"},
    "features": {"features@"},
    "embeddings": {"embeddings@"},
    "weights": set(),  # stages that come and go
    "train": TRAINING,
    "models": {"train@", "evaluate@", "compare"},
    "ensembles": {"ensemble@", "compare"},
    "students": {"train_student@", "evaluate_student@", "compare"},
    "evaluate": SCORING,
    "compare": {"compare"},
    "index": {"index"},
    "run": set(),
}


def leaves(params: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted names of all parameters that hold no others."""
    for name, value in params.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def prefixes(name: str) -> list[str]:
    """Return what a dotted name is below, the name itself first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def test_every_parameter_runs_the_stages_of_its_section() -> None:
    tracked: dict[str, dict[str, set[str]]] = {}  # of a stage: names by the file they stand in
    with Repo(ROOT) as repo:
        for stage in repo.index.stages:
            files = tracked[stage.addressing] = {}
            for dep in stage.deps:
                if isinstance(dep, ParamsDependency):
                    file = Path(dep.fs_path).relative_to(ROOT)
                    files.setdefault(str(file), set()).update(dep.params)
    for folder in (Path(), *TASKS):
        file = str(folder / "params.yaml")
        params = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
        of_pipeline = f"{folder}/dvc.yaml:" if folder.name else ""
        stages = {
            name.removeprefix(of_pipeline) for name in tracked if name.startswith(of_pipeline)
        }
        for leaf in leaves(params):
            families = next(SECTIONS[name] for name in prefixes(leaf) if name in SECTIONS)
            entry = leaf.split(".")[1] if "." in leaf else None
            wanted = {
                of_pipeline + stage
                for stage in stages
                for family in families
                if stage.partition("@")[0] == family or (entry and stage == family + entry)
            }
            if leaf == "convert.subsets":  # others read what the root converts
                wanted |= {name for name in tracked if name.endswith("/dvc.yaml:prepare")}
            found = {
                stage
                for stage, files in tracked.items()
                if set(prefixes(leaf)) & files.get(file, set())
            }
            assert found == wanted, f"{file}: {leaf}"


def test_a_feature_is_read_by_its_own_models_alone() -> None:
    with Repo(ROOT) as repo:
        deps = {of.addressing: {dep.fs_path for dep in of.deps} for of in repo.index.stages}
    for folder in TASKS:
        params = yaml.safe_load((ROOT / folder / "params.yaml").read_text(encoding="utf-8"))
        for feature in {**params.get("features", {}), **params.get("embeddings", {})}:
            path = str(ROOT / folder / "data/features" / feature)
            found = {name for name, of in deps.items() if path in of}
            own = {
                name
                for name, entry in params["models"].items()
                if entry.get("features", params["task"]["features"]) == feature
            }
            of_task = f"{folder}/dvc.yaml:"
            assert found == {
                f"{of_task}{stage}@{name}" for name in own for stage in ("train", "evaluate")
            }
    everything = str(ROOT / "tasks/esc10/data/features")
    assert not [name for name, of in deps.items() if everything in of]


MODELS = ("yac", "yac_published", "attention")  # of the small project
TRAIN = {f"train@{name}" for name in MODELS}
EVALUATE = {f"evaluate@{name}" for name in MODELS}
ENSEMBLE, COMPARE = {"ensemble@three_architectures"}, {"compare"}
STUDENT, STUDENT_SCORED = {"train_student@yac_distilled"}, {"evaluate_student@yac_distilled"}
SCORED = EVALUATE | ENSEMBLE | STUDENT_SCORED

Change = Callable[[Project], None]


def parameter(key: str, value: Any) -> Change:
    return lambda project: project.change(key, value)


def code(file: str) -> Change:
    return lambda project: project.append(file, "# A comment.\n")


# What is changed, the stages that run for it, and stages that must follow.
CHANGES: dict[str, tuple[Change, set[str], set[str]]] = {
    "where the archive is from": (parameter("download.source", "eu"), {"download"}, set()),
    "clips": (parameter("prepare.top_labels", 4), {"prepare"}, TRAIN | STUDENT | SCORED | COMPARE),
    # Models with a value of their own are trained again, to the same weights.
    "training": (
        parameter("train.lr", 0.02),
        TRAIN | STUDENT,
        {"evaluate@yac"} | ENSEMBLE | COMPARE,
    ),
    "a model": (
        parameter("models.attention.network.dropout", 0.5),
        {"train@attention", "evaluate@attention"} | COMPARE,
        ENSEMBLE | STUDENT,
    ),
    "members": (
        parameter("ensembles.three_architectures.members", ["yac", "attention"]),
        ENSEMBLE | COMPARE,
        STUDENT,
    ),
    "a student": (
        parameter("students.yac_distilled.label_weight", 0.5),
        STUDENT | STUDENT_SCORED | COMPARE,
        set(),
    ),
    "evaluation": (parameter("evaluate.seed", 1), SCORED, COMPARE),
    "the page": (parameter("compare.plotted", ["attention"]), COMPARE, set()),
    "a stage's code": (code("stages/train.py"), TRAIN | STUDENT, set()),
    "a network's code": (
        code("tagging/networks/attention.py"),
        {"train@attention", "evaluate@attention"},
        set(),
    ),
    "a new loss": (
        code("tagging/learning/losses.py"),
        TRAIN | EVALUATE | STUDENT | STUDENT_SCORED | COMPARE,
        set(),
    ),
    "a new metric": (code("tagging/scoring/metrics/new.py"), SCORED | COMPARE, set()),
}


def results(project: Project) -> dict[str, bytes]:
    """Return the bytes of what stages read of one another, seconds apart."""
    folders = ("data", "models", "metrics", "plots/train", "plots/evaluate")
    return {
        str(file.relative_to(project.root)): file.read_bytes()
        for folder in folders
        for file in (project.root / folder).rglob("*")
        if file.is_file()
    }


def following(changed: set[str]) -> set[str]:
    """Return the stages that run because files are others."""

    def any_in(*folders: str) -> bool:
        return any(name.startswith(folders) for name in changed)

    stages = {f"evaluate@{name}" for name in MODELS if any_in(f"models/{name}/")}
    stages |= ENSEMBLE if any_in("data/scores/models/") else set()
    stages |= STUDENT if any_in("data/scores/ensembles/") else set()
    stages |= STUDENT_SCORED if any_in("models/yac_distilled/") else set()
    stages |= COMPARE if any_in("data/scores/", "metrics/", "plots/") else set()
    if any_in("data/clips", "data/features/"):
        stages |= TRAIN | STUDENT | SCORED | COMPARE
    return stages


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_runs_what_it_affects(project: Project, name: str) -> None:
    change, directly, then = CHANGES[name]
    before = results(project)
    change(project)
    ran = project.repro()
    after = results(project)
    changed = {file for file in before | after if before.get(file) != after.get(file)}
    assert ran == directly | following(changed)
    assert then <= ran
    if name.endswith(("code", "loss", "metric")):  # which change no result
        assert not {file for file in changed if not file.startswith("metrics/timing/")}


def test_a_new_seed_is_all_that_is_trained(project: Project) -> None:
    before = results(project)
    project.change("models.yac.seeds", [0, 1, 2])
    output = project.dvc("repro", "train@yac")
    assert output.count("resumed after epoch 2 of 2") == 2
    after = results(project)
    new = {name for name in after if before.get(name) != after[name]}
    assert new >= {"models/yac/seed2.safetensors", "plots/train/yac/seed2/metrics.json"}
    assert not {name for name in new if "seed2" not in name} - {"metrics/timing/yac.json"}
    timing = json.loads(after["metrics/timing/yac.json"])
    assert timing["train_seconds"] > json.loads(before["metrics/timing/yac.json"])["train_seconds"]


def test_what_means_nothing_runs_nothing(project: Project) -> None:
    assert project.repro() == set()
    assert project.status() == []
    # How to run, and another order and layout.
    params = project.params()
    params["run"] = {"device": "cpu", "progress": "none"}
    text = yaml.safe_dump(params, default_flow_style=True, sort_keys=True)
    (project.root / "params.yaml").write_text(f"# The same.\n{text}")
    # Code that decides nothing, or is not asked for.
    for file in ("errors", "files", "processes", "progress"):
        project.append(f"tagging/base/{file}.py", "# A comment.\n")
    for file in ("stages/__init__.py", "stages/download.py", "tagging/networks/new.py"):
        project.append(file, "# A comment.\n")
    # What Python, editors and killed stages leave.
    for folder in ("data/parquet", "metrics", "plots/train", "plots/evaluate", "stages"):
        for name in ("__pycache__/x.cpython-311.pyc", "x.json.partial"):
            (project.root / folder / name).parent.mkdir(exist_ok=True)
            (project.root / folder / name).write_text("left behind")
    for file in project.root.rglob("*"):
        if file.is_file() and not {".git", ".dvc"} & set(file.parts):
            os.utime(file, (1e9, 1e9))
    assert project.repro() == set()


def test_entries_that_are_renamed_and_removed(project: Project) -> None:
    params = project.params()
    del params["models"]["yac_published"]
    models = {"renamed" if name == "yac" else name: it for name, it in params["models"].items()}
    params["models"] = dict(reversed(models.items()))
    params["ensembles"]["three_architectures"]["members"] = ["renamed", "attention"]
    params["compare"]["plotted"] = ["renamed", "attention"]
    project.write_params(params)
    renamed = {"train@renamed", "evaluate@renamed"}
    assert project.repro() == renamed | ENSEMBLE | STUDENT | STUDENT_SCORED | COMPARE
    assert (project.root / "metrics/yac_published.json").exists()
    for file in ("leaderboard/README.md", "plots/compare/learning_curves.csv"):
        text = (project.root / file).read_text()
        assert "renamed" in text
        assert "yac_published" not in text


def test_a_lost_output_comes_from_the_cache(project: Project) -> None:
    (project.root / "models/yac/seed0.safetensors").unlink()
    project.dvc("checkout", "train@yac")
    assert project.repro() == set()
