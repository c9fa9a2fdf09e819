"""Each stage's deps in a dvc.yaml cover what decides its result, and are few."""

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from tagging.data.parameters import parse
from tagging.data.task import Task
from tests.closure import NAMED, ROOT, closure, imported, imports, named_imports
from tests.project import PIPELINES

MAX_DEPS = 14  # for a reader
# Files of a folder one by one: the first two train for hours, and published weights change no page.
LISTS_FILES = ("grid", "variants", "review")
CODE = [
    file
    for folder in ("stages", "tagging", "replication")
    for file in ROOT.glob(f"{folder}/**/*.py")
    # What people call, no stage:
    if "commands" not in file.parts and file != ROOT / "tagging/__init__.py"
]
# Files of the project that a module reads or compiles while it runs.
READ = {
    "tagging/reports/charts.py": ".dvc/plots/leaderboard.json",
    "replication/conv_block.py": "replication/kernels/conv_block.c",
    "replication/cells.py": "replication/printed.csv",
}


class Stage(NamedTuple):
    """A stage of a dvc.yaml: its folder, its modules, and those of its deps that no stage makes."""

    name: str
    folder: Path
    modules: list[Path]
    deps: list[str]


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    """All stages of all pipelines, as DVC reads them."""
    found = []
    with Repo(ROOT) as repo:
        outs = [Path(out.fs_path) for out in repo.index.outs]
        made = {path for out in outs for path in (out, *out.parents)}
        for stage in repo.index.stages:
            commands = [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd
            names = [re.match(r"python -m (\S+)", command)[1] for command in commands]
            deps = [
                Path(dep.fs_path)
                for dep in stage.deps
                if dep.protocol == "local" and not isinstance(dep, ParamsDependency)
            ]
            found.append(
                Stage(
                    stage.addressing,
                    Path(stage.path).parent,
                    [ROOT / f"{name.replace('.', '/')}.py" for name in names],
                    [str(dep.relative_to(ROOT)) for dep in deps if dep not in made],
                )
            )
            # An optional dep has a path for its default that is a dep in any case.
            assert len(deps) - len(set(deps)) <= (stage.name in ("compare", "decode"))
    return found


def entry_of(params: dict[str, Any], stage: Stage) -> dict[str, Any]:
    """Return the entry of params.yaml that a stage is of: `{}` where it is of none."""
    key = stage.name.partition("@")[2]
    if stage.modules[0].stem == "weights":  # a list: names are those of published weights
        return {}
    sections = ("models", "finetuned", "students", "features", "embeddings", "ensembles")
    entries = [params[name][key] for name in sections if key in (params.get(name) or {})]
    return entries[0] if entries else {}


def decides(stage: Stage) -> set[str]:
    """Return the files that decide a stage's result."""
    params = yaml.safe_load((stage.folder / "params.yaml").read_text(encoding="utf-8"))
    entry = entry_of(params, stage)
    files = closure(*stage.modules)
    if stage.modules[0].stem in ("decode", "prepare", "review"):
        files.add(str((stage.folder / "corrections.csv").relative_to(ROOT)))
    named: list[str] = []
    if "architecture" in entry:
        named.append(f"tagging/networks/{entry['architecture']}.py")
    if "tagging/learning/embedding.py" in files and stage.modules[0].stem == "features":
        # Of an embedding, the file of the weights says which.
        transforms = [entry["transform"]] if "transform" in entry else ["*"]
        named += [
            str(file.relative_to(ROOT))
            for transform in transforms
            for file in ROOT.glob(f"tagging/features/{transform}.py")
        ]
    if "tagging/learning/metric.py" in files and "task" in params:
        task = parse(Task, params["task"], "task")
        metrics = [*task.metrics, *task.report_metrics]
        if stage.modules[0].stem == "train":
            metrics = [task.selection_metric]
        named += [f"tagging/scoring/metrics/{metric.name}.py" for metric in metrics]
    files |= closure(*(ROOT / name for name in named))
    files |= {READ[file] for file in files & READ.keys()}
    # tagging/base decides no byte; the tests below show it.
    return {file for file in files if not file.startswith("tagging/base/")}


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


def test_all_pipelines_are_looked_at(stages: list[Stage]) -> None:
    assert {stage.folder.relative_to(ROOT) for stage in stages} == set(PIPELINES)
    assert {file.stem for file in ROOT.glob("stages/*.py")} == {
        module.stem
        for stage in stages
        for module in stage.modules
        if module.parent.name == "stages"
    }


def test_deps_are_the_files_that_decide_a_result(stages: list[Stage]) -> None:
    """One pipeline serves many tasks: each dep of a stage is needed by at least one of them."""
    missing: dict[str, set[str]] = defaultdict(set)
    unused: dict[str, set[str]] = {}
    for stage in stages:
        # A download is checked against a SHA-256: its code cannot change the result.
        needed = set() if stage.modules[0].stem == "download" else decides(stage)
        family = f"{pipeline_kind(stage)}: {stage.name.rpartition(':')[2].partition('@')[0]}"
        missing[family] |= {
            file for file in needed if not any(covers(dep, file) for dep in stage.deps)
        }
        idle = {dep for dep in stage.deps if not any(covers(dep, file) for file in needed)}
        unused[family] = unused.get(family, idle) & idle
    assert not {family: sorted(files) for family, files in missing.items() if files}
    assert not {family: sorted(files) for family, files in unused.items() if files}


def pipeline_kind(stage: Stage) -> str:
    """Return which pipeline a stage belongs to, of those that are written once."""
    params = yaml.safe_load((stage.folder / "params.yaml").read_text(encoding="utf-8"))
    kinds = {"decode": "recordings", "prepare": "audioset"}
    return next((kind for section, kind in kinds.items() if section in params), "replication")


def test_deps_are_few_and_never_base(stages: list[Stage]) -> None:
    for folder in PIPELINES:
        content = yaml.safe_load((ROOT / folder / "dvc.yaml").read_text(encoding="utf-8"))
        for name, stage in content["stages"].items():
            deps = stage.get("do", stage).get("deps", [])
            most = MAX_DEPS * (2 if name in LISTS_FILES else 1)
            assert len(deps) <= most, f"{folder}: {name} has {len(deps)} deps"
    for stage in stages:
        assert not any(covers(dep, "tagging/base/files.py") for dep in stage.deps), stage.name


def test_a_stage_depends_on_its_own_network_alone(stages: list[Stage]) -> None:
    for stage in stages:
        networks = [dep for dep in stage.deps if covers("tagging/networks", dep)]
        assert all(dep.endswith(".py") for dep in networks), stage.name
        assert len(networks) <= 1, stage.name


def test_every_module_belongs_to_a_stage() -> None:
    used = closure(*ROOT.glob("stages/*.py"), *ROOT.glob("replication/*.py"))
    used |= closure(
        *(file for name in NAMED for file in (ROOT / name.replace(".", "/")).glob("*.py"))
    )
    assert {str(file.relative_to(ROOT)) for file in CODE} - used == set()
    assert not [file for file in used if file.startswith("tagging/commands/")]


def test_no_import_is_hidden_from_the_closure() -> None:
    for file in CODE:
        for name in named_imports(file):
            assert name.removeprefix("f'").rpartition(".{")[0] in NAMED, f"{file}: {name}"
    # A package's __init__.py would run with any of its modules.
    assert not [file for file in CODE if file.name == "__init__.py"]


def test_what_is_imported_is_required() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    lines += [line for extra in extras.values() for line in extra]
    required = {
        re.split(r"[\[=<>]", line)[0].lower().replace("_", "-")
        for line in lines
        if line and not line.startswith("#")
    }
    of_module = packages_distributions()
    for file in [*CODE, *ROOT.glob("tagging/commands/*.py"), *ROOT.glob("tools/*.py")]:
        for module in {name.split(".")[0] for name in imported(file)}:
            ours = (ROOT / module).is_dir() or module in sys.stdlib_module_names
            there = {name.lower().replace("_", "-") for name in of_module.get(module, [])}
            assert ours or there & required, f"{file}: {module} is in no line of requirements.txt"


# tagging/base decides no byte of an output.


def test_base_knows_nothing_of_what_is_computed() -> None:
    for file in ROOT.glob("tagging/base/*.py"):
        # Of the project the sub-package, of others the package.
        modules = [
            ".".join(name.split(".")[: 2 if name.startswith("tagging") else 1])
            for name in imported(file)
        ]
        assert set(modules) <= {*sys.stdlib_module_names, "tqdm", "tagging.base"}, file


def test_no_python_lies_below_tasks() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "tasks"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert not [name for name in listed if name.endswith((".py", ".pyi", ".ipynb"))]
    assert not list(ROOT.glob("tasks/**/*.py"))


# The structure: nothing imports upwards.


def test_no_module_and_no_folder_imports_in_a_circle() -> None:
    modules, folders = nx.DiGraph(), nx.DiGraph()
    for file in [*CODE, *ROOT.glob("tagging/commands/*.py")]:
        for target in imports(file):
            modules.add_edge(file, target)
            if file.parent != target.parent:
                # Metrics are part of scoring, AudioSet is one of the sources.
                folders.add_edge(*(path.relative_to(ROOT).parts[:2] for path in (file, target)))
    assert not list(nx.simple_cycles(modules))
    folders.remove_edges_from(list(nx.selfloop_edges(folders)))
    assert not list(nx.simple_cycles(folders))
