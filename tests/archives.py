"""Small archives made by hand, valid and damaged, and stages run on them as a user runs them."""

import gzip
import importlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

from tagging.sources.audioset.records import FRAME_BYTES, Clip, write_clip

ROOT = Path(__file__).parents[1]
FOLDER = "audioset_v1_embeddings"


def clip(video_id: str = "abcdefghijk", labels: Sequence[int] = (0,), seconds: int = 10) -> Clip:
    """Return a clip whose embeddings are made of its id."""
    frames = (video_id.encode() * FRAME_BYTES)[: seconds * FRAME_BYTES]
    return Clip(video_id, 30.0, 30.0 + seconds, list(labels), frames)


def shard(*video_ids: str) -> bytes:
    return b"".join(write_clip(clip(video_id)) for video_id in video_ids)


def tar(members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    """Return a tar file; a member is a path or a header, and its content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as file:
        for member, content in members:
            header = tarfile.TarInfo(member) if isinstance(member, str) else member
            if header.isreg():
                header.size = len(content)
            file.addfile(header, io.BytesIO(content))
    return out.getvalue()


def write_archive(path: Path, subset: str = "eval", **shards: bytes) -> Path:
    """Write a features archive with the shards `name=content` in one subset."""
    members = [(f"{FOLDER}/{subset}/{name}.tfrecord", content) for name, content in shards.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(tar(members), 1, mtime=0))
    return path


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def http_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files on loopback, read-only; yield its URL."""
    handler = partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run_stage(
    root: Path,
    stage: str,
    *arguments: str,
    task: str = ".",
    before: Callable[[], None] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess:
    """Run `python -m stages.<stage> <task> <arguments>` in `root`, which gets a params.yaml."""
    return subprocess.run(
        stage_command(stage, task, *arguments),
        cwd=root,
        env=stage_environment(root) | environment,
        preexec_fn=before,
        capture_output=True,
        text=True,
        timeout=120,
    )


def call_stage(
    root: Path, stage: str, *arguments: str, task: str = "."
) -> subprocess.CompletedProcess:
    """Do what `run_stage` does in this process: it saves seconds of imports."""
    main = importlib.import_module(f"stages.{stage}").main
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        chdir(root), patch.dict(os.environ, stage_environment(root), clear=True),
        redirect_stdout(stdout), redirect_stderr(stderr),
    ):  # fmt: skip
        try:
            main(task, *arguments)
            code = 0
        except SystemExit as stop:
            print(stop.code, file=stderr)
            code = 1
    return subprocess.CompletedProcess([], code, stdout.getvalue(), stderr.getvalue())


def stage_command(stage: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"stages.{stage}", *arguments]


def stage_environment(root: Path) -> dict[str, str]:
    if not (root / "params.yaml").exists():
        (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    environment = {key: value for key, value in os.environ.items() if key != "AUDIOSET_MIRROR"}
    return environment | {"PYTHONPATH": str(ROOT)}


def assert_one_sentence(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Assert that a stage failed with one sentence that contains all `parts`."""
    assert done.returncode not in (0, -9), done.stderr
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in last
