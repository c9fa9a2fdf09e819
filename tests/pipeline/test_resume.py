"""A training killed at any moment resumes after its last complete epoch, to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tagging.learning import checkpoint
from tagging.learning.checkpoint import Checkpoint, checkpoint_path, file_digest, training_hash
from tests.project import OUTPUTS, ROOT, Project, all_results

MODEL = "attention"  # with dropout: its random numbers are drawn anew in every epoch
EPOCHS = 60
RESUMED = "resumed after epoch "


# The name of a checkpoint depends on all that decides a result, and on nothing else.


def test_a_checkpoint_s_name_depends_on_all_that_decides_a_result(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "checkpoints"

    def path_of(name: str, lr: int) -> Path:
        return checkpoint_path(folder, name, {"lr": lr}, [file_digest(data)])

    data.write_text("one")
    first = path_of("a", 1)
    Checkpoint(first).save({}, {}, {})
    assert path_of("a", 1) == first
    assert path_of("b", 1) != first
    assert first.exists()
    data.write_text("three")
    assert path_of("a", 1) != first
    assert not first.exists()  # it is of no more use
    data.write_text("one")
    assert path_of("a", 2) != first


def test_the_code_counts_also_below_the_interpreters_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = training_hash({}, [])
    monkeypatch.setattr(sys, "prefix", str(ROOT))
    assert training_hash({}, []) == before
    file = tmp_path / "stages/train.py"
    file.parent.mkdir()
    monkeypatch.setattr(checkpoint, "CODE", [file.parent])
    monkeypatch.setattr(checkpoint, "__file__", str(file))
    hashes = set()
    for text in ("one", "two"):
        file.write_text(text)
        hashes.add(training_hash({}, []))
    assert len(hashes) == 2


def save_example(folder: Path) -> Checkpoint:
    """Save a state of two epochs, both of which are saved epochs."""
    saved = Checkpoint(folder)
    for epoch in (1, 2):
        saved_epochs = {k: {"w": torch.full((3,), float(k))} for k in range(1, epoch + 1)}
        saved.save({"weights": torch.ones(3)}, {"epoch": epoch}, saved_epochs)
    return saved


def test_a_checkpoint_writes_the_weights_of_an_epoch_once(tmp_path: Path) -> None:
    assert Checkpoint(tmp_path / "x").load() is None
    saved = save_example(tmp_path / "x")
    tensors, record, saved_epochs = Checkpoint(tmp_path / "x").load()
    assert tensors["weights"].tolist() == [1, 1, 1]
    assert record == {"epoch": 2}
    assert {epoch: values["w"].tolist() for epoch, values in saved_epochs.items()} == {
        1: [1] * 3, 2: [2] * 3,
    }  # fmt: skip
    epoch_file = tmp_path / "x/epoch1.safetensors"
    epoch_file.unlink()
    saved.save({}, {}, {1: {}, 2: {}})
    assert not epoch_file.exists()
    resumed = Checkpoint(tmp_path / "y", read_only=True)
    resumed.save({}, {}, {1: {}})
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("name", ["state", "epoch1"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        None,
    ],
    ids=["flipped", "cut", "empty", "missing"],
)
def test_a_damaged_checkpoint_is_not_used(tmp_path: Path, damage, name: str) -> None:
    save_example(tmp_path)
    file = tmp_path / f"{name}.safetensors"
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    assert Checkpoint(tmp_path).load() is None


# A training that is killed


def results(project: Project) -> dict[str, bytes]:
    """Return the bytes of a training's outputs, except for its seconds."""
    return {
        str(file.relative_to(project.root)): file.read_bytes()
        for folder in (f"models/{MODEL}", f"plots/train/{MODEL}")
        for file in (project.root / folder).rglob("*")
        if file.is_file() and file.name != "timing.json"
    }


def states(project: Project) -> list[Path]:
    return sorted((project.root / ".resume").glob(f"{MODEL}-seed0-*/state.safetensors"))


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


def test_a_killed_training_resumes_to_the_same_bytes(
    killed: Project, uninterrupted: Project
) -> None:
    killed.append("tagging/base/progress.py", "# Code on which no result depends.\n")
    output = killed.dvc("repro", f"train@{MODEL}")
    assert RESUMED in output
    assert results(killed) == results(uninterrupted)
    # All epochs are logged, those before the interruption too.
    curve = killed.root / f"plots/train/{MODEL}/seed0/plots/metrics/val/ndcg.tsv"
    assert len(curve.read_text().splitlines()) == EPOCHS + 1
    assert killed.repro(f"train@{MODEL}") == set()
    # DVC may be killed before it records the outputs: the finished state stays for that.
    assert len(states(killed)) == 1
    killed.run("python", "-m", "stages.train", ".", MODEL)
    assert results(killed) == results(uninterrupted)


def test_a_state_is_not_used_after_a_change_of_code(killed: Project) -> None:
    killed.append("tagging/learning/losses.py", "# A comment.\n")
    output = killed.dvc("repro", f"train@{MODEL}")
    assert RESUMED not in output
    assert f"epoch 1/{EPOCHS}" in output


# A second run


OTHER_PROGRESS = '''
from typing import Any

ProgressStyle = Any


class Progress:
    """Shows nothing."""

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
    """No result depends on tagging/base, which is in no stage's deps, or on parallel runs."""
    second = Project.copied(baseline, tmp_path / "project", mirror, python_folder)
    for folder in (*OUTPUTS, ".resume", ".dvc/cache"):
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
    assert output.count("begins") >= len(list((second.root / "plots/train").glob("*/timing.json")))
    expected = all_results(baseline)
    assert {"data/clips.safetensors", "models/yac/seed1.safetensors"} <= set(expected)
    assert all_results(second.root) == expected
