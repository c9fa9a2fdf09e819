"""Tasks side by side, each in a process of its own, and all ended as soon as one fails."""

import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from tagging.errors import UserError


def run_all(
    work: Callable[[Any, Callable[[], None]], Any],
    tasks: Sequence[Any],
    processes: int,
    on_step: Callable[[], None],
) -> list[Any]:
    """Return `work(task, tell)` of all tasks, in their order.

    Processes are spawned, not forked: threads and locks of this one stay here. They end with it,
    at the latest when they next call `tell`.

    Args:
        work: a function of a module; it calls `tell` after each step.
        tasks: what it is called with; what they and results hold can be pickled.
        processes: how many run at a time.
        on_step: called here for each step told of.

    Raises:
        UserError: what a task raised, or that its process died. The others are ended.
        OSError: likewise.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(enumerate(tasks))
    running: dict[Connection, tuple[int, multiprocessing.process.BaseProcess]] = {}
    results: dict[int, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                place, task = waiting.pop(0)
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(work, task, there), daemon=True)
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
                        f"the process of {tasks[place]} died with exit code {process.exitcode}; "
                        "what its epochs gave is kept: run again"
                    ) from None
                if kind == "step":
                    on_step()
                elif kind == "error":
                    raise value
                else:
                    results[place] = value
                    process.join()
                    del running[connection]
                    connection.close()
    finally:
        for _, process in running.values():
            process.kill()
        for connection, (_, process) in running.items():
            process.join()
            connection.close()
    return [results[place] for place in range(len(tasks))]


def _run(work: Callable, task: Any, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the others
    try:
        try:
            answer = ("result", work(task, lambda: connection.send(("step", None))))
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            answer = ("error", error)
        connection.send(answer)
    except BrokenPipeError:
        sys.exit(1)  # the parent is gone: nobody is there to be told
