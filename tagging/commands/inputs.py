"""Input files of the commands: recordings, and files of AudioSet's embeddings."""

import glob
import os
import stat
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from tagging.base.errors import UserError
from tagging.commands.embedding_checks import BINS

SOUND_SUFFIXES = (
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mp3",
    ".mp2", ".mpga", ".m4a", ".m4b", ".aac", ".ac3", ".eac3", ".amr", ".wma", ".ape", ".wv", ".tta",
    ".tak", ".dsf", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc",
    # The sound of videos; .ts is the ending of a programming language as well.
    ".mka", ".weba", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ogv", ".avi", ".flv", ".wmv",
    ".asf", ".mpg", ".mpeg", ".mts", ".3gp", ".3g2",
)  # fmt: skip
TFRECORD_SUFFIXES, PARQUET_SUFFIXES = (".tfrecord", ".tfrecords"), (".parquet",)
SUFFIXES = (*SOUND_SUFFIXES, *TFRECORD_SUFFIXES, *PARQUET_SUFFIXES)
EMBEDDING_COLUMN = "audio_embedding"
BATCH_CLIPS = 256
MAX_ENDINGS = 5  # of the files that were left out, in the note

_NOT_A_FILE = "must be a file, which is read twice, got a pipe or device"

Format = Literal["sound", "tfrecord", "parquet"]


class InputFile(NamedTuple):
    """A file to tag, and its size in bytes."""

    path: Path
    format: Format
    size: int

    @property
    def kind(self) -> Literal["sound", "embeddings"]:
        """The kind of models that read it."""
        return "sound" if self.format == "sound" else "embeddings"


class EmbeddingClip(NamedTuple):
    """A clip of embeddings: its id, its start (seconds) and its numbers, (frames, 128)."""

    id: str
    start: float
    embedding: np.ndarray


class InputFiles(NamedTuple):
    """Files that match the names of a command line.

    Attributes:
        files: each once, in the order of the names.
        problems: a sentence for each other name, and for each file or folder that is not readable.
        note: how many files of which endings were left out of folders, or "".
    """

    files: list[InputFile]
    problems: list[str]
    note: str


def find_input_files(names: Iterable[str]) -> InputFiles:
    """Return the files that match the names.

    Args:
        names: files, folders (all sounds and records below, also behind links, except hidden ones)
            and patterns with `*`.
    """
    files: dict[Path, InputFile] = {}
    problems: list[str] = []
    left_out: set[Path] = set()
    for name in names:
        path = Path(name)
        if os.path.isdir(path):  # noqa: PTH112, pathlib raises for a name that is too long
            matches, others, unreadable = _files_below(path)
            left_out.update(others)
            problems += unreadable
            if not matches and unreadable:
                continue
            problem = f"{name} is a folder without recordings or records"
        elif os.path.exists(path):  # noqa: PTH110
            matches = [path] if path.is_file() else []
            problem = f"{name} {_NOT_A_FILE}"
        else:
            # Brackets are a pattern, or a part of the name itself.
            matches = sorted(_matches(name) or _matches(name.replace("[", "[[]")))
            problem = f"{name} does not exist; use a file, a folder or a pattern such as '*.wav'"
        if not matches:
            problems.append(problem)
        for file in matches:
            try:
                status = file.stat()
                if not stat.S_ISREG(status.st_mode):  # of a folder
                    problems.append(f"{file} {_NOT_A_FILE}")
                    continue
                files.setdefault(file, InputFile(file, _detect_format(file), status.st_size))
            except OSError as error:
                problems.append(_describe_unreadable(file, error))
    return InputFiles(list(files.values()), problems, _describe_left_out(left_out - files.keys()))


def _matches(pattern: str) -> list[Path]:
    paths = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207, any root
    return [path for path in paths if path.is_file()]


