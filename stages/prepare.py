"""Stage `prepare`: parquet files to the features, labels and splits of a task on AudioSet.

Clips that hold one of the most frequent labels, in the order of their video ids: the result depends
on the set of clips, not on the order they stand in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.data.classes import Class
from tagging.data.clips import (
    SPLITS,
    Index,
    write_features,
    write_index,
    write_json,
)
from tagging.data.splits import SplitSettings, make_folds
from tagging.data.spec import InputSpec
from tagging.data.task import load_task
from tagging.parameters import Int, Section, load, read_params
from tagging.sources.audioset.labels import CLASSES, is_sample, read_labels
from tagging.sources.audioset.records import (
    FRAME_BYTES,
    VIDEO_ID_CHARACTERS,
    find_twice,
    place_in_files,
)

METRICS = Path("metrics/data.json")
BATCH_ROWS = 4_096
MOST_SECONDS = 10  # of an AudioSet clip

Seconds = Annotated[Int, Field(ge=1, le=MOST_SECONDS)]


class Prepare(Section):
    """Which clips and labels are used."""

    folder: str = Field(
        "data", description="the folder that holds parquet/ and class_labels_indices.csv"
    )
    subsets: list[str] = Field(description="a list of one or more of convert.subsets", min_length=1)
    seconds: Seconds | Literal["any"] = Field(
        description="a whole number of seconds from 1 to 10, or any"
    )
    top_labels: Int = Field(description=f"a whole number from 1 to {CLASSES}", ge=1, le=CLASSES)


class Clips(NamedTuple):
    """What selects clips, in the order of the parquet files; embeddings stay on disk.

    `video_ids` is of dtype S11 and `embedding_bytes` of int32, a value a clip. Labels come as
    pairs, for a matrix of two million clips by 527 labels takes a gigabyte: the clip `clip[i]`
    (its place in the other two) has the label `label[i]`.
    """

    video_ids: np.ndarray
    embedding_bytes: np.ndarray
    clip: np.ndarray
    label: np.ndarray


def read_clips(paths: list[Path]) -> Clips:
    """Read everything but the embeddings.

    Raises:
        UserError: if a file is missing or damaged, or a video id stands in the files twice.
    """
    tables = []
    for path in paths:
        with _parquet(path):
            tables.append(pq.read_table(path, columns=["video_id", "labels"], pre_buffer=False))
    table = pa.concat_tables(tables)
    ids = table["video_id"].cast(pa.binary(VIDEO_ID_CHARACTERS)).combine_chunks()
    video_ids = np.frombuffer(ids.buffers()[1], f"S{VIDEO_ID_CHARACTERS}", len(ids))
    _refuse_duplicates(video_ids, paths, [len(table) for table in tables])
    lists = table["labels"].combine_chunks()
    return Clips(
        video_ids,
        pa.chunked_array(map(pc.binary_length, _embeddings(paths)), pa.int32()).to_numpy(),
        np.repeat(np.arange(len(lists), dtype=np.int32), pc.list_value_length(lists)),
        lists.flatten().to_numpy(),
    )


def _refuse_duplicates(video_ids: np.ndarray, paths: list[Path], sizes: list[int]) -> None:
    if (twice := find_twice(video_ids)) is None:
        return
    places = [
        f"row {row} of {paths[file]}"
        for file, row in place_in_files(np.flatnonzero(video_ids == twice), sizes)
    ]
    raise UserError(f"the video id {twice.decode()} stands there twice: {', '.join(places)}")


@contextmanager
def _parquet(path: Path) -> Iterator[None]:
    """Refuse a file that is not there or not as `convert` writes it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; prepare.subsets takes subsets of convert.subsets only"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({' '.join(str(error).split())}); remove it and run dvc repro"
        ) from None


def _embeddings(paths: list[Path]) -> Iterator[pa.BinaryArray]:
    """Yield the embedding columns piece by piece: they are never all in memory."""
    for path in paths:
        # What is buffered ahead stays in memory until the file is closed: all of it, in the end.
        with _parquet(path), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["audio_embedding"]):
                yield batch["audio_embedding"]


def most_frequent(counts: np.ndarray, number: int) -> np.ndarray:
    """Return the indices of the `number` highest counts, highest first; ties by index."""
    return np.argsort(-counts, kind="stable")[:number]


def multi_hot(clips: Clips, labels: np.ndarray) -> np.ndarray:
    """Return which clips have which of `labels`: uint8, (clips, labels)."""
    column = np.full(CLASSES, -1)
    column[labels] = np.arange(len(labels))
    columns = column[clips.label]
    hot = np.zeros((len(clips.video_ids), len(labels)), np.uint8)
    hot[clips.clip[columns >= 0], columns[columns >= 0]] = 1
    return hot


