"""Stage `convert@<subset>`: the TFRecords of a subset, read from the archive, as one parquet file.

    pandas.read_parquet("data/parquet/bal_train.parquet")

`audio_embedding` has a clip's frames in their order, 128 unsigned bytes a second:
`numpy.frombuffer(value, "uint8").reshape(-1, 128)`.

Shards are read in a plain loop: on two cores, reading ahead with the threads or processes of
torchdata.nodes was not faster (benchmarks/read_ahead.py).
"""

import gc
import sys
from collections.abc import Iterator, Sequence, Sized
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.base.files import atomic_write
from tagging.base.progress import Progress
from tagging.data.parameters import Params, Section
from tagging.data.task_folder import TaskFolder
from tagging.sources.audioset.archive import read_shards
from tagging.sources.audioset.records import (
    VIDEO_ID_CHARACTERS,
    Clip,
    find_duplicate,
    locate_rows,
    read_clips,
)

ARCHIVE = "features.tar.gz"
SCHEMA = pa.schema(
    {
        "video_id": pa.string(),
        "start_time_seconds": pa.float32(),
        "end_time_seconds": pa.float32(),
        "labels": pa.list_(pa.int16()),
        "audio_embedding": pa.binary(),
    }
)
ROWS_PER_GROUP = 16_384  # 21 MB of embeddings, which are in memory at a time


class Convert(Section):
    """The section `convert`. DVC runs this stage for each subset."""

    subsets: list[str] = Field(min_length=1)  # of bal_train, eval, unbal_train


def convert(archive: Path, subset: str, parquet: Path, progress: Progress) -> int:
    """Write the clips of `subset` to `parquet`, in the archive's order; return their number.

    Memory grows with the subset by its video ids alone (11 bytes a clip).

    Raises:
        UserError: if the archive or a record is damaged, or a video id occurs twice.
    """
    ids: list[np.ndarray] = []
    shards: list[tuple[str, int]] = []  # the name and the number of clips of each shard

    def clips() -> Iterator[Clip]:
        for shard in read_shards(archive, subset, on_read=progress.advance):
            number = 0
            for clip in read_clips(shard.content, f"{archive}: {shard.name}"):
                yield clip
                number += 1
            shards.append((shard.name, number))

    with atomic_write(parquet) as partial:
        # Embeddings are noise to a compressor and ids occur once: plain pages are the smallest.
        with pq.ParquetWriter(
            partial, SCHEMA, compression="none", use_dictionary=["labels.list.element"]
        ) as writer:
            stream = clips()
            while rows := list(islice(stream, ROWS_PER_GROUP)):
                writer.write_batch(_record_batch(rows), row_group_size=ROWS_PER_GROUP)
                ids.append(np.array([clip.video_id for clip in rows], f"S{VIDEO_ID_CHARACTERS}"))
                rows.clear()  # freed before the next ones are read
        all_ids = np.concatenate(ids)
        _refuse_duplicates(archive, all_ids, shards)
    return len(all_ids)


def _record_batch(rows: list[Clip]) -> pa.RecordBatch:
    """Return the clips as columns, built from buffers: `pa.array` is slower and imports pandas."""
    ids, starts, ends, labels, embeddings = zip(*rows, strict=True)
    arrays = [
        pa.StringArray.from_buffers(
            len(ids), pa.py_buffer(_offsets(ids)), pa.py_buffer("".join(ids).encode())
        ),
        _numbers(pa.float32(), np.array(starts, np.float32)),
        _numbers(pa.float32(), np.array(ends, np.float32)),
        pa.ListArray.from_arrays(
            _numbers(pa.int32(), _offsets(labels)),
            _numbers(pa.int16(), np.fromiter(chain.from_iterable(labels), np.int16)),
        ),
        pa.Array.from_buffers(
            pa.binary(),
            len(embeddings),
            [None, pa.py_buffer(_offsets(embeddings)), pa.py_buffer(b"".join(embeddings))],
        ),
    ]
    return pa.record_batch(arrays, schema=SCHEMA)


def _numbers(type_: pa.DataType, values: NDArray[Any]) -> pa.Array:
    return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)])


def _offsets(values: Sequence[Sized]) -> np.ndarray:
    """Return the start of each value in a buffer and the end of the last, int32 (values + 1,)."""
    return np.fromiter(accumulate(map(len, values), initial=0), np.int32)


def _refuse_duplicates(archive: Path, ids: np.ndarray, shards: list[tuple[str, int]]) -> None:
    if (duplicate := find_duplicate(ids)) is None:
        return
    names, sizes = zip(*shards, strict=True)
    places = [
        f"record {record} of {names[shard]}"
        for shard, record in locate_rows(np.flatnonzero(ids == duplicate), sizes)
    ]
    raise UserError(f"{archive} has the video id {duplicate.decode()} twice: {', '.join(places)}")


@entry_point
def main(folder: str, subset: str) -> None:
    """Convert one of `convert.subsets`."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    params.section(Convert, "convert")
    archive = task_folder.data / ARCHIVE
    parquet = task_folder.data / "parquet" / f"{subset}.parquet"
    if not archive.is_file():
        raise UserError(f"{archive} is missing; run dvc repro")
    gc.disable()  # clips form no cycles, and looking for cycles costs a seventh of the time
    style = params.runtime().progress
    with Progress(f"convert {subset}", archive.stat().st_size, "B", style) as progress:
        number = convert(archive, subset, parquet, progress)
    progress.say(f"convert {subset}: {number:,} clips")


if __name__ == "__main__":
    main(*sys.argv[1:])
