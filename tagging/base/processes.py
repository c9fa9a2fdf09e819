"""Work side by side, each piece in a process of its own, and all ended as soon as one fails."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from tagging.base.errors import UserError
from tagging.base.progress import Progress


def cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_workers() -> int:
    """Return how many pieces of work run side by side: all cores, or what TAGGING_WORKERS says.

    `make repro` sets it: there the stages are what runs side by side.

    Raises:
        UserError: if that is no number.
    """
    given = os.environ.get("TAGGING_WORKERS") or str(cores())
    if not given.isdecimal() or not int(given):
        raise UserError(f"TAGGING_WORKERS is {given!r}; it takes a whole number of 1 or more")
    return int(given)


class ProgressProxy:
    """Progress that a process tells its parent, which has the bar."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def advance(self, amount: int = 1) -> None:
        """As `Progress.advance`."""
        self._connection.send(("advance", amount))

    def skip(self, amount: int) -> None:
        """As `Progress.skip`."""
        self._connection.send(("skip", amount))

    def say(self, line: str) -> None:
        """As `Progress.say`."""
        self._connection.send(("say", line))


def run_parallel(
    work: Callable[[Any, Progress | ProgressProxy], Any],
    pieces: Sequence[Any],
    progress: Progress,
    processes: int | None = None,
) -> list[Any]:
    """Return `work(piece, progress)` of all pieces, in their order.

    One piece, or one process, is worked on here. Other processes are spawned, not forked: threads
    and locks of this one stay here. They end with it, at the latest when they next tell of
    progress.

    Args:
        work: a function of a module.
        pieces: what it is called with; what they and results hold can be pickled.
        progress: told of what is done.
        processes: how many run at a time; None for `num_workers()`.

    Raises:
        UserError: what a piece raised, or that its process died. The others are ended.
        OSError: likewise.
    """
    processes = min(len(pieces), processes or num_workers())
    if processes <= 1:
        return [work(piece, progress) for piece in pieces]
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(pieces))
    running: dict[Connection, tuple[int, multiprocessing.process.BaseProcess]] = {}
    results: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                place, piece = waiting.pop(0)
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(work, piece, there), daemon=True)
                process.start()
                there.close()  # so that the end of the process is the end of what comes
                running[here] = place, process
            for connection in wait(list(running)):
                place, process = running[connection]
                try:
                    kind, value = connection.recv()
                except EOFError:
                    process.join()
                    raise UserError(
                        f"one of {len(pieces)} processes side by side died with exit code "
                        f"{process.exitcode}, perhaps because memory ran out; what was done is "
                        "kept: run again"
                    ) from None
                if kind == "error":
                    raise value
                if kind == "result":
                    results[place] = value
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
    return [results[place] for place in range(len(pieces))]


def _run(work: Callable, piece: Any, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the others
    try:
        try:
            answer = ("result", work(piece, ProgressProxy(connection)))
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            answer = ("error", error)
        connection.send(answer)
    except BrokenPipeError:
        sys.exit(1)  # the parent is gone: nobody is there to be told
