"""A copy of the project in a temporary git and DVC repository, driven as users drive it."""

import hashlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tagging.sources.sounds import CLASSES, sample_files, write_sounds

ROOT = Path(__file__).parents[1]


def project_files() -> list[str]:
    """Return the working tree's files that git would commit, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return sorted(name for name in set(listed.split("\0")) - {""} if (ROOT / name).is_file())


# The folder of every pipeline that git would commit, relative to the root.
PIPELINES = sorted(
    Path(name).parent
    for name in project_files()
    if re.fullmatch("([^/]+/|tasks/[^/]+/)?dvc.yaml", name)
    and (ROOT / name).with_name("params.yaml").exists()
)
TASKS = [folder for folder in PIPELINES if folder.parts[:1] == ("tasks",)]
# Pipelines whose entries have been evaluated.
EVALUATED = [folder for folder in PIPELINES if (ROOT / folder / "data/summary.json").is_file()]
OWN = Path("tasks/own")  # made by `tagging new` in copies of the project
RECORDINGS = "recordings/the birds ä"  # its folder of recordings
# The root's pipeline works without these.
APART = ("tasks/", "replication/", "tests/", "benchmarks/")
# Results of the real runs, in a pipeline's folder.
RESULT = re.compile(
    r"(tasks/[^/]+/|replication/)?"
    r"((data|evaluation|leaderboard|metrics|models|plots|results)/(?!\.gitignore|dvc\.yaml|page\.html)"
    r"|dvc\.lock)"
)

PLOTS = ("plots/compare", "plots/evaluate", "plots/train")  # plots/dvc.yaml is no output
OUTPUTS = ("data", "models", "metrics", "evaluation", *PLOTS, "leaderboard")


@dataclass
class Project:
    """A repository at `root` whose `download` takes the archive of `mirror`."""

    root: Path
    mirror: Path
    python_folder: Path  # first in PATH

    @classmethod
    def of_sources(cls, root: Path, *where: Path) -> "Project":
        """Copy what git would commit of the root's own pipeline into a new repository."""
        project = cls(root, *where)
        project.add_sources(lambda name: not name.startswith(APART))
        project.git("init", "--quiet")
        return project

    def add_sources(self, is_wanted: Callable[[str], bool]) -> None:
        """Copy the files of the working tree that git would commit, without results."""
        for name in project_files():
            if is_wanted(name) and not RESULT.match(name):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)

    @classmethod
    def copied(cls, source: Path, root: Path, *where: Path) -> "Project":
        """Copy a whole repository, cache and outputs included."""
        shutil.copytree(source, root, symlinks=True)
        return cls(root, *where)

    def environment(self) -> dict[str, str]:
        """Return the environment of the commands run here: one process a stage, no network."""
        path = os.pathsep.join([str(self.python_folder), os.environ["PATH"]])
        mirrors = {"AUDIOSET_MIRROR": str(self.mirror), "DOWNLOAD_MIRROR": str(self.mirror)}
        return {"TAGGING_WORKERS": "1", **os.environ, "PATH": path} | mirrors

    def run(self, *command: str, folder: Path | str = "", check: bool = True, **environment: str):
        """Run a command in the project; `stdout` has the output of both streams."""
        done = subprocess.run(
            command,
            cwd=self.root / folder,
            env=self.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done

    def git(self, *arguments: str) -> str:
        """Run git; return its output."""
        return self.run("git", *arguments).stdout

    def dvc(self, *arguments: str, **environment: str) -> str:
        """Run DVC's command-line client; return its output."""
        return self.run("dvc", *arguments, **environment).stdout

    def fails(self, *command: str) -> str:
        """Run a command that must fail without a traceback; return its output."""
        done = self.run(*command, check=False)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def repro(self, *arguments: str) -> set[str]:
        """Run `dvc repro`; return the names of the stages whose commands ran."""
        return stages_run(self.dvc("repro", *arguments))

    def commit(self) -> None:
        """Commit whatever is there."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "A change")

    def params(self, folder: Path | str = "") -> dict[str, Any]:
        """Return params.yaml of the root or of another pipeline's folder."""
        return yaml.safe_load((self.root / folder / "params.yaml").read_text())

    def write_params(self, params: dict[str, Any], folder: Path | str = "") -> None:
        """Replace it."""
        (self.root / folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def change(self, key: str, value: Any, folder: Path | str = "") -> None:
        """Set or add one parameter, of a dotted name; None removes it."""
        params = section = self.params(folder)
        *path, last = key.split(".")
        for part in path:
            section = section[part]
        if value is None:
            del section[last]
        else:
            assert section.get(last) != value, f"{key} is {value!r} already"
            section[last] = value
        self.write_params(params, folder)

    def append(self, file: str, text: str) -> None:
        """Add text to the end of a file, which may be new."""
        with (self.root / file).open("a", encoding="utf-8") as end:
            end.write(text)

    def mirrored(self, address: str, write: Callable[[Path], None]) -> str:
        """Have `write` make the mirrored file of a URL; return its SHA-256."""
        path = self.mirror / address.partition("://")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def status(self) -> list[str]:
        """Return the changed and new files, as git lists them."""
        return self.git("status", "--porcelain").splitlines()


def stages_run(output: str) -> set[str]:
    """Return the stages that DVC says it ran: `Running stage 'train@yac':`."""
    lines = [line for line in output.splitlines() if line.startswith("Running stage '")]
    return {line.split("'")[1] for line in lines}


def all_results(root: Path) -> dict[str, bytes]:
    """Return the bytes of all outputs, except for the seconds of trainings."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for folder in OUTPUTS
        for file in (root / folder).rglob("*")
        if file.is_file()
        and file.name != "timing.json"
        and file.name not in ("README.md", "cost.csv", ".gitignore")
    }


FEW = 3  # entries of a section
SMALL = {"epochs": 2, "batch_size": 8}


def generate_weights(project: Project, name: str) -> bool:
    """Publish random weights under an address, in EfficientAT's layout; for others return False."""
    import torch

    from tagging.sources.weights import find_published
    from tests.published import as_efficientat, built

    published = find_published(name)
    if published.architecture != "mobilenet":
        return False
    torch.manual_seed(0)
    state = as_efficientat(built(published))
    sha256 = project.mirrored(published.address, lambda path: torch.save(state, path))
    code = project.root / "tagging/sources/weights.py"
    code.write_text(code.read_text().replace(published.sha256, sha256))
    return True


def make_own_task(project: Project) -> None:
    """Make a task on the generated sample as its users do."""
    for name, content in sample_files().items():
        file = project.root / RECORDINGS / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_bytes(content)
    project.run("python", "-m", "tagging.commands.main", "new", OWN.name, RECORDINGS)


def few_models(params: dict[str, Any]) -> dict[str, Any]:
    """Return one model of each computed feature, and a few of the task's own feature."""
    computed = params.get("features", {}) | params.get("embeddings", {})
    models, number = {}, Counter()
    for name, model in params["models"].items():
        feature = model.get("features")
        if feature is None or feature in computed:
            number[feature] += 1
            if number[feature] <= (1 if computed else FEW):
                models[name] = model
    return models


def shrink_network(network: dict[str, Any]) -> None:
    """Give a network few channels."""
    if "hidden" in network:
        network["hidden"] = 8
    if "decoder" in network:
        network["decoder"] = [8] * len(network["decoder"])
    if "heads" in network and "width" in network:
        network["width"] = 2 * network["heads"]


def shrink_sources(project: Project, folder: Path | str, params: dict[str, Any]) -> None:
    """Replace recordings by the generated sample, and published weights by random ones."""
    for file in params.get("download", {}).values():
        if isinstance(file, dict):
            file["sha256"] = project.mirrored(file["address"], write_sounds)
    if "decode" in params:
        params["decode"] |= {"source": "folder", "clip_seconds": 1}
        for key in ("classes", "max_recordings"):  # of the replaced recordings
            params["decode"].pop(key, None)
        if params["split"]["method"] == "random":  # each split has few files
            params["split"]["ratios"] = [8, 2, 2]
    if "weights" in params:
        published = [name for name in params["weights"] if generate_weights(project, name)]
        params["weights"] = published
        params["embeddings"] = {
            key: entry
            for key, entry in params["embeddings"].items()
            if entry["weights"] in published
        }
    for embedding in params.get("embeddings", {}).values():
        if "classes" in embedding:
            embedding["classes"] = dict(zip(CLASSES, embedding["classes"].values(), strict=False))


def make_small(project: Project, folder: Path | str = "") -> None:
    """Set the parameters so that each stage takes a second; their meaning stays.

    tests/pipeline/test_configured.py looks at every entry.
    """
    params = project.params(folder)
    shrink_sources(project, folder, params)
    sections = ("finetuned", "students", "ensembles")
    finetuned, students, ensembles = (params.get(section, {}) for section in sections)
    models = params["models"] = few_models(params)
    finetuned, students = (dict([*entries.items()][:FEW]) for entries in (finetuned, students))
    teachers = [student["teacher"] for student in students.values()] or list(ensembles)
    ensembles = {name: {"members": list(models)} for name in teachers[:1]}
    for student in students.values():
        student["teacher"] = teachers[0]
    for model in models.values():  # teachers and searches read scores of training clips
        model["score_train"] = bool(students) or "search" in params
    for entry in [*models.values(), *finetuned.values(), *students.values()]:
        shrink_network(entry.get("network", {}))
        own = entry.get("train", {})
        own |= {key: small for key, small in SMALL.items() if key in own}
        entry["seeds"] = [0]
    if params["split"]["method"] != "k_fold":  # which is several runs already
        next(iter(models.values()))["seeds"] = [0, 1]
    for section, entries in zip(sections, (finetuned, students, ensembles), strict=True):
        params[section] = entries
    params["train"] |= SMALL
    if "prepare" in params:
        params["prepare"]["top_k_labels"] = min(params["prepare"]["top_k_labels"], 8)
    params["evaluate"]["resamples"] = 100
    compare, entries = params["compare"], models | finetuned | students
    compare["plot"] = [name for name in compare["plot"] if name in entries] or [*models][:1]
    if "reference" in compare:
        compare["reference"] = next(iter(models))
    for search in params.get("search", {}).values():
        search["model"] = next(iter(models))
    compare["differences"] = {
        base: kept
        for base, others in compare.get("differences", {}).items()
        if (kept := [name for name in others if name in models]) and base in models
    }
    project.write_params(params, folder)
