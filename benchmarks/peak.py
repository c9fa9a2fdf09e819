"""Time and peak memory of a command, as the operating system counts them.

This file runs as a small process between the caller and the command, as the peak memory of a
process is at least that of the process that starts it.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """The wall-clock seconds of a command and its peak memory in bytes."""

    seconds: float
    peak_bytes: int


def measure_command(command: list[str], folder: Path, environment: dict[str, str]) -> Usage:
    """Run a command in a folder; its output goes to stderr.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    # Python is small without site-packages and the paths of the caller.
    wrapped = [sys.executable, "-I", "-S", __file__, *command]
    done = subprocess.run(
        wrapped, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, text=True
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
