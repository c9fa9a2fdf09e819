"""Each stage's deps in dvc.yaml are its import closure: no file too few, none too many."""

import ast
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from tests.closure import ROOT, closure

# What it brings is checked against a pinned SHA-256: its code cannot change the result.
WITHOUT_CODE = {"download", "ontology"}
# Files of the project that a stage reads or compiles while it runs.
NOT_IMPORTED = {
    "compare": {".dvc/plots/leaderboard.json"},
    "published/grid": {"tagging/kernels/conv_block.c"},
    "published/report": {"published/printed.csv"},
}
# Pipelines of their own: the folder of their dvc.yaml, and their stages' modules.
APART = {
    "published": ("grid", "report"),
    "ablation": ("run", "report"),
    "official": ("prepare", "ontology", "train", "evaluate", "enhance", "ensemble", "report"),
}
STAGES = [
    *ROOT.glob("stages/*.py"),
    *(ROOT / f"{folder}/{name}.py" for folder, names in APART.items() for name in names),
]
CODE = sorted(
    file for folder in ("stages", "tagging", *APART) for file in ROOT.glob(f"{folder}/**/*.py")
)
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
MODELS = PARAMS["models"]
ENTRIES = {
    "stages": MODELS | PARAMS["students"],
    "official": PARAMS["official"]["models"] | PARAMS["official"]["enhanced"],
}


@pytest.fixture(scope="module")
def deps() -> dict[str, set[str]]:
    """Each stage's deps that no stage makes."""
    with Repo(ROOT) as repo:
        stages = {
            stage.addressing: {Path(dep.fs_path) for dep in stage.deps if dep.protocol == "local"}
            for stage in repo.index.stages
        }
        outs = {Path(out.fs_path) for out in repo.index.outs}
    made = outs | {folder for out in outs for folder in out.parents if folder != ROOT}
    params = ROOT / "params.yaml"
    return {
        stage: {str(dep.relative_to(ROOT)) for dep in paths - made - {params}}
        for stage, paths in stages.items()
    }


def expected(stage: str) -> set[str]:
    """Return the files that the stage's command runs."""
    file, _, address = stage.rpartition(":")
    folder = file.removesuffix("/dvc.yaml") or "stages"
    name, _, key = address.partition("@")
    main = "train" if name == "student" else name.removesuffix("_enhanced")
    files = closure(ROOT / f"{folder}/{main}.py")
    files |= NOT_IMPORTED.get(name if folder == "stages" else f"{folder}/{name}", set())
    if stage.startswith("ablation/dvc.yaml:run@"):
        for model in PARAMS["ablation"]["models"]:
            files |= closure(ROOT / f"tagging/architectures/{MODELS[model]['architecture']}.py")
    if name == "student":  # one stage, two commands
        files |= closure(ROOT / "stages/evaluate.py")
    if main in ("train", "evaluate"):
        # dvc.yaml lists the same for all models but the architecture's own file.
        architectures = set(ROOT.glob("tagging/architectures/*.py"))
        shared = set().union(*(closure(file) for file in architectures))
        files |= shared - {str(file.relative_to(ROOT)) for file in architectures}
        files.add(f"tagging/architectures/{ENTRIES[folder][key]['architecture']}.py")
    return set() if name in WITHOUT_CODE else files


def test_deps_are_the_import_closure(deps: dict[str, set[str]]) -> None:
    for stage, files in deps.items():
        wanted = expected(stage)
        assert files == wanted, (
            f"{stage}: add {sorted(wanted - files)}, remove {sorted(files - wanted)} in dvc.yaml"
        )


def test_all_stages_are_looked_at(deps: dict[str, set[str]]) -> None:
    named = {stage.partition("@")[0].replace("/dvc.yaml:", "/") for stage in deps} - {"student"}
    # The same modules, for models that learn other labels.
    named -= {f"official/{name}_enhanced" for name in ("train", "evaluate")}
    assert named == {
        str(file.relative_to(ROOT).with_suffix("")).removeprefix("stages/") for file in STAGES
    }
    assert {f"train@{name}" for name in MODELS} <= set(deps)


def test_a_stage_depends_on_its_own_architecture_alone(deps: dict[str, set[str]]) -> None:
    assert "tagging/architectures/attention.py" not in deps["train@yac"] | deps["evaluate@yac"]
    assert "tagging/architectures/yac.py" not in deps["train@attention"]


def test_every_module_belongs_to_a_stage() -> None:
    used = {file for stage in STAGES for file in closure(stage)}
    used |= {str(file.relative_to(ROOT)) for file in ROOT.glob("tagging/architectures/*.py")}
    assert {str(file.relative_to(ROOT)) for file in CODE} == used


def test_no_import_is_hidden_from_the_closure() -> None:
    loaders = {"__import__", "exec", "eval", "import_module", "runpy", "SourceFileLoader"}
    dynamic = []
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func).split(".")
            # `network.eval()` is PyTorch's: `eval` counts as a bare name only.
            if loaders & set(called) and called[1:] != ["eval"]:
                dynamic.append(f"{file.relative_to(ROOT)}: {ast.unparse(node)}")
    assert dynamic == [
        "tagging/models.py: importlib.import_module(f'tagging.architectures.{model.architecture}')"
    ]
    # A package's __init__.py would run with any of its modules.
    assert not [file for file in CODE if file.name == "__init__.py"]
