"""A copy of the project in a repository of its own, run once on a tiny archive."""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from filelock import FileLock

from tagging.sources.audioset import sample
from tests.preloaded import preloaded_python
from tests.project import OWN, TASKS, Project, make_own_task, make_small

# Enough clips for every split, few enough that training takes no time; many of them short, so that
# clips of nine seconds can be split as well.
CLIPS = {"bal_train": 240, "eval": 200, "unbal_train": 40}
SHORT_PERCENT = 60


def shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder that all workers of a session share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the user's settings of git, DVC and AWS."""
    home = shared(tmp_path_factory, "home")
    home.mkdir(exist_ok=True)
    (home / ".gitconfig").write_text(
        "[user]\n\tname = A Tester\n\temail = tester@example.org\n[init]\n\tdefaultBranch = main\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_", "AWS_"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("DVC_SITE_CACHE_DIR", str(home / "dvc-site"))
        patch.setenv("DVC_GLOBAL_CONFIG_DIR", str(home / "dvc-global"))
        patch.setenv("DVC_SYSTEM_CONFIG_DIR", str(home / "dvc-system"))
        # The stages of a copy import its code many times.
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        # librosa's compilation takes longer than its use here.
        patch.setenv("NUMBA_OPT", "0")
        # Waiting threads sleep, so that other tests have the cores.
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        # Processes started here receive Ctrl-C, also if the tests run in the background.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        # `python` and `dvc` are of the environment that runs the tests.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session")
def python_folder(environment: None) -> Iterator[Path]:
    """The folder of the `python` that stages run with."""
    # Not pytest's folder: the path of a socket has at most a hundred characters.
    with TemporaryDirectory() as folder, preloaded_python(Path(folder)) as path:
        yield path


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny archive, in the tree of Google's bucket, and an ontology for its labels."""
    root = shared(tmp_path_factory, "mirror")
    with FileLock(f"{root}.lock"):
        if not root.exists():
            features = root / "youtube_corpus/v1/features/features.tar.gz"
            labels = root / "youtube_corpus/v1/csv/class_labels_indices.csv"
            for file in (features, labels):
                file.parent.mkdir(parents=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sample, "_SHORT_PERCENT", SHORT_PERCENT)
                content = sample.sample_archive(CLIPS)
            features.write_bytes(content)
            features.with_name(f"{features.name}.sha256").write_text(
                f"{hashlib.sha256(content).hexdigest()}  {features.name}\n"
            )
            labels.write_text(sample.labels_csv())
            ontology = root / "ontology/ontology.json"
            ontology.parent.mkdir()
            ontology.write_text(sample.ontology_json())
    return root


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """Return a folder that all workers share; the first of them calls `make` for it."""
    root = shared(tmp_path_factory, name)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            building = root.with_name(f"{name}-building")
            shutil.rmtree(building, ignore_errors=True)
            make(building)
            building.rename(root)
    return root


@pytest.fixture(scope="session")
def baseline(tmp_path_factory: pytest.TempPathFactory, mirror: Path, python_folder: Path) -> Path:
    """The root's pipeline after its first `dvc repro`, committed; read-only: copy it."""

    def make(building: Path) -> None:
        project = Project.of_sources(building, mirror, python_folder)
        make_small(project)
        project.commit()
        project.dvc("repro", "--quiet")
        project.commit()

    return made_once(tmp_path_factory, "baseline", make)


@pytest.fixture(scope="session")
def whole(
    tmp_path_factory: pytest.TempPathFactory, baseline: Path, mirror: Path, python_folder: Path
) -> Path:
    """The baseline with all tasks after their `dvc repro`, committed; read-only as well."""

    def make(building: Path) -> None:
        project = Project.copied(baseline, building, mirror, python_folder)
        project.add_sources(lambda name: name.startswith(("tasks/", "replication/")))
        make_own_task(project)
        folders = [*TASKS, OWN]
        for folder in folders:
            make_small(project, folder)
        project.commit()
        project.dvc("repro", "--quiet", *(f"{folder}/dvc.yaml" for folder in folders))
        project.commit()

    return made_once(tmp_path_factory, "whole", make)


@pytest.fixture
def project(baseline: Path, mirror: Path, python_folder: Path, tmp_path: Path) -> Project:
    """A copy of the baseline that a test may change."""
    return Project.copied(baseline, tmp_path / "project", mirror, python_folder)


@pytest.fixture
def all_tasks(whole: Path, mirror: Path, python_folder: Path, tmp_path: Path) -> Project:
    """A copy of the baseline with all tasks that a test may change."""
    return Project.copied(whole, tmp_path / "project", mirror, python_folder)
