"""Implementations that run in processes of their own, each working only when it is asked to.

`Worker` starts a process and sends it requests; `Channel` is the other end, in that process. They
exchange lines of JSON. A process reports that it is ready before its first request, so that no
measured time includes its start. Only the standard library is imported, as the processes may run in
other environments.
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


class Channel:
    """The end in the worker's process. Everything else that the process prints goes to stderr."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def send(self, **message: Any) -> None:
        """Send a message: the first says that the worker is ready, others are results."""
        print(json.dumps(message), file=self._out, flush=True)

    def wait(self) -> bool:
        """Wait for a request; return False if there are no more."""
        return bool(sys.stdin.readline())


class WorkerError(Exception):
    """A worker does not start, or ended early; the text says which and why."""


class Worker:
    """A process that answers requests.

    Attributes:
        ready: its first message.

    Args:
        module: run as `python -m <module> <arguments>`.
        arguments: command-line arguments.
        python: the interpreter, which may be that of another environment.
        folder: the working directory.
        environment: replaces variables of this process's environment.

    Raises:
        WorkerError: if it ends before it is ready.
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
        self._errors = TemporaryFile()  # noqa: SIM115 -- closed with the process
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
            raise WorkerError(f"{module}: {python} does not exist") from None
        try:
            self.ready = self.receive()
        except WorkerError:
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

    def send_request(self) -> None:
        """Ask the worker to work once."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the next message of the worker.

        Raises:
            WorkerError: if the process ends without one.
        """
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        printed = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        raise WorkerError(
            f"{self._module}: {printed[-1] if printed else 'ended without a message'}"
        )

    def run(self) -> dict[str, Any]:
        """Ask the worker to work once and return its result."""
        self.send_request()
        return self.receive()
