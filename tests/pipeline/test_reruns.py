"""Which stages a change runs: all that it affects, and no others.

One table has every parameter, another has typical changes, made with the real client. Stages run
as well when their inputs change: `evaluate` with weights, `ensemble` with scores of models,
`distill` with scores of its teacher, `compare` with evaluations and plots, which include seconds of
training, `review` with evaluations. tests/pipeline/test_dependencies.py has the code of each stage.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from tagging.data.clips import read_index
from tagging.data.parameters import LOCATION_SECTIONS
from tests.project import ROOT, TASKS, Project

TRAINING = {"train", "finetune", "distill"}
SCORING = {"evaluate", "evaluate_finetuned", "ensemble", "evaluate_distilled"}
PAGES = {"compare", "review"}
PAGE_STAGES = {"compare", "review@page"}

# Every parameter: its section, or the longest part of its name that is a key here, and the stages
# of the same pipeline that run when it changes; with @ only those of its entry.
SECTIONS = {
    **{key: set() for key in LOCATION_SECTIONS},
    "task.type": {"decode", *TRAINING, *SCORING, *PAGES},
    "task.metrics": {*TRAINING, *SCORING, *PAGES},
    "task.report_metrics": {*SCORING, *PAGES},  # and no training
    "task.features": {"prepare", *TRAINING, *SCORING, *PAGES},
    "task.aggregate": {*SCORING, *PAGES},
    "download": {"download", "download@"},
    "convert": {"prepare"},  # and the stages of the subsets, which come and go
    "prepare": {"prepare"},
    "decode": {"decode"},
    "split": {"prepare", "decode"},
    "features": {"features@"},
    "embeddings": {"embeddings@"},
    "weights": set(),  # stages that come and go
    "train": {*TRAINING, "compare"},
    "models": {"train@", "evaluate@", *PAGES},
    "finetuned": {"finetune@", "evaluate_finetuned@", *PAGES},
    "ensembles": {"ensemble@", *PAGES},
    "students": {"distill@", "evaluate_distilled@", *PAGES},
    "evaluate": {*SCORING, "review"},
    "compare": PAGES,
    "search": {"index@"},
    "review": set(),  # stages that come and go
    "artifact": set(),
    "runtime": set(),
}


def leaves(params: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the dotted names of all parameters that have a value."""
    for name, value in params.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


READERS = {
    "models": ("train", "evaluate"),
    "finetuned": ("finetune", "evaluate_finetuned"),
    "students": ("distill", "evaluate_distilled"),
}


def prefixes(name: str) -> list[str]:
    """Return a dotted name and the names above it, the name itself first."""
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
        prefix = f"{folder}/dvc.yaml:" if folder.name else ""
        stages = {name.removeprefix(prefix) for name in tracked if name.startswith(prefix)}
        for leaf in leaves(params):
            families = next(SECTIONS[name] for name in prefixes(leaf) if name in SECTIONS)
            entry = leaf.split(".")[1] if "." in leaf else None
            expected = {
                prefix + stage
                for stage in stages
                for family in families
                if stage.partition("@")[0] == family or (entry and stage == family + entry)
            }
            if leaf == "convert.subsets":  # others read the subsets of the root
                expected |= {name for name in tracked if name.endswith("/dvc.yaml:prepare")}
            # Of the list of metrics, training reads the first.
            names = {*prefixes(leaf), "task.metrics.0" if leaf == "task.metrics" else leaf}
            affected = {stage for stage, files in tracked.items() if names & files.get(file, set())}
            assert affected == expected, f"{file}: {leaf}"