def _files_below(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Return the recordings and records of a folder, its other files, and sentences of errors.

    Hidden files and folders are passed over. Links to folders are followed after all other folders,
    so that a folder that can be reached both ways has its own name. Each folder is listed once,
    which ends loops.
    """
    matches: list[Path] = []
    others: list[Path] = []
    problems: list[str] = []

    def report_unreadable(error: OSError) -> None:
        problems.append(_describe_unreadable(error.filename, error))

    listed: set[tuple[int, int]] = set()
    starts = [str(folder)]
    for start in starts:  # links are appended
        for parent, folders, names in os.walk(start, onerror=report_unreadable):
            try:
                status = os.stat(parent)  # noqa: PTH116
            except OSError as error:  # the folder was removed
                report_unreadable(error)
                continue
            if (status.st_dev, status.st_ino) in listed:
                folders.clear()
                continue
            listed.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [Path(parent, name) for name in names if not name.startswith(".")]
            for path in paths:
                (matches if path.suffix.lower() in SUFFIXES else others).append(path)
            below = [os.path.join(parent, name) for name in folders]  # noqa: PTH118
            starts += filter(os.path.islink, below)
    return sorted(matches), others, problems


def _describe_unreadable(path: Path | str, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror or error}"


def _describe_left_out(paths: Iterable[Path]) -> str:
    """Return a line that counts files by their endings, the most frequent first."""
    counts = Counter(path.suffix.lower() or "without an ending" for path in paths)
    if not counts:
        return ""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{count:,} {ending}" for ending, count in ordered[:MAX_ENDINGS]]
    if rest := sum(count for _, count in ordered[MAX_ENDINGS:]):
        listed.append(f"{rest:,} with other endings")
    return f"files left out because of their endings: {', '.join(listed)}"


def _detect_format(path: Path) -> Format:
    """Detect the format of a file by its first bytes or by its suffix."""
    with path.open("rb") as file:
        head = file.read(12)
    suffix = path.suffix.lower()
    if head.startswith(b"PAR1") or suffix in PARQUET_SUFFIXES:
        return "parquet"
    return "tfrecord" if suffix in TFRECORD_SUFFIXES or _is_record(head) else "sound"


def _is_record(head: bytes) -> bool:
    from tagging.sources.audioset.records import masked_crc

    return len(head) == 12 and struct.unpack("<QI", head)[1] == masked_crc(head[:8])


def read_batches(file: InputFile) -> Iterator[list[EmbeddingClip]]:
    """Yield the clips of a file in batches, including those before a damaged one.

    Raises:
        UserError: if the file is damaged or has no embeddings.
        OSError: if it cannot be opened.
    """
    clips = _tfrecord_clips(file.path) if file.format == "tfrecord" else _parquet_clips(file.path)
    batch: list[EmbeddingClip] = []
    try:
        for clip in clips:
            batch.append(clip)
            if len(batch) == BATCH_CLIPS:
                yield batch
                batch = []
    except (UserError, OSError):
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _tfrecord_clips(path: Path) -> Iterator[EmbeddingClip]:
    from tagging.sources.audioset.records import read_clips

    for clip in read_clips(path.read_bytes(), str(path)):
        embedding = np.frombuffer(clip.audio_embedding, np.uint8).reshape(-1, BINS)
        yield EmbeddingClip(clip.video_id, clip.start_time_seconds, embedding)


def _parquet_clips(path: Path) -> Iterator[EmbeddingClip]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pyarrow encodes names as UTF-8, which not every name is; bytes it leaves unchanged.
        with pa.OSFile(os.fsencode(path)) as source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if EMBEDDING_COLUMN not in names:
                raise UserError(
                    f"{path} must have the column {EMBEDDING_COLUMN} (and may have video_id and "
                    f"start_time_seconds), got {', '.join(names)}"
                )
            columns = [
                name
                for name in ("video_id", "start_time_seconds", EMBEDDING_COLUMN)
                if name in names
            ]
            number = 0
            for batch in file.iter_batches(BATCH_CLIPS, columns=columns):
                for row in batch.to_pylist():
                    yield EmbeddingClip(
                        str(row.get("video_id") or number),
                        row.get("start_time_seconds") or 0.0,
                        _to_embedding(row[EMBEDDING_COLUMN]),
                    )
                    number += 1
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{path} is not a readable parquet file ({str(error).splitlines()[0]})"
        ) from None


def _to_embedding(value: object) -> np.ndarray:
    """Return a row's embedding as (frames, 128); values of another size keep their shape."""
    if isinstance(value, bytes):
        values = np.frombuffer(value, np.uint8)
    else:
        try:
            values = np.array([] if value is None else value, float)
        except (TypeError, ValueError):
            values = np.array(value, object)
    return values.reshape(-1, BINS) if values.ndim == 1 and not values.size % BINS else values
