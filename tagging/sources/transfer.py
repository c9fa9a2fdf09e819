"""Fetching a file over HTTP or from a folder: resumed, retried, checked, whole or not at all.

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
from tagging.base.files import report_full_disk, commit_file
from tagging.base.progress import Progress

CHUNK_BYTES = 1 << 20
MIRROR = "DOWNLOAD_MIRROR"
TIMEOUT_SECONDS = (10, 60)  # to connect, and between two chunks
TRIES = 5  # in a row without a byte, at one address
FIRST_WAIT_SECONDS = 1.0  # doubled after every such try

_BROKEN = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError)


class Unavailable(UserError):
    """The address does not have the file, or does not answer: another may."""


class Place(NamedTuple):
    """Where a file may be had: a URL or a path.

    `is_mirror` says that it stands in for where the file is published: its copy may have other
    bytes, and the SHA-256 in a `.sha256` beside it is then the one that holds.
    """

    address: str
    is_mirror: bool = False


def fetch_checked(address: str, path: Path, sha256: str | None, style: str) -> None:
    """Put the file at `address`, a URL or a path, into `path`, or its copy in `DOWNLOAD_MIRROR`.

    Args:
        address: where the file is published.
        path: where it goes, whole or not at all; what has come before a failure is kept for the
            next try.
        sha256: what it must have, unless a mirror has a `.sha256` of its own; None if that is not
            known: then any file is taken, and told to be so.
        style: of the progress: auto, bar, lines or none.

    Raises:
        UserError: if it cannot be had, or has another checksum.
    """
    place = fetch_from_any([place_of(address)], path, style)
    finish_checked(path, place, sha256)


def mirror(variable: str) -> str:
    """Return the folder or URL that an environment variable names, or "".

    A relative folder is one of the project's root, where DVC runs a stage in a folder of its own,
    else one of the working directory.
    """
    root = os.environ.get(variable, "").rstrip("/")
    if not root or "://" in root:
        return root
    folder = Path(root).expanduser()
    in_project = Path(os.environ.get("DVC_ROOT", ".")) / folder
    return str(in_project if in_project.is_dir() else folder)


def place_of(address: str) -> Place:
    """Return where the file of `address` is to be had: `DOWNLOAD_MIRROR` stands in for a URL."""
    root = mirror(MIRROR)
    if not root or "://" not in address:
        return Place(address)
    try:
        url = urlsplit(address)
    except ValueError:
        return Place(address)  # it is refused where it is asked for
    path = url.path if "://" in root else unquote(url.path)
    return Place(f"{root}/{url.hostname or ''}{path}", is_mirror=True)


def fetch_from_any(places: Sequence[Place], path: Path, style: str) -> Place:
    """Fetch `path` from the first place that has it, without an end by `finish`; return the place.

    Raises:
        UserError: naming every place that was tried.
    """
    problems = []
    for place in places:
        try:
            fetch(place.address, path, style)
            return place
        except Unavailable as problem:
            problems.append(str(problem))
    root = mirror(MIRROR)
    if root and any(place.address.startswith(f"{root}/") for place in places):
        problems.append(f"{MIRROR} is set and stands in for every address")
    raise UserError(f"{path.name} could not be fetched: {'; '.join(problems)}")


def finish_checked(path: Path, place: Place, pinned: str | None) -> None:
    """Rename what came from `place` into place, if its SHA-256 is `pinned` or the mirror's own.

    Where neither is known, it is told which one the file has.

    Raises:
        UserError: if the checksum is another; what came is removed.
    """
    expected = expected_sha256(path, place, pinned)
    finish(path, place.address, expected)
    if pinned is None:
        whose = "not pinned" if expected is None else "the mirror's own; none is pinned"
    else:
        whose = "as pinned" if expected == pinned else "the mirror's own, not the one pinned"
    sha256 = expected or file_sha256(path)
    print(f"{path.name}: {place.address}: SHA-256 {sha256}, {whose}", file=sys.stderr)


def expected_sha256(path: Path, place: Place, pinned: str | None) -> str | None:
    """Return the SHA-256 to check `path` against: `pinned`, unless a mirror has its own.

    Raises:
        UserError: if the file that should hold the mirror's own does not.
    """
    if not place.is_mirror:
        return pinned
    beside = path.with_name(f"{path.name}.sha256")
    address = f"{place.address}.sha256"
    try:
        discard(beside)
        fetch(address, beside, "none")
    except Unavailable:
        return pinned
    words = part_of(beside).read_text(encoding="ascii", errors="replace").split()
    discard(beside)
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise UserError(f"{address} does not begin with a SHA-256")
    return words[0]


def fetch(address: str, path: Path, style: str) -> None:
    """Copy `address`, a URL or a path, to `path`; an earlier part of it is resumed.

    What has come stays in `<path>.part` if the transfer breaks off, with where it came from and the
    server's name for that version of the file in `<path>.part.version`.

    Raises:
        Unavailable: if the address does not have it or, after several tries, does not answer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with report_full_disk(part_of(path)):
        if "://" in address:
            _fetch_url(address, path, style)
        else:
            _copy(Path(address).expanduser(), path, style)


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
            raise UserError(
                f"{path.name} from {source} has the SHA-256 {got}; it takes {sha256}; what came is "
                "removed: run again, or pin the other if that is the file you mean"
            )
    commit_file(part, path)
    discard(path)