def test_only_its_own_models_read_a_feature() -> None:
    with Repo(ROOT) as repo:
        deps = {
            stage.addressing: {dep.fs_path for dep in stage.deps} for stage in repo.index.stages
        }
    for folder in TASKS:
        params = yaml.safe_load((ROOT / folder / "params.yaml").read_text(encoding="utf-8"))
        for feature in {**params.get("features", {}), **params.get("embeddings", {})}:
            path = str(ROOT / folder / "data/features" / feature)
            readers = {name for name, paths in deps.items() if path in paths}
            assert readers == {
                f"{folder}/dvc.yaml:{stage}@{name}"
                for section, stages in READERS.items()
                for name, entry in params.get(section, {}).items()
                if entry.get("features", params["task"]["features"]) == feature
                for stage in stages
            }
    everything = str(ROOT / "tasks/esc10/data/features")
    readers = [name for name, paths in deps.items() if everything in paths]
    assert readers == ["tasks/esc10/dvc.yaml:review@page"]  # which finds an embedding there


def test_only_models_that_start_from_weights_read_them() -> None:
    """A further published weight trains nothing."""
    with Repo(ROOT) as repo:
        for stage in repo.index.stages:
            if stage.name.partition("@")[0] in ("train", "evaluate", "evaluate_finetuned"):
                assert not [dep for dep in stage.deps if "/data/weights" in dep.fs_path], stage


MODELS = ("yac", "yac_published", "attention")  # of the small project
TRAIN = {f"train@{name}" for name in MODELS}
EVALUATE = {f"evaluate@{name}" for name in MODELS}
ENSEMBLE = {"ensemble@three_architectures"}
STUDENT, STUDENT_SCORED = {"distill@yac_distilled"}, {"evaluate_distilled@yac_distilled"}
SCORED = EVALUATE | ENSEMBLE | STUDENT_SCORED

TIMING = "plots/train/yac/timing.json"

Change = Callable[[Project], None]


def parameter(key: str, value: Any) -> Change:
    return lambda project: project.change(key, value)


def code(file: str) -> Change:
    return lambda project: project.append(file, "# A comment.\n")


def correction(action: str) -> Change:
    """Correct the first clip."""

    def change(project: Project) -> None:
        clip = read_index(project.root / "data/clips.safetensors").ids[0].decode()
        project.append("corrections.csv", f"{clip},{action},\n")

    return change


# What is changed, the stages that run for it, and stages that must follow.
CHANGES: dict[str, tuple[Change, set[str], set[str]]] = {
    "where the archive is from": (parameter("download.source", "eu"), {"download"}, set()),
    "clips": (
        parameter("prepare.top_k_labels", 4),
        {"prepare"},
        TRAIN | STUDENT | SCORED | PAGE_STAGES,
    ),
    "labels": (
        correction("drop"),
        {"prepare", "review@page"},
        TRAIN | STUDENT | SCORED | PAGE_STAGES,
    ),
    "a confirmed label": (correction("keep"), {"prepare", "review@page"}, set()),
    # Models with a value of their own are trained again, to the same weights.
    "training": (
        parameter("train.lr", 0.02),
        TRAIN | STUDENT,
        {"evaluate@yac"} | ENSEMBLE | PAGE_STAGES,
    ),
    "a model": (
        parameter("models.attention.network.dropout", 0.5),
        {"train@attention", "evaluate@attention"} | PAGE_STAGES,
        ENSEMBLE | STUDENT,
    ),
    "members": (
        parameter("ensembles.three_architectures.members", ["yac", "attention"]),
        ENSEMBLE | PAGE_STAGES,
        STUDENT,
    ),
    "a student": (
        parameter("students.yac_distilled.hard_label_weight", 0.5),
        STUDENT | STUDENT_SCORED | PAGE_STAGES,
        set(),
    ),
    "evaluation": (parameter("evaluate.seed", 1), SCORED | {"review@page"}, PAGE_STAGES),
    "the page": (parameter("compare.plot", ["attention"]), PAGE_STAGES, set()),
    "a stage's code": (code("stages/train.py"), TRAIN | STUDENT, set()),
    "a network's code": (
        code("tagging/networks/attention.py"),
        {"train@attention", "evaluate@attention"},
        set(),
    ),
    "a new loss": (
        code("tagging/learning/losses.py"),
        TRAIN | EVALUATE | STUDENT | STUDENT_SCORED | PAGE_STAGES,
        set(),
    ),
    "a new metric": (code("tagging/scoring/metrics/new.py"), SCORED | PAGE_STAGES, set()),
}


