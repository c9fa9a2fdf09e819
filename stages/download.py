"""Stage `download`: the files that a task begins with, each checked and put into `data/`.

AudioSet's features archive and class list come from Google's bucket, and its ontology, where a task
asks for it, from the project audioset/ontology. Other files come from their addresses, a sample of
sounds from nowhere: it is generated. Mirrors stand in for all of them: `AUDIOSET_MIRROR` for the
bucket, `DOWNLOAD_MIRROR` for any URL.

This stage lists no code as a dependency: its outputs are checked against a pinned SHA-256, so its
code cannot change what comes, and 2.4 GB are not to be fetched again for a comment.
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.sources.audioset.ontology import read_ontology
from tagging.parameters import Machine, Section, load
from tagging.sources.audioset.labels import read_labels
from tagging.sources.transfer import (
    Place,
    discard,
    fetch_checked,
    fetch_from_any,
    finish,
    finish_checked,
    mirror,
    part_of,
    place_of,
)

DATA = Path("data")
ARCHIVE, LABELS = DATA / "features.tar.gz", DATA / "class_labels_indices.csv"
ONTOLOGY = DATA / "ontology.json"
SOUNDS = DATA / "sounds.zip"

BUCKET = "http://storage.googleapis.com/{region}_audioset"
REGIONS = ("us", "eu", "asia")
GENERATED = ("sample", "sounds")
ONTOLOGY_ADDRESS = "https://raw.githubusercontent.com/audioset/ontology/master/ontology.json"
# In the tree of the bucket or of its mirror; the bucket itself has no ontology.
IN_TREE = {
    ARCHIVE: "youtube_corpus/v1/features/features.tar.gz",
    LABELS: "youtube_corpus/v1/csv/class_labels_indices.csv",
    ONTOLOGY: "ontology/ontology.json",
}


def _source(value: str) -> str:
    known = (*REGIONS, *GENERATED)
    if value in known or "/" in value or "\\" in value or value in (".", ".."):
        return value
    raise ValueError("neither a known name nor a URL or folder")


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError("not 64 hexadecimal digits")
    return value


Sha256 = Annotated[str, AfterValidator(_sha256)]


class File(Section):
    """A file with an address of its own."""

    address: str = Field(description="a URL or a path")
    sha256: Sha256 = Field(description="the file's SHA-256, 64 hexadecimal digits")
    name: str = Field(
        "",
        description="its name in data/, or weights/ and a name; without it, the last part of the "
        "address",
    )

    @property
    def path(self) -> Path:
        """Where the file goes."""
        is_url = "://" in self.address
        path = unquote(urlsplit(self.address).path) if is_url else self.address
        return DATA / (self.name or path.rpartition("/")[2])

    @model_validator(mode="after")
    def _has_a_name(self) -> Self:
        # `data/..` and `data/a/b` are no files of data/, `data/` is none at all. Weights that a
        # model begins with lie among the published ones.
        if self.path.parent not in (DATA, DATA / "weights") or self.path.name in ("", ".."):
            raise ValueError("no name of a file")
        return self


class Download(Section):
    """Where a task's files come from: a source of AudioSet's features or of sounds, or files."""

    source: Annotated[str, AfterValidator(_source)] | None = Field(
        None,
        description="us, eu, asia, sample, sounds, or a URL or folder (with a slash) with the tree "
        "of Google's bucket",
    )
    sha256: Sha256 | None = Field(
        None, description="the SHA-256 of Google's features.tar.gz, 64 hexadecimal digits"
    )
    ontology: bool = Field(
        False, strict=True, description="true or false: whether AudioSet's ontology comes as well"
    )
    files: tuple[File, ...] | None = Field(
        None,
        description="a list of mappings of address (a URL or a path), sha256 (64 hexadecimal "
        "digits) and, for another name in data/ than the address's last part, name",
    )


def download(settings: Download, style: str) -> None:
    """Put the files of `settings` into `data/`.

    Raises:
        UserError: if the settings do not go together, or no address has a file or it is not what it
            should be; parts that have come stay for the next try.
    """
    if (settings.source is None) == (settings.files is None):
        raise UserError("params.yaml: download takes either source or files")
    if settings.files is not None:
        _bring_files(settings, style)
    elif settings.source == "sounds":
        from tagging.sources.sounds import write_sounds

        write_sounds(SOUNDS)
        print("download: generated a sample of sounds; none is a recording", file=sys.stderr)
    elif settings.source == "sample":
        from tagging.sources.audioset.sample import ontology_json, write_sample

        write_sample(ARCHIVE, LABELS)
        if settings.ontology:
            write_text(ONTOLOGY, ontology_json())
        print(
            "download: generated the sample archive; nothing computed from it is AudioSet's",
            file=sys.stderr,
        )
    else:
        _bring_audioset(settings, style)


def _bring_files(settings: Download, style: str) -> None:
    if settings.sha256 or settings.ontology:
        raise UserError("params.yaml: download takes sha256 and ontology beside source alone")
    paths = [file.path for file in settings.files]
    if twice := [path.name for path in paths if paths.count(path) > 1]:
        raise UserError(
            f"params.yaml: download.files has two files {twice[0]}; one takes another name"
        )
    for file in settings.files:
        fetch_checked(file.address, file.path, file.sha256, style)


def _bring_audioset(settings: Download, style: str) -> None:
    if settings.sha256 is None:
        takes = Download.model_fields["sha256"].description
        raise UserError(f"params.yaml: download.sha256 is missing; it takes {takes}")
    # The small files first, and no second one where the first is none.
    small = [_bring_small(LABELS, settings.source, style)]
    if settings.ontology:
        small.append(_bring_small(ONTOLOGY, settings.source, style))
    place = fetch_from_any(places(settings.source, ARCHIVE), ARCHIVE, style)
    finish_checked(ARCHIVE, place, settings.sha256)
    for path, address in small:
        finish(path, address)


def _bring_small(path: Path, source: str, style: str) -> tuple[Path, str]:
    """Fetch a file without a checksum, look whether it is one; return it and whence it came."""
    discard(path)  # never mixed from two sources
    address = fetch_from_any(places(source, path), path, style).address
    read, kind = (read_labels, "class list") if path == LABELS else (read_ontology, "ontology")
    try:
        read(part_of(path))
    except UserError as error:
        discard(path)
        raise UserError(f"{address} is no {kind}: {error}") from None
    return path, address


def places(source: str, path: Path) -> list[Place]:
    """Return where to look for one of AudioSet's files, in turn."""
    name = IN_TREE[path]
    if source not in REGIONS:
        found = [place_of(f"{source.rstrip('/')}/{name}")._replace(is_mirror=True)]
    elif root := mirror("AUDIOSET_MIRROR"):
        found = [Place(f"{root}/{name}", is_mirror=True)]
    elif path == ONTOLOGY:
        found = []
    else:
        regions = [source, *(region for region in REGIONS if region != source)]
        found = [place_of(f"{BUCKET.format(region=region)}/{name}") for region in regions]
    return [*found, place_of(ONTOLOGY_ADDRESS)] if path == ONTOLOGY else found


@entry_point
def main() -> None:
    """Run the stage."""
    download(load(Download, "download"), load(Machine, "run").progress)


if __name__ == "__main__":
    main()
