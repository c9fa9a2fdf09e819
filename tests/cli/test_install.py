"""What pip installs: the wheel, its requirements, and what the commands import."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.project import project_files
from tests.small_models import RATE, noise, sound_model
from tools.requirements import FILES, ROOT, render_requirements

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PIN = re.compile(r"(?m)^([\w.-]+)(?:\[[\w,]+\])?==(\S+)$")
# Runs the command with packages of the wheel's requirements alone: others cannot be imported.
RESTRICTED = """
import sys
from importlib.machinery import PathFinder
from importlib.metadata import packages_distributions, requires
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

allowed, todo = set(), [Requirement(line) for line in {requirements}]
while todo:
    requirement = todo.pop()
    name = canonicalize_name(requirement.name)
    extras = requirement.extras or {{""}}
    if (name, *extras) in allowed:
        continue
    allowed |= {{name, (name, *extras)}}
    for line in requires(name) or []:
        needed = Requirement(line)
        if needed.marker is None or any(
            needed.marker.evaluate({{"extra": extra}}) for extra in extras
        ):
            todo.append(needed)
installed = packages_distributions()


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owners = {{canonicalize_name(owner) for owner in installed.get(name, ())}} - {{"tagging"}}
        if "." not in name and owners and not owners & allowed:
            return None
        return super().find_spec(name, path, target)


sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
from tagging.commands.main import main

main()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the files that git would commit."""
    copy = tmp_path_factory.mktemp("copy")
    for name in project_files():
        if "/" not in name or name.startswith(("stages/", "tagging/", "tools/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build, str(target)],
        cwd=copy, check=True, capture_output=True,
    )  # fmt: skip
    (path,) = target.iterdir()
    return path


def test_requirements_are_those_of_pyproject() -> None:
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
    pins = dict(pin for text in texts.values() for pin in PIN.findall(text))
    assert texts == render_requirements(PROJECT, pins.__getitem__)
    project = tomllib.loads(PROJECT)["project"]
    extras = project["optional-dependencies"]
    for lists in FILES.values():
        for name in lists:
            for line in project["dependencies"] if name == "dependencies" else extras[name]:
                requirement = Requirement(line)
                assert requirement.specifier.contains(pins[requirement.name]), line


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        required = file.read("tagging-1.0.dist-info/METADATA").decode()
    metadata = {name for name in names if name.startswith("tagging-1.0.dist-info/")}
    ours = {name for name in project_files() if name.startswith("tagging/")}
    assert set(names) - metadata == ours
    suffixes = {Path(name).suffix for name in ours}
    assert suffixes == {".py", ".csv", ".html", ".jinja", ".safetensors"}
    assert wheel.stat().st_size < 1_000_000
    requirements = re.findall(r"(?m)^Requires-Dist: ([^;\n]+)$", required)
    listed = tomllib.loads(PROJECT)["project"]["dependencies"]
    assert {canonicalize_name(Requirement(line).name) for line in requirements} == {
        canonicalize_name(Requirement(line).name) for line in listed
    }


def run_restricted(wheel: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the wheel's command in a folder, with the packages that the wheel requires."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "installed")
    listed = tomllib.loads(PROJECT)["project"]["dependencies"]
    program = f"import sys; sys.path[:1] = [{str(folder / 'installed')!r}]\n"
    program += RESTRICTED.format(requirements=listed)
    return subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip


def test_the_wheel_tags_with_its_requirements_alone(wheel: Path, tmp_path: Path) -> None:
    sound_model(tmp_path / "ears.safetensors")
    soundfile.write(tmp_path / "song.mp3", noise(2), RATE)
    arguments = ("--model", "ears.safetensors", "--top", "1", "--report", "a.html")
    done = run_restricted(wheel, tmp_path, "tag", "song.mp3", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("song.mp3: 0:02, 2 windows of 1 s, by ears\n  label 5")
    assert (tmp_path / "a.html").is_file()
    done = run_restricted(wheel, tmp_path, "export", "ears.safetensors", "--hf-dir", "hub")
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("README.md", "config.json", "model.safetensors"):
        assert (tmp_path / "hub" / name).is_file()
    done = run_restricted(wheel, tmp_path, "tag", "song.mp3", "--model", "hf:user/model")
    assert done.returncode == 1
    assert (
        done.stderr == "error: huggingface_hub is not installed; run pip install huggingface_hub\n"
    )
    # DVC is not installed: a project's models are those that are checked out.
    (tmp_path / ".dvc").mkdir()
    done = run_restricted(wheel, tmp_path, "tag", "song.mp3", "--model", "no_such_model")
    assert done.returncode == 1
    assert "model 'no_such_model' does not exist" in done.stderr and "DVC" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_package_and_help_load_no_library() -> None:
    program = (
        "import sys; import tagging, tagging.commands.main as command\n"
        "command.build_parser().format_help()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    modules = set(done.stdout.split()) - {"tagging"}
    assert {name for name in modules if not name.startswith("_")} <= sys.stdlib_module_names
