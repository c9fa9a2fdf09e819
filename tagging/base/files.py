"""Outputs appear whole or not at all."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What the user's umask leaves, also for libraries that create files for the owner alone.
_UMASK = os.umask(0)
os.umask(_UMASK)
FILE_MODE = 0o666 & ~_UMASK

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it into place on success, remove it on failure.

    Raises:
        OSError: naming `path`, if the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with report_full_disk(path):
            yield partial
            commit_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def commit_file(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`.

    Its bytes are on disk before that, so that a power cut leaves the old file or the new.
    """
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.chmod(FILE_MODE)
    partial.replace(path)


@contextmanager
def report_full_disk(path: Path) -> Iterator[None]:
    """Have errors of a full disk name `path`: a failed write itself knows no name."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        # A library in Rust (safetensors) raises no OSError, but its text ends as Rust's do.
        if in_rust := re.search(r"\(os error (\d+)\)$", str(error)):
            number = int(in_rust[1])
        if number not in _FULL:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
