"""What recordings are: their formats, rates, lengths and levels, and which cannot be used."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagging.base.errors import UserError
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.features.channels import mix_down
from tagging.features.decoding import MIN_SAMPLE_RATE, Header, decode_blocks, read_header

SILENT_DB = -60.0  # the level below which a recording is near-silent
READ_SECONDS = 60  # of a recording that are decoded, unless its header does not state its length
_BLOCK_SECONDS = 10


class Surveyed(NamedTuple):
    """A recording.

    Attributes:
        seconds: its length; 0 if it cannot be decoded.
        sample_rate: in Hz; 0 if it is not known.
        level_db: the mean power of the first minute, in decibels relative to full scale.
        problem: a sentence if it cannot be decoded, or "".
    """

    seconds: float
    sample_rate: int
    level_db: float
    problem: str


def survey(folder: Path, files: Sequence[str], progress: Progress) -> dict[str, Surveyed]:
    """Return the recordings by their paths in the folder; their first minute is decoded.

    Args:
        folder: the folder of recordings.
        files: their paths in it.
        progress: receives a step for each recording.
    """

    def survey_one(file: str) -> Surveyed:
        surveyed = survey_file(folder / file)
        progress.advance()
        return surveyed

    # Threads suffice: decoders release the interpreter's lock.
    with ThreadPoolExecutor(num_workers()) as pool:
        return dict(zip(files, pool.map(survey_one, files), strict=True))


def survey_file(path: Path) -> Surveyed:
    """Return what a recording is."""
    header = Header(0, 0.0)
    samples, power = 0, 0.0
    try:
        header = read_header(path) or header
        rate = max(header.sample_rate, MIN_SAMPLE_RATE)
        for block in decode_blocks(path, str(path), rate, _BLOCK_SECONDS, mix_down):
            samples += len(block)
            power += float(np.square(block, dtype=np.float64).sum())
            if samples >= READ_SECONDS * rate and header.seconds:
                break
    except (UserError, OSError) as error:
        problem = (
            str(error)
            if isinstance(error, UserError)
            else f"{path} cannot be read: {error.strerror or error}"
        )
        return Surveyed(0.0, header.sample_rate, 0.0, problem)
    is_whole = samples < READ_SECONDS * rate or not header.seconds
    seconds = samples / rate if is_whole else header.seconds
    level_db = 10 * np.log10(max(power / samples, 1e-20))
    return Surveyed(seconds, rate, float(level_db), "")


def find_copies(folder: Path, surveyed: Mapping[str, Surveyed]) -> list[list[str]]:
    """Return groups of files that have the same bytes.

    Only files of equal length and level are read again: recordings of one length often have one
    size.

    Args:
        folder: the folder of recordings.
        surveyed: the recordings by their paths in it; those with a problem are left out.
    """
    readable = [file for file, recording in surveyed.items() if not recording.problem]
    return [
        copies
        for candidates in _group(readable, lambda file: surveyed[file])
        for copies in _group(candidates, lambda file: _digest(folder / file))
    ]


def _group(files: Iterable[str], key: Callable[[str], object]) -> list[list[str]]:
    """Return the files that share a key with others."""
    groups: dict[object, list[str]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return [group for group in groups.values() if len(group) > 1]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
