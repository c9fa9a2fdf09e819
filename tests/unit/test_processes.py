"""Parallel work: results are in order, and the first failure ends all of it."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tagging.base import processes
from tagging.base.errors import UserError
from tagging.base.processes import cores, num_workers, run_parallel
from tagging.base.progress import Progress


class RecordedProgress:
    """Progress that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def __getattr__(self, kind: str):
        return lambda value=1: self.calls.append((kind, value))


def work(piece: str, progress: Progress) -> str:
    """Do what the name of the piece says."""
    progress.advance(2)
    progress.say(piece)
    if piece == "refuse":
        raise UserError("this is refused")
    if piece == "full disk":
        raise OSError(28, "No space left on device", "a file")
    if piece == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == "for ever":
        threading.Event().wait()
    return f"{piece} {os.getpid()}"


def report_for_ever(file: str, progress: Progress) -> None:
    Path(file).write_text(str(os.getpid()))
    while True:
        progress.advance()
        time.sleep(0.01)


def parent(file: str) -> None:
    run_parallel(report_for_ever, [file, f"{file}2"], RecordedProgress(), 2)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_in_the_order_of_the_pieces(processes: int) -> None:
    progress = RecordedProgress()
    names = ["one", "two", "three"]
    results = [result.split() for result in run_parallel(work, names, progress, processes)]
    assert [name for name, _ in results] == names
    assert (str(os.getpid()) in {process for _, process in results}) == (processes == 1)
    calls = sorted(progress.calls, key=str)
    assert calls == sorted([("advance", 2)] * 3 + [("say", name) for name in names], key=str)


def test_one_piece_needs_no_process() -> None:
    assert run_parallel(work, ["one"], RecordedProgress(), 8) == [f"one {os.getpid()}"]
    assert run_parallel(work, [], RecordedProgress(), 2) == []


@pytest.mark.parametrize(
    ("failing", "error", "sentence"),
    [
        ("refuse", UserError, "this is refused"),
        ("full disk", OSError, "No space left on device: 'a file'"),
        ("die", UserError, "one of 2 parallel processes died with exit code -9, .*: run again"),
    ],
)
def test_one_failure_ends_all(failing: str, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        run_parallel(work, ["for ever", failing], RecordedProgress(), 2)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_pieces_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    files = [tmp_path / "process", tmp_path / "process2"]
    running = multiprocessing.get_context("spawn").Process(target=parent, args=(str(files[0]),))
    running.start()
    while not all(file.exists() and file.read_text() for file in files):
        assert running.is_alive()
        time.sleep(0.01)
    pieces = [int(file.read_text()) for file in files]
    assert all(map(is_running, pieces))
    running.kill()
    running.join()
    while any(map(is_running, pieces)):
        time.sleep(0.01)


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAGGING_WORKERS", "3")
    assert num_workers() == 3
    for wrong in ("many", "0", "-1"):
        monkeypatch.setenv("TAGGING_WORKERS", wrong)
        with pytest.raises(
            UserError, match=f"TAGGING_WORKERS must be a whole number .*, got '{wrong}'"
        ):
            num_workers()
    monkeypatch.setenv("TAGGING_WORKERS", "")
    assert num_workers() == cores()


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, 64),
        # Version 2: a container's root, limits of a group above, fractions, no limit.
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 2),
        ("0::/a", {"a/cpu.max": "20000 100000"}, 1),
        ("0::/a", {"a/cpu.max": "max 100000"}, 64),
        ("0::/a", {"a/cpu.max": "9900000 100000"}, 64),
        ("0::/a", {"a/cpu.max": ""}, 64),
        # The host's path, which the container does not see.
        ("0::/docker/3f5a", {"cpu.max": "300000 100000"}, 3),
        # Version 1, alone and beside version 2.
        (
            "5:memory:/m\n4:cpu,cpuacct:/a\n",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "400000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            "4:cpuacct,cpu:/a\n0::/",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "50000\n"},
            5,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("1:cpuset:/a", {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "1"}, 64),
    ],
)
def test_a_cpu_quota_limits_the_workers(
    groups: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.delenv("TAGGING_WORKERS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    monkeypatch.setattr(processes, "_PROCESS_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(processes, "_CGROUPS", tmp_path / "mounted")
    if groups:
        (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert num_workers() == expected
