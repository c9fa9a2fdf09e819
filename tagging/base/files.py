"""Write files atomically: an output is complete or absent."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# With a suffix, longer names may exceed a file system's limit: 255 bytes, encrypted (eCryptfs) 143.
_MAX_NAME_BYTES = 128


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, remove it on failure.

    Raises:
        OSError: naming `path`, if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_short_name(path)}.partial")
    try:
        with report_full_disk(path):
            yield partial
            commit_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _short_name(path: Path) -> str:
    """Return the name of a file, or a hash of a long name."""
    name = os.fsencode(path.name)
    return path.name if len(name) <= _MAX_NAME_BYTES else hashlib.sha256(name).hexdigest()


def commit_file(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`.

    Its bytes are flushed to the disk first, so that a power cut leaves the old file or the new one.
    The mode is that of any new file: some libraries create files that only their owner may read.
    """
    # Windows flushes only files that are open for writing.
    with partial.open("r+b" if os.access(partial, os.W_OK) else "rb") as written:
        os.fsync(written.fileno())
    with suppress(OSError):  # some file systems have no modes
        partial.chmod(_new_file_mode(partial))
    partial.replace(path)


def _new_file_mode(beside: Path) -> int:
    """Return the mode that the process's umask gives a new file, by creating one.

    The umask itself can only be read by changing it, for all threads.
    """
    probe = beside.with_name(f"{_short_name(beside)}.mode")
    probe.unlink(missing_ok=True)
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)
        probe.unlink()


@contextmanager
def report_full_disk(path: Path) -> Iterator[None]:
    """Make errors of a full disk name `path`: a failed write does not know the file's name."""
    try:
        yield
    except Exception as error:
        number = getattr(error, "errno", None)
        # safetensors, which is written in Rust, raises no OSError, but its text ends as Rust's do.
        if rust_number := re.search(r"\(os error (\d+)\)$", str(error)):
            number = int(rust_number[1])
        if number not in _DISK_FULL:
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