def discard(path: Path) -> None:
    """Remove what is left of a fetch of `path`."""
    part_of(path).unlink(missing_ok=True)
    _version_of(path).unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _copy(source: Path, path: Path, style: str) -> None:
    if not source.is_file():
        raise Unavailable(f"{source} is not there")
    discard(path)
    with (
        source.open("rb") as reading,
        part_of(path).open("wb") as writing,
        Progress(path.name, source.stat().st_size, "B", style) as progress,
    ):
        while chunk := reading.read(CHUNK_BYTES):
            writing.write(chunk)
            progress.advance(len(chunk))


def _fetch_url(url: str, path: Path, style: str) -> None:
    part = part_of(path)
    wait, failures = FIRST_WAIT_SECONDS, 0
    most = _size(part)
    while True:
        try:
            _request(url, path, style)
            return
        except (*_BROKEN, _Retry) as error:
            problem = _short(error)
        except requests.RequestException as error:
            raise Unavailable(f"{url} cannot be asked for: {error}") from None
        have = _size(part)
        if have > most:
            most = have
            wait, failures = FIRST_WAIT_SECONDS, 0
        failures += 1
        if failures == TRIES:
            raise Unavailable(
                f"{url} broke off at byte {have} and {TRIES} tries brought no more ({problem})"
            )
        print(f"{path.name}: {problem} at byte {have}; again in {wait:.0f} s", file=sys.stderr)
        time.sleep(wait)
        wait *= 2


class _Retry(Exception):
    """The server answered, but not with the file: a passing fault."""


def _request(url: str, path: Path, style: str) -> None:
    """Ask for what is missing of `path` and append it to its part."""
    part, version = part_of(path), _version_of(path)
    headers = {"Accept-Encoding": "identity"}
    have = _size(part)
    if have:
        came = _read_version(version)
        if came.get("etag"):
            headers["If-Range"] = came["etag"]
        elif came.get("url") != url:
            have = 0  # nothing tells whether the part is of this file
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == 416 and have:
            # Nothing is left to send, or another version lies there: the checksum will tell.
            if _total(answer.headers.get("Content-Range")) == have:
                return
            discard(path)
            raise _Retry("the server has another version of the file")
        if answer.status_code >= 500 or answer.status_code in (408, 429):
            raise _Retry(f"the server answers {answer.status_code}")
        if answer.status_code not in (200, 206):
            raise Unavailable(f"{url}: the server answers {answer.status_code} {answer.reason}")
        resumed = answer.status_code == 206
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            discard(path)
            raise _Retry("the server sends another range than it was asked for")
        if not resumed:
            have = 0  # the whole file comes: the server does not know ranges, or has another one
            part.unlink(missing_ok=True)
        etag = answer.headers.get("ETag", "")
        version.write_text(json.dumps({"url": url, "etag": "" if etag[:2] == "W/" else etag}))
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left is not None else None
        with part.open("ab") as file, Progress(path.name, total, "B", style, done=have) as progress:
            # As it comes: some servers call a .tar.gz a compressed encoding of a .tar.
            for chunk in answer.raw.stream(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                progress.advance(len(chunk))


def _read_version(version: Path) -> dict[str, str]:
    try:
        return json.loads(version.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _total(content_range: str | None) -> int | None:
    """Return the file's size from `Content-Range: bytes */1234`."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _short(problem: Exception) -> str:
    """Return what went wrong without the libraries' layers around it."""
    if isinstance(problem, _Retry):
        return str(problem)
    if isinstance(problem, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(problem, urllib3.exceptions.HTTPError):
        return "the server hung up"
    return "the connection failed"
