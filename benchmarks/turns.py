"""Ways that run in processes of their own and work when it is their turn.

Both ends are here: `Worker` starts such a process and asks it; `Turns` is what the process has.
They speak in lines of JSON. A worker says that it is ready before its first turn, so that what it
takes to begin is in nobody's time. Only the standard library is used: other environments run this.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

ROOT = Path(__file__).parents[1]


class Turns:
    """The worker's end. What else the process prints goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def tell(self, **answer: Any) -> None:
        """Say that the worker is ready, the first time; later, what a turn gave."""
        print(json.dumps(answer), file=self._out, flush=True)

    def wait(self) -> bool:
        """Wait for the next turn; return whether there is one."""
        return bool(sys.stdin.readline())


class Failed(Exception):
    """A worker does not start, or ended before it should: the text says which and why."""


class Worker:
    """A process that works in turns, in a folder of its own choice.

    Attributes:
        ready: what it told when it was ready.

    Args:
        module: run as `python -m <module> <arguments>`.
        arguments: given to it.
        python: the interpreter, of another environment perhaps.
        folder: where it runs.
        environment: replaces variables of this process's environment.

    Raises:
        Failed: if it ends before it is ready.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        python: str = sys.executable,
        folder: Path = ROOT,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._module = module
        self._errors = TemporaryFile()  # noqa: SIM115 -- closed at the end, as the process
        try:
            self._process = subprocess.Popen(
                [python, "-m", module, *arguments],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
            )
        except FileNotFoundError:
            self._errors.close()
            raise Failed(f"{module}: its environment is not there") from None
        try:
            self.ready = self.answer()
        except Failed:
            self.__exit__()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def begin(self) -> None:
        """Give it a turn."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for what the turn gives.

        Raises:
            Failed: if it gives nothing.
        """
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        printed = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        raise Failed(f"{self._module}: {printed[-1] if printed else 'it ended without a word'}")

    def turn(self) -> dict[str, Any]:
        """Give it a turn and wait for what that gives."""
        self.begin()
        return self.answer()
