"""What is to be tagged: names to files, each a recording or a file of AudioSet's embeddings."""

import glob
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagging.base.errors import UserError
from tagging.commands.examine import BINS

SOUNDS = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf",
    ".w64",
)  # fmt: skip
TFRECORD, PARQUET = (".tfrecord", ".tfrecords"), (".parquet",)
EMBEDDING = "audio_embedding"  # the column of a parquet file
CLIPS_AT_A_TIME = 256


class Input(NamedTuple):
    """A file to tag; `form` is sound, tfrecord or parquet, `size` its bytes."""

    path: Path
    form: str
    size: int

    @property
    def kind(self) -> str:
        """What a model must take: sound or embeddings."""
        return "sound" if self.form == "sound" else "embeddings"


class Clip(NamedTuple):
    """A clip of embeddings: its id, where it begins (seconds), and the numbers, (frames, 128)."""

    id: str
    start: float
    embedding: np.ndarray


def find_inputs(names: Iterable[str]) -> tuple[list[Input], list[str]]:
    """Return the files that names stand for, each once, and what is wrong with other names.

    Args:
        names: files, folders (all sounds and records below, but hidden ones) and patterns with *.
    """
    found: dict[Path, Input] = {}
    problems = []
    for name in names:
        path = Path(name)
        if os.path.isdir(path):  # noqa: PTH112, a name may be too long to ask for
            files = _files_below(path)
            problem = f"{name} is a folder without sounds or records"
        elif os.path.exists(path):  # noqa: PTH110
            files = [path] if path.is_file() else []
            problem = f"{name} is a pipe or a device; it takes a file, which is read twice"
        else:
            # Brackets are a pattern's, or else a name's own.
            files = sorted(_matches(name) or _matches(name.replace("[", "[[]")))
            problem = f"{name} is not there; it takes a file, a folder or a pattern such as '*.wav'"
        if not files:
            problems.append(problem)
        for file in files:
            try:
                found.setdefault(file, Input(file, _form(file), file.stat().st_size))
            except OSError as error:
                problems.append(f"{file} cannot be read: {error.strerror or error}")
    return list(found.values()), problems


def _matches(pattern: str) -> list[Path]:
    found = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207, any root
    return [file for file in found if file.is_file()]


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        Path(at, file)
        for at, folders, files in os.walk(folder)
        for file in files
        if Path(file).suffix.lower() in (*SOUNDS, *TFRECORD, *PARQUET)
        and not any(part.startswith(".") for part in Path(at, file).relative_to(folder).parts)
    )


def _form(path: Path) -> str:
    """Tell what a file is by how it begins, or, where that says nothing, by its name's end."""
    with path.open("rb") as file:
        head = file.read(12)
    suffix = path.suffix.lower()
    if head.startswith(b"PAR1") or suffix in PARQUET:
        return "parquet"
    return "tfrecord" if suffix in TFRECORD or _begins_record(head) else "sound"


def _begins_record(head: bytes) -> bool:
    from tagging.sources.audioset.records import masked_crc

    return len(head) == 12 and struct.unpack("<QI", head)[1] == masked_crc(head[:8])


def read_batches(given: Input) -> Iterator[list[Clip]]:
    """Yield a file's clips, some hundred at a time; those before what is damaged, too.

    Raises:
        UserError: if it is damaged, or no file of AudioSet's embeddings.
        OSError: if it cannot be opened.
    """
    clips = _tfrecord_clips(given.path) if given.form == "tfrecord" else _parquet_clips(given.path)
    batch: list[Clip] = []
    try:
        for clip in clips:
            batch.append(clip)
            if len(batch) == CLIPS_AT_A_TIME:
                yield batch
                batch = []
    except (UserError, OSError):
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _tfrecord_clips(path: Path) -> Iterator[Clip]:
    from tagging.sources.audioset.records import read_clips

    for clip in read_clips(path.read_bytes(), str(path)):
        embedding = np.frombuffer(clip.audio_embedding, np.uint8).reshape(-1, BINS)
        yield Clip(clip.video_id, clip.start_time_seconds, embedding)


def _parquet_clips(path: Path) -> Iterator[Clip]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if EMBEDDING not in names:
                raise UserError(
                    f"{path} has the columns {', '.join(names)}; it takes {EMBEDDING} and, if "
                    "there are, video_id and start_time_seconds"
                )
            columns = [
                name for name in ("video_id", "start_time_seconds", EMBEDDING) if name in names
            ]
            row = 0
            for batch in file.iter_batches(CLIPS_AT_A_TIME, columns=columns):
                for of_row in batch.to_pylist():
                    embedding = _embedding(of_row[EMBEDDING])
                    start = of_row.get("start_time_seconds") or 0.0
                    yield Clip(str(of_row.get("video_id") or row), start, embedding)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{path} cannot be read as parquet ({str(error).splitlines()[0]})"
        ) from None


def _embedding(value: object) -> np.ndarray:
    """Return a row's embedding as (frames, 128) where it is one; what else it is, is triplet_statistics."""
    if isinstance(value, bytes):
        values = np.frombuffer(value, np.uint8)
    else:
        try:
            values = np.array([] if value is None else value, float)
        except (TypeError, ValueError):
            values = np.array(value, object)
    return values.reshape(-1, BINS) if values.ndim == 1 and not values.size % BINS else values