def gather(paths: list[Path], rows: np.ndarray, values: np.ndarray) -> None:
    """Read the embeddings of the clips at `rows`, which rise or not, into `values`.

    Args:
        paths: parquet files, one after the other.
        rows: integers (clips,), counted through all files.
        values: uint8 (clips, 1, seconds, 128), filled in the order of `rows`, 0 after a clip's end.
    """
    size = values[0].size
    flat = values.reshape(len(values), size)
    by_row = np.argsort(rows)
    sorted_rows = rows[by_row]
    begin = 0
    for column in _embeddings(paths):
        first, last = np.searchsorted(sorted_rows, [begin, begin + len(column)])
        picked = column.take(pa.array(sorted_rows[first:last] - begin))
        lengths = pc.binary_length(picked).to_numpy()
        block = np.zeros((last - first, size), np.uint8)
        block[np.arange(size) < lengths[:, None]] = np.frombuffer(
            picked.buffers()[2], np.uint8, lengths.sum()
        )
        flat[by_row[first:last]] = block
        begin += len(column)


def prepare(settings: Prepare, protocol: SplitSettings, feature: str, classes: list[Class]) -> dict:
    """Write features and index; return what `metrics/data.json` holds.

    Memory grows with the bytes of the features, which are mapped, and hardly more.

    Raises:
        UserError: if the settings leave too few clips.
    """
    paths = [Path(settings.folder, "parquet", f"{name}.parquet") for name in settings.subsets]
    clips = read_clips(paths)
    seconds = MOST_SECONDS if settings.seconds == "any" else settings.seconds
    shortest = 1 if settings.seconds == "any" else seconds
    frames = clips.embedding_bytes // FRAME_BYTES
    of_length = (shortest <= frames) & (frames <= seconds)
    length = f"1 to {seconds}" if shortest < seconds else f"{seconds}"
    counts = np.bincount(clips.label[of_length[clips.clip]], minlength=CLASSES)
    if settings.top_labels > (present := np.count_nonzero(counts)):
        raise UserError(
            f"prepare.top_labels is {settings.top_labels}, but the clips of {length} "
            f"seconds hold {present} labels"
        )
    top = most_frequent(counts, settings.top_labels)
    labels = multi_hot(clips, top)
    tagged = np.flatnonzero(of_length & labels.any(axis=1))
    tagged = tagged[np.argsort(clips.video_ids[tagged])]
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    subsets = np.asarray(settings.subsets)[np.searchsorted(np.cumsum(sizes), tagged, "right")]
    names = [classes[place] for place in top]
    folds = make_folds(protocol, labels[tagged], [of.name for of in names], subsets)
    shape = (len(tagged), 1, seconds, FRAME_BYTES)
    spec = InputSpec(*shape[1:], scale=1 / 256)
    with write_features(feature, (shape, np.uint8), spec, {"name": "vggish"}) as (values, of_clip):
        gather(paths, tagged, values)
        of_clip[:] = frames[tagged]
    write_index(Index(clips.video_ids[tagged], labels[tagged], names, folds))
    return {
        "source": "generated sample" if is_sample(classes) else "AudioSet",
        "records": {path.stem: size for path, size in zip(paths, sizes, strict=True)},
        "clips": {
            "all": len(clips.video_ids),
            f"of_{length.replace(' ', '_')}_seconds": int(of_length.sum()),
            "with_a_top_label": len(tagged),
        },
        "classes": {
            of.name: {"id": of.id, "clips": int(counts[place])}
            for place, of in zip(top, names, strict=True)
        },
        "split": {split: len(getattr(folds[0], split)) for split in SPLITS},
    }


def check_subsets(subsets: list[str], converted: object) -> None:
    """Refuse subsets named twice, or that `convert.subsets` does not have.

    A parquet file that was left by a subset since removed is not to be used in silence.

    Raises:
        UserError: naming them.
    """
    if len(set(subsets)) < len(subsets) or not set(subsets) <= set(converted or []):
        raise UserError(
            f"params.yaml: prepare.subsets is {subsets}; it takes some of convert.subsets, "
            f"{converted}, each once"
        )


@entry_point
def main() -> None:
    """Run the stage."""
    settings = load(Prepare, "prepare")
    folder = Path(settings.folder)
    converted = read_params(folder.parent / "params.yaml").get("convert") or {}
    check_subsets(settings.subsets, converted.get("subsets"))
    classes = read_labels(folder / "class_labels_indices.csv")
    described = prepare(settings, load(SplitSettings, "protocol"), load_task().features, classes)
    write_json(METRICS, described)


if __name__ == "__main__":
    main()
