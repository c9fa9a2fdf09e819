"""Stage `download`: the files that a task starts from, checked and put into its `data/`.

The root's section `download` describes AudioSet: its features archive and class list come from
Google's bucket, its ontology from the project audioset/ontology. Another task's `download` has an
entry for each file, with an address of its own. Mirrors stand in for all addresses:
`AUDIOSET_MIRROR` for the bucket, `DOWNLOAD_MIRROR` for any URL.

This stage lists no code as a dependency: its outputs are checked against a pinned SHA-256, so its
code cannot change them, and a changed comment must not fetch 2.4 GB again.
"""

import re
import sys
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.base.progress import ProgressStyle
from tagging.data.parameters import Params, Section
from tagging.data.task_folder import TaskFolder
from tagging.sources.audioset.labels import read_labels
from tagging.sources.audioset.ontology import read_ontology
from tagging.sources.transfer import (
    Location,
    commit_checked,
    commit_fetched,
    discard_part,
    fetch_checked,
    fetch_from_any,
    locate,
    mirror,
    part_path,
)

BUCKET = "http://storage.googleapis.com/{region}_audioset"
REGIONS = ("us", "eu", "asia")
SAMPLE = "sample"
ONTOLOGY_ADDRESS = "https://raw.githubusercontent.com/audioset/ontology/master/ontology.json"
ARCHIVE, LABELS, ONTOLOGY = "features.tar.gz", "class_labels_indices.csv", "ontology.json"
# Paths in the tree of the bucket or of its mirror; the bucket itself has no ontology.
BUCKET_PATHS = {
    ARCHIVE: "youtube_corpus/v1/features/features.tar.gz",
    LABELS: "youtube_corpus/v1/csv/class_labels_indices.csv",
    ONTOLOGY: "ontology/ontology.json",
}


def _check_source(value: str) -> str:
    known = (*REGIONS, SAMPLE)
    if value in known or "/" in value or "\\" in value or value in (".", ".."):
        return value
    raise ValueError(f"must be {', '.join(known)}, or a URL or folder (with a slash)")


def _check_sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("must be a SHA-256 of 64 hexadecimal digits")
    return value


def _check_name(value: str) -> str:
    # Weights that a model starts from are kept with the published ones.
    name = value.removeprefix("weights/")
    if "/" in name or name in ("", ".", ".."):
        raise ValueError("must be the name of a file, or weights/ and a name")
    return value


Sha256 = Annotated[str, AfterValidator(_check_sha256)]


class Download(Section):
    """The section `download` of the root: AudioSet's features archive."""

    source: Annotated[str, AfterValidator(_check_source)]
    """A region of Google's bucket, `sample` (generated), or a URL or folder with its tree."""
    sha256: Sha256 | None = None  # of the archive; required unless it is the sample


class File(Section):
    """An entry of the section `download` of a task: a file with an address of its own."""

    address: str  # a URL, a path, or `sample`: generated recordings in a zip archive
    sha256: Sha256 | None = None  # required unless it is the sample
    name: Annotated[str, AfterValidator(_check_name)]  # in data/


def download_file(file: File, key: str, folder: TaskFolder, style: ProgressStyle) -> None:
    """Put a file into the task's `data/`.

    Raises:
        UserError: if it cannot be fetched or has another checksum; a fetched part is kept for the
            next try.
    """
    path = folder.data / file.name
    if file.address == SAMPLE:
        from tagging.sources.sounds import write_sounds

        write_sounds(path)
        print("download: generated sample recordings; none of them is real", file=sys.stderr)
    elif file.sha256 is None:
        raise UserError(f"{folder.params}: {key}.sha256 is missing")
    else:
        fetch_checked(file.address, path, file.sha256, style)


def download_audioset(settings: Download, folder: TaskFolder, style: ProgressStyle) -> None:
    """Put AudioSet's archive, class list and ontology into `data/`.

    Raises:
        UserError: if no address has a file, or a file is not valid; fetched parts are kept for the
            next try.
    """
    if settings.source == SAMPLE:
        from tagging.sources.audioset.sample import ontology_json, write_sample

        write_sample(folder.data / ARCHIVE, folder.data / LABELS)
        write_text(folder.data / ONTOLOGY, ontology_json())
        print(
            "download: generated the sample archive; nothing computed from it is AudioSet's",
            file=sys.stderr,
        )
        return
    if settings.sha256 is None:
        raise UserError(f"{folder.params}: download.sha256 is missing")
    # The small files come first: they show cheaply that a source is wrong.
    small = {
        folder.data / name: _fetch_small(name, folder.data / name, settings.source, style)
        for name in (LABELS, ONTOLOGY)
    }
    archive = folder.data / ARCHIVE
    location = fetch_from_any(bucket_locations(settings.source, ARCHIVE), archive, style)
    commit_checked(archive, location, settings.sha256)
    for path, address in small.items():
        commit_fetched(path, address)


def _fetch_small(name: str, path: Path, source: str, style: ProgressStyle) -> str:
    """Fetch and validate a file without a pinned checksum; return its address."""
    discard_part(path)  # never mixed from two sources
    address = fetch_from_any(bucket_locations(source, name), path, style).address
    try:
        (read_labels if name == LABELS else read_ontology)(part_path(path))
    except UserError as error:
        discard_part(path)
        kind = "class list" if name == LABELS else "ontology"
        raise UserError(f"{address} is not a valid {kind}: {error}") from None
    return address


def bucket_locations(source: str, name: str) -> list[Location]:
    """Return the locations of one of AudioSet's files, in the order in which they are tried."""
    path = BUCKET_PATHS[name]
    locations: list[Location] = []
    if source not in REGIONS:
        locations = [locate(f"{source.rstrip('/')}/{path}")._replace(is_mirror=True)]
    elif root := mirror("AUDIOSET_MIRROR"):
        locations = [Location(f"{root}/{path}", is_mirror=True)]
    elif name != ONTOLOGY:
        regions = [source, *(region for region in REGIONS if region != source)]
        locations = [locate(f"{BUCKET.format(region=region)}/{path}") for region in regions]
    return [*locations, locate(ONTOLOGY_ADDRESS)] if name == ONTOLOGY else locations


@entry_point
def main(folder: str, entry: str = "") -> None:
    """Download AudioSet or, with the name of an entry of `download`, one file."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    style = params.runtime().progress
    if not entry:
        download_audioset(params.section(Download, "download"), task_folder, style)
        return
    entries = params.entries("download")
    if entry not in entries:
        raise UserError(f"{params.path}: download.{entry} is missing")
    file = params.parse(File, entries[entry], f"download.{entry}")
    for other, values in entries.items():
        if other != entry and isinstance(values, dict) and values.get("name") == file.name:
            raise UserError(
                f"{params.path}: download.{entry}.name must differ from that of "
                f"download.{other}, got {file.name!r}"
            )
    download_file(file, f"download.{entry}", task_folder, style)


if __name__ == "__main__":
    main(*sys.argv[1:])
