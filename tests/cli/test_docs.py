"""The documentation: its commands run on the generated sample, its pages are built in full."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

from tagging.sources.sounds import CLASSES, sample_files
from tests.conftest import made_once
from tests.project import ROOT, Project, make_small

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"(?ms)^```(bash|python)\n(.*?)^```$")
ENVIRONMENT = "makes an environment; tests/cli/test_makefile.py runs the target with a small one"
GOOGLE = "downloads 2.4 GB from Google"
# Commands that are not run here, as the pages show them, and why.
NOT_RUN = {
    "make run": "tests/cli/test_demo.py runs it",
    "make test": "runs this test",
    "make test-fast": "a part of make test",
    "make lint": "a part of make test",
    "make install && . .venv/bin/activate": ENVIRONMENT,
    "make install && . .venv/bin/activate && dvc repro": f"{ENVIRONMENT}; {GOOGLE}",
    "pre-commit install": "changes the hooks of git; tests/cli/test_workflows.py checks them",
    "pip install .": "tests/cli/test_install.py runs what it installs",
    "tagging export mn04_as --onnx out.onnx": "PyTorch's exporter needs half a minute; "
    "tests/cli/test_export.py runs it",
    "tagging export mn04_as --push user/model": "uploads; tests/cli/test_hub.py has a hub",
    "tagging tag waves.ogg --model hf:user/model": "a hub; tests/cli/test_hub.py has one",
    "torchrun --nproc-per-node=4 -m stages.train tasks/official ast": "four GPUs; "
    "tests/pipeline/test_distributed.py trains in two processes",
    "dvc exp run -S train.lr=0.001": "trains all models again; the next command trains one",
    "dvc exp run --queue -S train.lr=0.003,0.03 evaluate@yac": "tests/pipeline/test_experiments.py "
    "does",
    "dvc exp run --run-all": "tests/pipeline/test_experiments.py does",
    "dvc remote add --local -d team s3://bucket/audioset": "an S3 bucket; "
    "tests/pipeline/test_remotes.py has a server",
    "dvc get URL models/yac": "the URL of a remote; tests/pipeline/test_artifacts.py has one",
    "dvc artifacts get URL top-10": "the URL of a remote; tests/pipeline/test_artifacts.py has one",
}


class Command(NamedTuple):
    """A line of a block of commands without its comment, or a block of Python."""

    language: str
    text: str


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page in their order."""
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            yield Command(language, block)
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if text := re.sub(r"(^|\s+)#\s.*", "", line).strip():
                yield Command(language, " ".join(text.split()))


def runnable(page: Path) -> list[Command]:
    """Return the commands of a page that are run here; the last page that shows one runs it."""
    later = {other for name in PAGES[PAGES.index(page) + 1 :] for other in commands(name)}
    return [
        command
        for command in commands(page)
        if command.text not in NOT_RUN and command not in later
    ]


def add_sounds(folder: Path) -> None:
    """Write the recordings that the pages name; the folders of recordings/ have their labels."""
    files = sample_files()
    shutil.rmtree(folder / "recordings", ignore_errors=True)
    rows = [*csv.DictReader(io.StringIO(files["clips.csv"].decode()))]
    for row in rows[: len(rows) * 2 // len(CLASSES) : 2]:  # half of the clips of two classes
        path = folder / "recordings" / row["labels"] / Path(row["file"]).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[row["file"]])
    waveform, rate = soundfile.read(path)
    for name in ("new.wav", "waves.ogg", "song.mp3", "lecture.mp3"):
        soundfile.write(folder / name, waveform, rate)


@pytest.fixture(scope="module")
def project(
    whole: Path, mirror: Path, python_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """All tasks after their first run, on a branch of main, with recordings and an environment.

    The pages share it, as a reader goes from page to page in one clone.
    """
    root = tmp_path_factory.mktemp("docs") / "project"
    project = Project.copied(whole, root, mirror, python_folder)
    add_sounds(root)
    programs = root / ".venv/bin"  # make does not install into an environment with pip
    programs.mkdir(parents=True)
    for name in ("python", "dvc"):
        (programs / name).symlink_to(python_folder / name)
    for name in ("pip", "../.run", "../.test"):
        (programs / name).touch()
    (programs / "tagging").write_text('#!/bin/sh\nexec python -m tagging.commands.main "$@"\n')
    (programs / "tagging").chmod(0o755)
    project.git("switch", "--quiet", "--create", "branch")
    return project


@pytest.mark.parametrize(
    "page", [*filter(runnable, PAGES)], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_commands_of_a_page_run(page: Path, project: Project) -> None:
    variables = {
        "PATH": f"{project.root}/.venv/bin{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(project.root),  # else Python finds the package that is tested
        "XDG_CACHE_HOME": str(project.root.parent / "cache"),  # has the project's own mn04_as
    }
    for language, text in runnable(page):
        program = ("python", "-c") if language == "python" else ("bash", "-ec")
        project.run(*program, text, **variables)
        if text.startswith("tagging new"):
            make_small(project, Path("tasks", text.split()[2]))


def test_reasons_are_of_commands_that_are_shown() -> None:
    shown = {command.text for page in PAGES for command in commands(page)}
    assert NOT_RUN.keys() <= shown


def test_blocks_of_shells_are_all_bash() -> None:
    """A block with another name would not be run."""
    for page in PAGES:
        names = set(re.findall(r"(?m)^ *```(\w*)$", page.read_text(encoding="utf-8")))
        assert names <= {"", "bash", "python", "text", "yaml", "json"}, page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages: a broken link, an unknown page or a missing docstring ends the build."""

    def make(building: Path) -> None:
        built = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", building],
            cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
        assert built.returncode == 0, built.stderr

    return made_once(tmp_path_factory, "site", make)


def test_pages_need_no_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="?([^">\s]+)', text)
        loaded += re.findall(r'<link[^>]* rel="?(?:stylesheet|preconnect)"?[^>]*>', text)
        assert not [address for address in loaded if "//" in address], page
    assert (site / "search/search_index.js").is_file()


def test_references_are_made_from_the_code(site: Path) -> None:
    command_line = (site / "docs/reference/cli.html").read_text(encoding="utf-8")
    assert "--window SECONDS" in command_line and "check-vggish" in command_line
    python = (site / "docs/reference/python.html").read_text(encoding="utf-8")
    for text in ("tagging.load", "sample_rate", "forward_features", "triplets_per_anchor"):
        assert text in python
