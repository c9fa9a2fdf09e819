"""A `python` for the commands of stages, and a `dvc`, whose libraries are loaded already.

Most of the time of a tiny stage is the import of PyTorch. So a server imports the libraries once,
without the project's modules. The `python` made here, first in PATH, asks the server to fork, and
the fork runs `-m stages.<stage>` in the caller's folder with the caller's environment and streams.
`dvc` is `python -m dvc`.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIBRARIES = (
    "dulwich.repo", "dvc.cachemgr", "dvc.cli.parser", "dvc.data_cloud", "dvc.lock",
    "dvc.repo.artifacts", "dvc.repo.datasets", "dvc.repo.experiments", "dvc.repo.metrics",
    "dvc.repo.params", "dvc.repo.plots", "dvc.repo.reproduce", "dvc.repo.stage",
    "dvc.repo.status", "dvc.scm", "dvc.stage.cache", "dvc_data.index", "dvclive",
    "google.protobuf.message_factory", "google_crc32c", "h5py", "isal.igzip", "jinja2",
    "networkx", "numpy", "pandas", "pyarrow.compute", "pyarrow.parquet", "pydantic.fields",
    "pydantic.type_adapter", "pydantic.types", "pygit2", "requests", "ruamel.yaml",
    "safetensors.numpy", "safetensors.torch", "scipy.stats", "sklearn.metrics", "soundfile",
    "soxr", "torch._dynamo", "torchdata.nodes", "tqdm", "vl_convert", "yaml",
)  # fmt: skip

CLIENT = """\
#!{python} -SE
import json, os, socket, sys

if sys.argv[0].endswith("/dvc"):
    sys.argv[1:1] = ["-m", "dvc"]
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    call = {{"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    server.sendall(json.dumps(call).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16) or b"1"))
"""


@contextmanager
def preloaded_python(folder: Path) -> Iterator[Path]:
    """Yield a folder for PATH with these commands; their server runs until the context ends."""
    address = folder / "socket"
    client = folder / "bin/python"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    client.with_name("dvc").symlink_to(client)
    with subprocess.Popen(
        [sys.executable, "-P", __file__, address], stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout.readline() == b"ready\n"
            yield client.parent
        finally:
            server.terminate()


def command_of(module: str, python_folder: Path) -> list[str]:
    """Return a command that runs a module as `python -m` does; its own commands are preloaded."""
    code = f"import sys; sys.executable = sys.argv.pop(1); from {module} import main; main()"
    return [sys.executable, "-c", code, str(python_folder / "python")]


def serve(address: str) -> None:
    """Fork for every call; return in the forks, which are ready to run the call."""
    for name in LIBRARIES:
        __import__(name)
    gc.freeze()  # garbage collection in a fork would copy the memory of all libraries
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    call = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
    if worker := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        connection.sendall(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    connection.close()
    os.chdir(call["folder"])
    os.environ.clear()
    os.environ.update(call["environment"])
    sys.path.insert(0, call["folder"])
    sys.argv = call["arguments"]


def run_and_leave(module: str) -> None:
    """Run a module as `python -m` does, and exit without the cleanup of the libraries."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
    run_and_leave(sys.argv[0])
