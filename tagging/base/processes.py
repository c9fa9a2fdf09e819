"""Run pieces of work in parallel, each in a process of its own; the first failure ends them all.

`concurrent.futures.ProcessPoolExecutor` cannot end the running siblings of a piece that failed
before Python 3.14, and passes no progress on.
"""

import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tagging.base.errors import UserError
from tagging.base.progress import Progress

_PROCESS_CGROUPS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return the number of cores this process may use, at most the CPU quota of its cgroups.

    `docker --cpus 2` sets a quota and leaves all cores visible.
    """
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    return max(1, math.ceil(min([available, *_cpu_quotas()])))


def _cpu_quotas() -> Iterator[float]:
    """Yield the CPU quotas (cores) of this process's cgroups and of the cgroups above them."""
    try:
        lines = _PROCESS_CGROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        # 0::/user.slice of version 2; 4:cpu,cpuacct:/docker/3f5a of version 1
        _, controllers, group = line.split(":", 2)
        if not controllers:
            mounts = [_CGROUPS, _CGROUPS / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [_CGROUPS / "cpu", _CGROUPS / controllers]
        else:
            continue
        # In a container the path may be the host's, of which only the root is mounted.
        path = Path(group.lstrip("/"))
        for folder in {mount / part for mount in mounts for part in (path, *path.parents)}:
            quota = _read_quota(folder)
            if quota is not None:
                yield quota


def _read_quota(cgroup: Path) -> float | None:
    """Return the CPU quota of a cgroup (cores), or None if it has none."""
    try:
        if (cgroup / "cpu.max").exists():  # version 2: "200000 100000" or "max 100000"
            quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        else:  # version 1, -1 for no quota
            quota = (cgroup / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (cgroup / "cpu.cfs_period_us").read_text(encoding="ascii")
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def num_workers() -> int:
    """Return how many pieces of work run in parallel: TAGGING_WORKERS, by default all cores.

    `make repro` sets it, because there whole stages run in parallel.

    Raises:
        UserError: if it is not a number.
    """
    value = os.environ.get("TAGGING_WORKERS") or str(cores())
    if not value.isdecimal() or not int(value):
        raise UserError(f"TAGGING_WORKERS must be a whole number of 1 or more, got {value!r}")
    return int(value)


class ProgressProxy:
    """Progress of a process, sent to its parent, which shows the bar."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def advance(self, amount: int = 1) -> None:
        """Count as `Progress.advance` does."""
        self._connection.send(("advance", amount))

    def skip(self, amount: int) -> None:
        """Count as `Progress.skip` does."""
        self._connection.send(("skip", amount))

    def say(self, line: str) -> None:
        """Print as `Progress.say` does."""
        self._connection.send(("say", line))


def run_parallel(
    work: Callable[[Any, Progress | ProgressProxy], Any],
    pieces: Sequence[Any],
    progress: Progress,
    processes: int | None = None,
) -> list[Any]:
    """Return `work(piece, progress)` of all pieces, in their order.

    A single piece, or a single process, runs in this process. Other processes are spawned, not
    forked, so that they inherit no threads and locks. They end with this one, at the latest when
    they next report progress.

    Args:
        work: a module-level function.
        pieces: its arguments; they and the results must be picklable.
        progress: receives the progress of all pieces.
        processes: how many run at a time; None for `num_workers()`.

    Raises:
        UserError: raised by a piece, or because its process died. The others are ended.
        OSError: raised by a piece. The others are ended.
    """
    processes = min(len(pieces), processes or num_workers())
    if processes <= 1:
        return [work(piece, progress) for piece in pieces]
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(pieces))
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    results: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                position, piece = waiting.pop(0)
                receiver, sender = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_run, args=(work, piece, sender), daemon=True
                )
                process.start()
                sender.close()  # so that the receiver sees an end of file when the process ends
                running[receiver] = position, process
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                position, process = running[connection]
                try:
                    kind, value = connection.recv()
                except EOFError:
                    process.join()
                    raise UserError(
                        f"one of {len(pieces)} parallel processes died with exit code "
                        f"{process.exitcode}, perhaps because memory ran out; finished work is "
                        "kept: run again"
                    ) from None
                if kind == "error":
                    raise value
                if kind == "result":
                    results[position] = value
                    process.join()
                    del running[connection]
                    connection.close()
                else:
                    getattr(progress, kind)(value)
    finally:
        for _, process in running.values():
            process.kill()
        for connection, (_, process) in running.items():
            process.join()
            connection.close()
    return [results[position] for position in range(len(pieces))]


def _run(
    work: Callable[[Any, ProgressProxy], Any],
    piece: Any,
    connection: Connection,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the others
    try:
        message: tuple[str, Any]
        try:
            message = ("result", work(piece, ProgressProxy(connection)))
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            message = ("error", error)
        connection.send(message)
    except BrokenPipeError:
        sys.exit(1)  # the parent has ended
