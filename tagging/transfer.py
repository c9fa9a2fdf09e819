"""Fetching a file over HTTP or from a folder: resumed, retried, checked, whole or not at all."""

import hashlib
import json
import sys
import time
from pathlib import Path

import requests

from tagging.errors import UserError
from tagging.progress import Progress

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = (10, 60)  # to connect, and between two chunks
TRIES = 5  # in a row without a byte, at one address
FIRST_WAIT_SECONDS = 1.0  # doubled after every such try


_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


class Unavailable(UserError):
    """The address does not have the file, or does not answer: another may."""


def fetch(address: str, path: Path, style: str) -> None:
    """Copy `address`, a URL or a path, to `path`; an earlier part of it is resumed.

    What has come stays in `<path>.part` if the transfer breaks off, with the server's name for
    that version of the file beside it.

    Raises:
        Unavailable: if the address does not have it or, after several tries, does not answer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    if "://" in address:
        _fetch_url(address, part, path.name, style)
    else:
        _copy(Path(address).expanduser(), part, path.name, style)


def part_of(path: Path) -> Path:
    """Return where the part of `path` that has come lies."""
    return path.with_name(f"{path.name}.part")


def finish(path: Path, source: str, sha256: str | None = None) -> None:
    """Rename the fetched part of `path` into place, if its checksum is `sha256` (if given).

    Raises:
        UserError: if the checksum is another; the part is removed.
    """
    part = part_of(path)
    if sha256 is not None:
        got = file_sha256(part)
        if got != sha256:
            discard(path)
            raise UserError(f"{path.name} from {source} has the SHA-256 {got}; it takes {sha256}")
    part.replace(path)
    discard(path)


def discard(path: Path) -> None:
    """Remove what is left of a fetch of `path`."""
    part = part_of(path)
    part.unlink(missing_ok=True)
    _version_of(part).unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _copy(source: Path, part: Path, what: str, style: str) -> None:
    if not source.is_file():
        raise Unavailable(f"{source} is not there")
    with (
        source.open("rb") as reading,
        part.open("wb") as writing,
        Progress(what, source.stat().st_size, "B", style) as progress,
    ):
        while chunk := reading.read(CHUNK_BYTES):
            writing.write(chunk)
            progress.advance(len(chunk))


def _fetch_url(url: str, part: Path, what: str, style: str) -> None:
    wait, failures = FIRST_WAIT_SECONDS, 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _request(url, part, what, style)
            return
        except (*_BROKEN, _Retry) as error:
            problem = error
        after = part.stat().st_size if part.exists() else 0
        if after > before:
            wait, failures = FIRST_WAIT_SECONDS, 0
        failures += 1
        if failures == TRIES:
            raise Unavailable(
                f"{url} broke off at byte {after} and {TRIES} tries brought no more "
                f"({_short(problem)})"
            )
        print(f"{what}: {_short(problem)} at byte {after}; again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)
        wait *= 2


class _Retry(Exception):
    """The server answered, but not with the file: a passing fault."""


def _request(url: str, part: Path, what: str, style: str) -> None:
    """Ask for what is missing of `part` and append it."""
    have = part.stat().st_size if part.exists() else 0
    version = _version_of(part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.exists():
            headers["If-Range"] = json.loads(version.read_text())
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == 416:
            # Nothing is left to send, or another version lies there: the checksum will tell.
            if _total(answer.headers.get("Content-Range")) == have:
                return
            part.unlink()
            raise _Retry("the server has another version of the file")
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise _Retry(f"the server answers {answer.status_code}")
        if answer.status_code not in (200, 206):
            raise Unavailable(f"{url}: the server answers {answer.status_code} {answer.reason}")
        resumed = answer.status_code == 206
        if not resumed:
            have = 0  # the whole file comes: the server does not know ranges, or has another one
        etag = answer.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            version.write_text(json.dumps(etag))
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left is not None else None
        with (
            part.open("ab" if resumed else "wb") as file,
            Progress(what, total, "B", style, done=have) as progress,
        ):
            for chunk in answer.iter_content(CHUNK_BYTES):
                file.write(chunk)
                progress.advance(len(chunk))
        if total is not None and part.stat().st_size < total:
            raise _Retry("the server hung up")


def _total(content_range: str | None) -> int | None:
    """Return the file's size from `Content-Range: bytes */1234`."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _short(problem: Exception) -> str:
    """Return what went wrong without the libraries' layers around it."""
    if isinstance(problem, _Retry):
        return str(problem)
    if isinstance(problem, requests.Timeout):
        return "no answer in time"
    return "the connection failed"
