"""Tasks for processes of their own, which import next to nothing."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ablation.processes import run_all
from tagging.errors import UserError


def answer(task: str, tell: Callable[[], None]) -> str:
    """Do what the task's name says."""
    tell()
    if task == "refuse":
        raise UserError("this is refused")
    if task == "full disk":
        raise OSError(28, "No space left on device", "a file")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "for ever":
        threading.Event().wait()
    return task.upper()


def tell_for_ever(file: str, tell: Callable[[], None]) -> None:
    """Write the number of this process to a file, and tell of steps."""
    Path(file).write_text(str(os.getpid()))
    while True:
        tell()
        time.sleep(0.01)


def parent(file: str) -> None:
    """Be the parent of a process that tells for ever."""
    run_all(tell_for_ever, [file], 1, lambda: None)


def is_running(process: int) -> bool:
    """Tell whether a process is there and has not ended (Linux)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
