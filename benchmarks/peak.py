"""Time and peak memory of a command, as the operating system counts them.

This file runs as a small process between the caller and the command: a process begins with the size
of the one that starts it.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """The wall-clock seconds of a command and the most bytes it held in memory."""

    seconds: float
    peak_bytes: int


def measure_command(command: list[str], folder: Path, environment: dict[str, str]) -> Usage:
    """Run a command in a folder; what it prints goes to stderr.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    # Neither site-packages nor the caller's paths: Python alone is small.
    small = [sys.executable, "-I", "-S", __file__, *command]
    done = subprocess.run(
        small, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return Usage(**json.loads(done.stdout))


if __name__ == "__main__":
    begin = time.perf_counter()
    code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
    seconds = time.perf_counter() - begin
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
    sys.exit(code)
