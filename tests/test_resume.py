"""A training killed at any moment goes on where its last epoch ended, to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tagging.learning import resume
from tests.project import ROOT, Project

MODEL = "attention"  # with dropout: its random numbers are drawn anew in every epoch
EPOCHS = 60
RESUMED = "resumed after epoch "


# What decides a result, and nothing else, tells states apart.


def test_all_that_decides_a_result_is_part_of_a_states_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.write_text("one")
    first = resume.state_path("a", {"lr": 1}, [data])
    resume.save_state(first, {}, {})
    assert resume.state_path("a", {"lr": 1}, [data]) == first
    assert resume.state_path("b", {"lr": 1}, [data]) != first
    assert first.exists()
    data.write_text("two")
    assert resume.state_path("a", {"lr": 1}, [data]) != first
    assert not first.exists()  # it is of no use to anybody
    data.write_text("one")
    assert resume.state_path("a", {"lr": 2}, [data]) != first


def test_the_code_counts_also_below_the_interpreters_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resume.identity({}, [])
    monkeypatch.setattr(sys, "prefix", str(ROOT))
    assert resume.identity({}, []) == before
    file = tmp_path / "stages/train.py"
    file.parent.mkdir()
    monkeypatch.setattr(resume, "CODE", [file.parent])
    monkeypatch.setattr(resume, "__file__", str(file))
    found = set()
    for text in ("one", "two"):
        file.write_text(text)
        found.add(resume.identity({}, []))
    assert len(found) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
    ],
    ids=["flipped", "cut", "empty"],
)
def test_a_damaged_state_is_not_taken(tmp_path: Path, damage) -> None:
    state = tmp_path / "state"
    assert resume.load_state(state) is None
    resume.save_state(state, {"weights": torch.ones(3)}, {"epoch": 2})
    tensors, record = resume.load_state(state)
    assert tensors["weights"].tolist() == [1, 1, 1]
    assert record == {"epoch": 2}
    state.write_bytes(damage(state.read_bytes()))
    assert resume.load_state(state) is None


# A training that is killed.


def results(project: Project) -> dict[str, bytes]:
    """Return the bytes of what a training gives, its seconds apart."""
    return {
        str(file.relative_to(project.root)): file.read_bytes()
        for folder in (f"models/{MODEL}", f"plots/train/{MODEL}")
        for file in (project.root / folder).rglob("*")
        if file.is_file()
    }


def states(project: Project) -> list[Path]:
    return sorted((project.root / ".resume").glob(f"{MODEL}-seed0-*.safetensors"))


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
    project.change(f"models.{MODEL}.train.epochs", EPOCHS)
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
    killed.append("tagging/base/progress.py", "# Code that decides no byte.\n")
    output = killed.dvc("repro", f"train@{MODEL}")
    assert RESUMED in output
    assert results(killed) == results(uninterrupted)
    # All epochs are logged, those before the interruption too.
    curve = killed.root / f"plots/train/{MODEL}/seed0/plots/metrics/val/ndcg.tsv"
    assert len(curve.read_text().splitlines()) == EPOCHS + 1
    assert killed.repro(f"train@{MODEL}") == set()
    # DVC may be killed before it records the outputs: the finished state is there for that.
    assert len(states(killed)) == 1
    killed.run("python", "-m", "stages.train", MODEL)
    assert results(killed) == results(uninterrupted)


def test_the_old_state_is_not_taken_after_a_change_of_code(killed: Project) -> None:
    killed.append("tagging/learning/losses.py", "# A comment.\n")
    output = killed.dvc("repro", f"train@{MODEL}")
    assert RESUMED not in output
    assert f"epoch 1/{EPOCHS}" in output


# A second run.


def all_results(root: Path) -> dict[str, bytes]:
    """Return the bytes of all outputs, seconds of training apart."""
    return {
        str(file.relative_to(root)): file.read_bytes()
        for folder in ("data", "models", "metrics", "plots", "leaderboard")
        for file in (root / folder).rglob("*")
        if file.is_file()
        and "timing" not in file.parts
        and file.name not in ("README.md", "cost.csv", ".gitignore")
    }


OTHER_PROGRESS = '''
class Progress:
    """Tells nothing."""

    def __init__(self, *arguments, **keywords):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def advance(self, amount=1):
        pass

    skip = say = advance
'''


def test_a_second_run_side_by_side_with_another_base_gives_the_same_bytes(
    baseline: Path, mirror: Path, tmp_path: Path, python_folder: Path
) -> None:
    """No byte comes from tagging/base, which is in no stage's deps, nor from what runs at once."""
    second = Project.copied(baseline, tmp_path / "project", mirror, python_folder)
    for folder in ("data", "models", "metrics", "plots", "leaderboard", ".resume", ".dvc/cache"):
        shutil.rmtree(second.root / folder, ignore_errors=True)
    for lock in second.root.rglob("dvc.lock"):
        lock.unlink()
    base = second.root / "tagging/base"
    (base / "progress.py").write_text(OTHER_PROGRESS)
    files = (base / "files.py").read_text()
    assert "}.partial" in files and "0o666" in files
    (base / "files.py").write_text(files.replace("}.partial", "}.part").replace("0o666", "0o600"))
    errors = (base / "errors.py").read_text()
    (base / "errors.py").write_text(
        errors.replace("        try:\n", "        print('begins')\n        try:\n")
    )
    output = second.dvc("repro", TAGGING_WORKERS="2")
    assert output.count("begins") >= len(list((second.root / "metrics/timing").iterdir()))
    expected = all_results(baseline)
    assert {"data/clips.safetensors", "models/yac/seed1.safetensors"} <= set(expected)
    assert all_results(second.root) == expected
