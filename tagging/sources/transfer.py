"""Fetch a file over HTTP or from a folder: resumed, retried, checked, and written atomically.

`DOWNLOAD_MIRROR`, where it is set, stands in for every URL: a folder or a URL that holds each file
under the host and path of its address, `https://github.com/a/b.zip` as `github.com/a/b.zip`.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import requests
import urllib3

from tagging.base.errors import UserError
from tagging.base.files import commit_file, report_full_disk
from tagging.base.progress import Progress, ProgressStyle

CHUNK_BYTES = 1 << 20
MIRROR = "DOWNLOAD_MIRROR"
TIMEOUT_SECONDS = (10, 60)  # to connect, and between two chunks
TRIES = 5  # in a row without a byte, at one address
FIRST_WAIT_SECONDS = 1.0  # doubled after every such try

_BROKEN = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


class Unavailable(UserError):
    """The address does not have the file or does not respond: another one may."""


class Location(NamedTuple):
    """A URL or a path of a file.

    A mirror stands in for the address where the file is published. Its copy may have other bytes;
    the SHA-256 in a `.sha256` file beside it then counts.
    """

    address: str
    is_mirror: bool = False


def fetch_checked(address: str, path: Path, sha256: str | None, style: ProgressStyle) -> None:
    """Copy the file at `address`, or its copy in `DOWNLOAD_MIRROR`, to `path`.

    Args:
        address: the URL or path where the file is published.
        path: the destination; after a failure, the fetched part is kept for the next try.
        sha256: the expected checksum, unless a mirror has a `.sha256` of its own; None if it is not
            known: then any file is accepted, and a message says so.
        style: the style of the progress.

    Raises:
        UserError: if it cannot be fetched, or has another checksum.
    """
    location = fetch_from_any([locate(address)], path, style)
    commit_checked(path, location, sha256)


def mirror(variable: str) -> str:
    """Return the folder or URL that an environment variable names, or "".

    A relative folder is relative to the working directory, which for stages is the repository's
    root.
    """
    root = os.environ.get(variable, "").rstrip("/")
    if not root or "://" in root:
        return root
    return str(Path(root).expanduser())


def locate(address: str) -> Location:
    """Return the location of a file: in `DOWNLOAD_MIRROR`, if it is set, for a URL."""
    root = mirror(MIRROR)
    if not root or "://" not in address:
        return Location(address)
    try:
        url = urlsplit(address)
    except ValueError:
        return Location(address)  # the request will refuse it
    path = url.path if "://" in root else unquote(url.path)
    return Location(f"{root}/{url.hostname or ''}{path}", is_mirror=True)


def fetch_from_any(locations: Sequence[Location], path: Path, style: ProgressStyle) -> Location:
    """Fetch the part of `path` from the first location that has it; return the location.

    Raises:
        UserError: naming every location that was tried.
    """
    problems = []
    for location in locations:
        try:
            fetch(location.address, path, style)
            return location
        except Unavailable as problem:
            problems.append(str(problem))
    root = mirror(MIRROR)
    if root and any(location.address.startswith(f"{root}/") for location in locations):
        problems.append(f"{MIRROR} is set and stands in for every address")
    raise UserError(f"{path.name} is not available: {'; '.join(problems)}")


def commit_checked(path: Path, location: Location, pinned: str | None) -> None:
    """Rename the fetched part of `path`, if its SHA-256 is `pinned` or the mirror's own.

    A message says which of them it has, or its checksum where neither is known.

    Raises:
        UserError: if the checksum is another; the part is removed.
    """
    expected = expected_sha256(path, location, pinned)
    commit_fetched(path, location.address, expected)
    if pinned is None:
        origin = "not pinned" if expected is None else "the mirror's own; none is pinned"
    else:
        origin = "as pinned" if expected == pinned else "the mirror's own, not the one pinned"
    sha256 = expected or file_sha256(path)
    print(f"{path.name}: {location.address}: SHA-256 {sha256}, {origin}", file=sys.stderr)


def expected_sha256(path: Path, location: Location, pinned: str | None) -> str | None:
    """Return the SHA-256 to check `path` against: `pinned`, unless a mirror has its own.

    Raises:
        UserError: if the mirror's `.sha256` file has no checksum.
    """
    if not location.is_mirror:
        return pinned
    beside = path.with_name(f"{path.name}.sha256")
    address = f"{location.address}.sha256"
    try:
        discard_part(beside)
        fetch(address, beside, "none")
    except Unavailable:
        return pinned
    words = part_path(beside).read_text(encoding="ascii", errors="replace").split()
    discard_part(beside)
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise UserError(f"{address} must begin with a SHA-256")
    return words[0]


def fetch(address: str, path: Path, style: ProgressStyle) -> None:
    """Fetch the file at `address`, a URL or a path, to `<path>.part`; an earlier part is resumed.

    The file `<path>.part.version` has the address of the part and the server's name (ETag) for that
    version of the file.

    Raises:
        Unavailable: if the address does not have it or, after several tries, does not respond.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with report_full_disk(part_path(path)):
        if "://" in address:
            _fetch_url(address, path, style)
        else:
            _copy(Path(address).expanduser(), path, style)


