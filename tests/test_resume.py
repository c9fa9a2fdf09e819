"""A training killed at any moment goes on where its last epoch ended, to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import ROOT, Project, make_small

MODEL = "attention"  # with dropout: its random numbers are drawn anew in every epoch
EPOCHS = 60
RESUMED = "resumed after epoch "


def results(project: Project) -> dict[str, bytes]:
    """Return the bytes of what a training gives, its seconds apart."""
    files = [
        project.root / f"models/{MODEL}.safetensors",
        *(file for file in (project.root / f"plots/train/{MODEL}").rglob("*") if file.is_file()),
    ]
    return {str(file.relative_to(project.root)): file.read_bytes() for file in files}


def all_results(project: Project) -> dict[str, bytes]:
    """Return the bytes of all outputs, seconds of training apart."""
    files = [
        file
        for folder in ("data", "models", "metrics", "plots", "leaderboard")
        for file in (project.root / folder).rglob("*")
        if file.is_file()
        and "timing" not in file.parts
        and file.name not in ("README.md", "cost.csv")
    ]
    return {str(file.relative_to(project.root)): file.read_bytes() for file in files}


def states(project: Project) -> list[Path]:
    return sorted((project.root / ".resume").glob(f"{MODEL}-*.safetensors"))


@pytest.fixture(scope="module")
def unfinished(
    baseline: Path, mirror: Path, python_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project whose `dvc repro` was killed, with all its processes, in the middle of training."""
    # The real interpreter: a server's fork would not die with the group.
    real = Path(sys.executable).parent
    root = tmp_path_factory.mktemp("unfinished") / "project"
    project = Project.copied(baseline, root, mirror, real)
    shutil.rmtree(root / ".resume")
    params = project.params()
    params["models"][MODEL]["train"]["epochs"] = EPOCHS
    project.write_params(params)
    with subprocess.Popen(
        ["dvc", "repro", f"train@{MODEL}"],
        cwd=root,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        while not states(project):
            assert running.poll() is None, "the training ended before it could be killed"
            time.sleep(0.002)
        os.killpg(running.pid, signal.SIGKILL)
    assert len(states(project)) == 1
    return Project(root, mirror, python_folder)


@pytest.fixture(scope="module")
def uninterrupted(unfinished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same training from its start to its end."""
    root = tmp_path_factory.mktemp("uninterrupted") / "project"
    project = Project.copied(unfinished.root, root, unfinished.mirror, unfinished.python_folder)
    shutil.rmtree(root / ".resume")
    assert RESUMED not in project.dvc("repro", f"train@{MODEL}")
    return project


@pytest.fixture
def killed(unfinished: Project, tmp_path: Path) -> Project:
    """A copy of the killed project."""
    return Project.copied(
        unfinished.root, tmp_path / "project", unfinished.mirror, unfinished.python_folder
    )


def test_goes_on_to_the_same_bytes(killed: Project, uninterrupted: Project) -> None:
    output = killed.dvc("repro", f"train@{MODEL}")
    assert RESUMED in output
    assert results(killed) == results(uninterrupted)
    # All epochs are logged, those before the interruption too.
    curve = killed.root / f"plots/train/{MODEL}/plots/metrics/val/ndcg.tsv"
    assert len(curve.read_text().splitlines()) == EPOCHS + 1
    assert killed.repro(f"train@{MODEL}") == set()
    # DVC may be killed before it records the outputs: the finished state is there for that.
    assert len(states(killed)) == 1
    killed.run("python", "-m", "stages.train", MODEL)
    assert results(killed) == results(uninterrupted)


def change_shared_parameter(project: Project) -> None:
    params = project.params()
    params["train"]["weight_decay"] = 0.01
    project.write_params(params)


def change_own_parameter(project: Project) -> None:
    params = project.params()
    params["models"][MODEL]["network"]["dropout"] = 0.1
    project.write_params(params)


def change_data(project: Project) -> None:
    params = project.params()
    params["prepare"]["seed"] = 1
    project.write_params(params)


def change_loss_code(project: Project) -> None:
    file = project.root / "tagging/losses.py"
    file.write_text(f"{file.read_text()}# A comment.\n")


def change_architecture_code(project: Project) -> None:
    file = project.root / "tagging/architectures/attention.py"
    file.write_text(f"{file.read_text()}# A comment.\n")


@pytest.mark.parametrize(
    "change",
    [
        change_shared_parameter,
        change_own_parameter,
        change_data,
        change_loss_code,
        change_architecture_code,
    ],
)
def test_old_state_is_not_taken_after_a_change(
    killed: Project, change: Callable[[Project], None]
) -> None:
    change(killed)
    output = killed.dvc("repro", f"train@{MODEL}")
    assert RESUMED not in output
    assert f"epoch 1/{EPOCHS}" in output


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [flip, lambda content: content[: len(content) // 2], lambda content: b""],
    ids=["flipped", "cut", "empty"],
)
def test_damaged_state_is_not_taken(
    killed: Project, uninterrupted: Project, damage: Callable[[bytes], bytes]
) -> None:
    (state,) = states(killed)
    state.write_bytes(damage(state.read_bytes()))
    output = killed.dvc("repro", f"train@{MODEL}")
    assert RESUMED not in output
    assert results(killed) == results(uninterrupted)


def test_second_run_from_scratch_gives_the_same_bytes(
    baseline: Path,
    mirror: Path,
    python_folder: Path,
    tmp_path: Path,
) -> None:
    first = Project(baseline, mirror, python_folder)
    second = Project.of_sources(ROOT, tmp_path / "project", mirror, python_folder)
    make_small(second)
    second.commit()
    second.dvc("repro")
    expected = all_results(first)
    assert {"data/prepared/test.safetensors", "metrics/yac.json"} <= set(expected)
    assert all_results(second) == expected