def results(project: Project) -> dict[str, bytes]:
    """Return the bytes of what stages read of one another, seconds apart."""
    folders = ("data", "models", "metrics", "evaluation", "plots/train", "plots/evaluate")
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
    stages |= PAGE_STAGES if any_in("data/scores/", "evaluation/") else set()
    stages |= {"compare"} if any_in("plots/") else set()
    if any_in("data/clips", "data/features/"):
        stages |= TRAIN | STUDENT | SCORED | PAGE_STAGES
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
        assert not {file for file in changed if not file.endswith("/timing.json")}


def test_a_new_seed_is_all_that_is_trained(project: Project) -> None:
    before = results(project)
    project.change("models.yac.seeds", [0, 1, 2])
    output = project.dvc("repro", "train@yac")
    assert output.count("resumed after epoch 2 of 2") == 2
    after = results(project)
    new = {name for name in after if before.get(name) != after[name]}
    assert new >= {"models/yac/seed2.safetensors", "plots/train/yac/seed2/metrics.json"}
    assert not {name for name in new if "seed2" not in name} - {TIMING}
    seconds = [json.loads(files[TIMING])["train_seconds"] for files in (before, after)]
    assert seconds[0] < seconds[1]


def test_what_means_nothing_runs_nothing(project: Project) -> None:
    assert project.repro() == set()
    assert project.status() == []
    # How to run, and another order and layout.
    params = project.params()
    params["runtime"] = {"device": "cpu", "progress": "none"}
    text = yaml.safe_dump(params, default_flow_style=True, sort_keys=True)
    (project.root / "params.yaml").write_text(f"# The same.\n{text}")
    # Code that decides nothing, or is not asked for.
    for file in ("errors", "files", "processes", "progress"):
        project.append(f"tagging/base/{file}.py", "# A comment.\n")
    for file in ("stages/download.py", "tagging/networks/new.py"):
        project.append(file, "# A comment.\n")
    # What Python, editors and killed stages leave.
    for folder in ("data/parquet", "evaluation", "plots/train", "plots/evaluate", "stages"):
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
    params["compare"]["plot"] = ["renamed", "attention"]
    project.write_params(params)
    renamed = {"train@renamed", "evaluate@renamed"}
    assert project.repro() == renamed | ENSEMBLE | STUDENT | STUDENT_SCORED | PAGE_STAGES
    assert (project.root / "metrics/yac_published.json").exists()
    for file in ("leaderboard/README.md", "plots/compare/learning_curves.csv"):
        text = (project.root / file).read_text()
        assert "renamed" in text
        assert "yac_published" not in text


def test_a_cache_of_symbolic_links(project: Project) -> None:
    """Stages replace the links to their earlier outputs, and write nothing into the cache."""
    project.dvc("config", "--local", "cache.type", "symlink")
    project.dvc("checkout", "--relink")
    model = project.root / "models/yac/seed0.safetensors"
    assert model.is_symlink()
    for stage in (["stages.prepare", "."], ["stages.train", ".", "yac"]):
        project.run("python", "-m", *stage)
    assert not model.is_symlink()
    project.change("models.yac.seeds", [0, 1, 2])
    assert project.repro("train@yac") == {"train@yac"}
    assert model.is_symlink()
    objects = [
        file for file in (project.root / ".dvc/cache/files/md5").rglob("*") if file.is_file()
    ]
    assert objects
    for file in objects:
        digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        assert digest == file.parent.name + file.name.removesuffix(".dir")


def test_a_lost_output_comes_from_the_cache(project: Project) -> None:
    (project.root / "models/yac/seed0.safetensors").unlink()
    project.dvc("checkout", "train@yac")
    assert project.repro() == set()
