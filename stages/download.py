"""Stage `download`: AudioSet's features archive and class list, from Google's bucket.

This stage lists no code as a dependency: its outputs are checked against a pinned SHA-256, so its
code cannot change what comes, and 2.4 GB are not to be fetched again for a comment.
"""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from tagging.errors import UserError, entry_point
from tagging.labels import read_labels
from tagging.parameters import Run, Section, load
from tagging.transfer import Unavailable, discard, fetch, finish, part_of

DATA = Path("data")
BUCKET = "http://storage.googleapis.com/{region}_audioset"
REGIONS = ("us", "eu", "asia")
ARCHIVE = "youtube_corpus/v1/features/features.tar.gz"
LABELS = "youtube_corpus/v1/csv/class_labels_indices.csv"


def _source(value: str) -> str:
    if value in (*REGIONS, "sample") or "/" in value or "\\" in value or value in (".", ".."):
        return value
    raise ValueError("neither a known name nor a URL or folder")


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("not 64 hexadecimal digits")
    return value


class Download(Section):
    """Where AudioSet's features come from."""

    source: Annotated[str, AfterValidator(_source)] = Field(
        description="us, eu, asia, sample, or a URL or folder (with a slash) with the same tree"
    )
    sha256: Annotated[str, AfterValidator(_sha256)] = Field(
        description="the SHA-256 of Google's features.tar.gz, 64 hexadecimal digits"
    )


def roots(source: str) -> list[str]:
    """Return the addresses to try in turn: `AUDIOSET_MIRROR` stands in for Google's bucket."""
    if source not in REGIONS:
        return [source]
    if mirror := os.environ.get("AUDIOSET_MIRROR"):
        return [mirror]
    others = [region for region in REGIONS if region != source]
    return [BUCKET.format(region=region) for region in (source, *others)]


def fetch_from_any(addresses: list[str], path: Path, style: str) -> str:
    """Fetch `path` from the first address that has it; return that address.

    Raises:
        UserError: naming every address that was tried.
    """
    problems = []
    for address in addresses:
        try:
            fetch(address, path, style)
            return address
        except Unavailable as problem:
            problems.append(str(problem))
    raise UserError(f"{path.name} could not be fetched: {'; '.join(problems)}")


def expected_sha256(root: str, pinned: str) -> str:
    """Return the SHA-256 to check the archive against.

    It is the pinned one, unless a source other than Google's bucket carries its own beside the
    archive.
    """
    if root in [BUCKET.format(region=region) for region in REGIONS]:
        return pinned
    beside = DATA / "features.tar.gz.sha256"
    try:
        discard(beside)
        fetch(f"{root}/{ARCHIVE}.sha256", beside, "none")
    except Unavailable:
        return pinned
    words = part_of(beside).read_text(encoding="ascii", errors="replace").split()
    discard(beside)
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise UserError(f"{root}/{ARCHIVE}.sha256 does not begin with a SHA-256")
    return words[0]


def download(settings: Download, style: str) -> None:
    """Put the archive and the class list into `data/`.

    Raises:
        UserError: if no address has them or they are not what they should be; parts that have
            come stay for the next try.
    """
    archive, labels = DATA / "features.tar.gz", DATA / "class_labels_indices.csv"
    tried = [root.rstrip("/") for root in roots(settings.source)]
    discard(labels)  # a few kilobytes without a checksum: never mixed from two sources
    address = fetch_from_any([f"{root}/{LABELS}" for root in tried], labels, style)
    try:
        read_labels(part_of(labels))
    except UserError as error:
        discard(labels)
        raise UserError(f"{address} is no class list: {error}") from None
    address = fetch_from_any([f"{root}/{ARCHIVE}" for root in tried], archive, style)
    root = address.removesuffix(f"/{ARCHIVE}")
    sha256 = expected_sha256(root, settings.sha256)
    finish(archive, root, sha256)
    finish(labels, root)
    whose = "as pinned" if sha256 == settings.sha256 else "of its own, not the one params.yaml pins"
    print(f"download: {root}, an archive {whose}: SHA-256 {sha256}", file=sys.stderr)


@entry_point
def main() -> None:
    """Run the stage."""
    settings = load(Download, "download")
    run = load(Run, "run")
    if settings.source == "sample":
        from tagging.sample import write_sample

        write_sample(DATA / "features.tar.gz", DATA / "class_labels_indices.csv")
        print(
            "download: generated the sample archive; nothing computed from it is AudioSet's",
            file=sys.stderr,
        )
    else:
        download(settings, run.progress)


if __name__ == "__main__":
    main()
