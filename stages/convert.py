"""Stage `convert@<subset>`: the subset's TFRecords, out of the archive, as one parquet file.

    pandas.read_parquet("data/parquet/bal_train.parquet")

`audio_embedding` holds a clip's frames one after the other, 128 unsigned bytes a second:
`numpy.frombuffer(value, "uint8").reshape(-1, 128)`.
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from tagging.archive import read_shards
from tagging.errors import UserError, entry_point
from tagging.files import whole_file
from tagging.parameters import Run, Section, load
from tagging.progress import Progress
from tagging.records import Clip, read_clips

ARCHIVE = Path("data/features.tar.gz")
SCHEMA = pa.schema(
    {
        "video_id": pa.string(),
        "start_time_seconds": pa.float32(),
        "end_time_seconds": pa.float32(),
        "labels": pa.list_(pa.int16()),
        "audio_embedding": pa.binary(),
    }
)
ROWS_PER_GROUP = 16_384  # 21 MB of embeddings: what is held in memory at a time


class Convert(Section):
    """Which parts of AudioSet are made ready; DVC runs this stage for each."""

    subsets: list[str] = Field(
        description="a list of one or more of bal_train, eval and unbal_train", min_length=1
    )


def convert(archive: Path, subset: str, parquet: Path, progress: Progress) -> int:
    """Write the clips of `subset` to `parquet`, in the archive's order; return their number.

    Memory does not grow with the subset but for its video ids (11 bytes a clip).

    Raises:
        UserError: if the archive or a record is damaged, or a video id stands there twice.
    """
    ids: list[pa.Array] = []
    shards: list[tuple[str, int]] = []  # each shard's name and its number of clips

    def clips() -> Iterator[Clip]:
        for shard in read_shards(archive, subset, on_read=progress.advance):
            number = 0
            for clip in read_clips(shard.content, f"{archive}: {shard.name}"):
                yield clip
                number += 1
            shards.append((shard.name, number))

    with whole_file(parquet) as partial:
        # Embeddings are noise to a compressor and ids occur once: plain pages are the smallest.
        with pq.ParquetWriter(
            partial, SCHEMA, compression="none", use_dictionary=["labels.list.element"]
        ) as writer:
            stream = clips()
            while rows := list(islice(stream, ROWS_PER_GROUP)):
                columns = zip(*rows, strict=True)
                batch = pa.record_batch(
                    [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)],
                    schema=SCHEMA,
                )
                ids.append(batch["video_id"])
                writer.write_batch(batch, row_group_size=ROWS_PER_GROUP)
        all_ids = pa.chunked_array(ids, pa.string())
        if not len(all_ids):
            raise UserError(f"{archive}: the subset {subset} holds no record")
        _refuse_duplicates(archive, all_ids, shards)
    return len(all_ids)


def _refuse_duplicates(archive: Path, ids: pa.ChunkedArray, shards: list[tuple[str, int]]) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = ids.value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
    places = []
    for row in pc.indices_nonzero(pc.equal(ids, twice)).to_pylist():
        for name, number in shards:
            if row < number:
                places.append(f"record {row} of {name}")
                break
            row -= number
    raise UserError(f"{archive}: the video id {twice} stands there twice: {', '.join(places)}")


@entry_point
def main(subset: str) -> None:
    """Run the stage for one of `convert.subsets`."""
    load(Convert, "convert")
    run = load(Run, "run")
    with Progress(f"convert {subset}", ARCHIVE.stat().st_size, "B", run.progress) as progress:
        number = convert(ARCHIVE, subset, Path(f"data/parquet/{subset}.parquet"), progress)
    progress.say(f"convert {subset}: {number:,} clips")


if __name__ == "__main__":
    main(*sys.argv[1:])