def part_path(path: Path) -> Path:
    """Return the path of the fetched part of `path`."""
    return path.with_name(f"{path.name}.part")


def commit_fetched(path: Path, source: str, sha256: str | None = None) -> None:
    """Rename the fetched part of `path` to `path`, if `sha256` is None or its checksum.

    Raises:
        UserError: if the checksum is another; the part is removed.
    """
    part = part_path(path)
    if sha256 is not None:
        actual = file_sha256(part)
        if actual != sha256:
            discard_part(path)
            raise UserError(
                f"{path.name} from {source} must have the SHA-256 {sha256}, got {actual}; the "
                "fetched file is removed: run again, or pin the other SHA-256 if you want that file"
            )
    commit_file(part, path)
    discard_part(path)


def discard_part(path: Path) -> None:
    """Remove the fetched part of `path`."""
    part_path(path).unlink(missing_ok=True)
    _version_path(path).unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _copy(source: Path, path: Path, style: ProgressStyle) -> None:
    if not source.is_file():
        raise Unavailable(f"{source} does not exist")
    discard_part(path)
    with (
        source.open("rb") as reading,
        part_path(path).open("wb") as writing,
        Progress(path.name, source.stat().st_size, "B", style) as progress,
    ):
        while chunk := reading.read(CHUNK_BYTES):
            writing.write(chunk)
            progress.advance(len(chunk))


def _fetch_url(url: str, path: Path, style: ProgressStyle) -> None:
    part = part_path(path)
    wait, failures = FIRST_WAIT_SECONDS, 0
    largest = _size(part)
    while True:
        try:
            _request(url, path, style)
            return
        except (*_BROKEN, _Retry) as error:
            problem = _describe(error)
        except requests.RequestException as error:
            raise Unavailable(f"{url} cannot be requested: {error}") from None
        size = _size(part)
        if size > largest:
            largest = size
            wait, failures = FIRST_WAIT_SECONDS, 0
        failures += 1
        if failures == TRIES:
            raise Unavailable(
                f"{url} broke off at byte {size}, and {TRIES} attempts got no further ({problem})"
            )
        print(f"{path.name}: {problem} at byte {size}; retrying in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)
        wait *= 2


class _Retry(Exception):
    """The server responded without the file because of a temporary fault."""


def _request(url: str, path: Path, style: ProgressStyle) -> None:
    """Request the missing rest of `path` and append it to its part."""
    part, version = part_path(path), _version_path(path)
    headers = {"Accept-Encoding": "identity"}
    size = _size(part)
    if size:
        part_version = _read_version(version)
        if part_version.get("etag"):
            headers["If-Range"] = part_version["etag"]
        elif part_version.get("url") != url:
            size = 0  # the part may belong to another file
    if size:
        headers["Range"] = f"bytes={size}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416 and size:
            # The part is complete, or the server has another version: the checksum will show it.
            if _total_size(response.headers.get("Content-Range")) == size:
                return
            discard_part(path)
            raise _Retry("the server has another version of the file")
        if response.status_code >= 500 or response.status_code in (408, 429):
            raise _Retry(f"the server responded {response.status_code}")
        if response.status_code not in (200, 206):
            raise Unavailable(
                f"{url}: the server responded {response.status_code} {response.reason}"
            )
        resumed = response.status_code == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {size}-"):
            discard_part(path)
            raise _Retry("the server sent another range than requested")
        if not resumed:
            size = 0  # the server sends the whole file: it has another version, or knows no ranges
            part.unlink(missing_ok=True)
        etag = response.headers.get("ETag", "")
        version.write_text(json.dumps({"url": url, "etag": "" if etag[:2] == "W/" else etag}))
        left = response.headers.get("Content-Length")
        total = size + int(left) if left is not None else None
        with part.open("ab") as file, Progress(path.name, total, "B", style, done=size) as progress:
            # Never decoded: some servers call a .tar.gz a compressed encoding of a .tar.
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                progress.advance(len(chunk))


def _read_version(version: Path) -> dict[str, str]:
    try:
        return json.loads(version.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _total_size(content_range: str | None) -> int | None:
    """Return the size of the file from `Content-Range: bytes */1234`."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _describe(problem: Exception) -> str:
    """Describe a failed request in a few words."""
    if isinstance(problem, _Retry):
        return str(problem)
    if isinstance(problem, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "the server did not respond in time"
    if isinstance(problem, urllib3.exceptions.HTTPError):
        return "the server hung up"
    return "the connection failed"
