"""Stage `prepare`: parquet files to tensors of the most frequent labels, split into three.

The result depends on the set of clips, not on the order they stand in.
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

from tagging.dataset import PREPARED, SPLITS, Split, split_path, write_split
from tagging.errors import UserError, entry_point
from tagging.files import write_json
from tagging.labels import CLASSES, Label, is_sample, read_labels
from tagging.parameters import Int, Section, load
from tagging.records import FRAME_BYTES, VIDEO_ID_CHARACTERS, find_twice, place_in_files

LABELS = Path("data/class_labels_indices.csv")
METRICS = Path("metrics/data.json")
BATCH_ROWS = 4_096
MOST_SECONDS = 10  # of an AudioSet clip
HELD_OUT = 10  # one in so many clips of bal_train validates in the official split

Part = Annotated[Int, Field(ge=1)]
Seconds = Annotated[Int, Field(ge=1, le=MOST_SECONDS)]


class Prepare(Section):
    """Which clips and labels are used, and how the clips are split."""

    subsets: list[str] = Field(description="a list of one or more of convert.subsets", min_length=1)
    seconds: Seconds | Literal["any"] = Field(
        description="a whole number of seconds from 1 to 10, or any"
    )
    top_labels: Int = Field(description=f"a whole number from 1 to {CLASSES}", ge=1, le=CLASSES)
    split: tuple[Part, Part, Part] | Literal["official"] = Field(
        description="three whole numbers of 1 or more, train, val and test, such as [8, 1, 1], or "
        "official (eval is the test split, a tenth of bal_train validates, the rest trains)"
    )
    seed: Int = Field(description="a whole number of 0 or more", ge=0)


class Converted(Section):
    """Which subsets there are."""

    subsets: list[str] = Field(description="a list of subsets")


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


def random_split(
    clips: int, parts: tuple[int, int, int], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split `clips` places at random: 22,582 at 8:1:1 are 18,064, 2,258 and 2,260.

    A part is a whole number of units of `clips // sum(parts)`; the last gets what is left, as in
    the published study.

    Raises:
        UserError: if a part would have fewer than two clips.
    """
    unit = clips // sum(parts)
    if unit * min(parts) < 2:
        raise UserError(
            f"{clips} clips are left; prepare.split {list(parts)} takes {2 * sum(parts)} or more, "
            "so that each part has two"
        )
    order = np.random.default_rng(seed).permutation(clips)
    first, second = parts[0] * unit, (parts[0] + parts[1]) * unit
    return order[:first], order[first:second], order[second:]


def official_split(
    names: list[str], subset: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split places as AudioSet itself does: tests on `eval`; part of `bal_train` validates.

    Args:
        names: the subsets.
        subset: the place in `names` of each clip's, (clips,).
        seed: decides which clips of bal_train validate.

    Raises:
        UserError: if bal_train or eval is not there, or has too few clips.
    """
    if not {"bal_train", "eval"} <= set(names):
        raise UserError(
            f"params.yaml: prepare.subsets is {names}; the official split takes bal_train and eval"
        )
    balanced = np.flatnonzero(subset == names.index("bal_train"))
    if len(balanced) < 2 * HELD_OUT:
        raise UserError(
            f"bal_train has {len(balanced)} such clips; the official split takes {2 * HELD_OUT} "
            "or more"
        )
    order = np.random.default_rng(seed).permutation(balanced)
    val = order[: len(balanced) // HELD_OUT]
    test = subset == names.index("eval")
    train = ~test
    train[val] = False
    return np.flatnonzero(train), val, np.flatnonzero(test)


def gather(paths: list[Path], rows: np.ndarray, seconds: int) -> np.ndarray:
    """Read the embeddings of the clips at `rows`, zero after each clip's end.

    Returns:
        uint8, (clips, seconds, 128).
    """
    size = seconds * FRAME_BYTES
    out = np.empty((len(rows), size), np.uint8)
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
        out[by_row[first:last]] = block
        begin += len(column)
    return out.reshape(-1, seconds, FRAME_BYTES)


def prepare(settings: Prepare, parquet: Path, names: list[Label], folder: Path = PREPARED) -> dict:
    """Write the three splits into `folder`; return what `metrics/data.json` holds.

    Memory grows with the bytes of the splits, hardly more than they.

    Raises:
        UserError: if the settings leave too few clips.
    """
    paths = [parquet / f"{subset}.parquet" for subset in settings.subsets]
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
    top_names = [names[index] for index in top]
    labels = multi_hot(clips, top)
    tagged = np.flatnonzero(of_length & labels.any(axis=1))
    tagged = tagged[np.argsort(clips.video_ids[tagged])]
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    if settings.split == "official":
        subset = np.searchsorted(np.cumsum(sizes), tagged, side="right")
        parts = official_split(settings.subsets, subset, settings.seed)
    else:
        parts = random_split(len(tagged), settings.split, settings.seed)
    splits = [tagged[places] for places in parts]
    embeddings = gather(paths, np.concatenate(splits), seconds)
    ends = np.cumsum([len(rows) for rows in splits])
    for split, rows, end in zip(SPLITS, splits, ends, strict=True):
        ids = clips.video_ids[rows].view(np.uint8).reshape(-1, VIDEO_ID_CHARACTERS)
        chosen = embeddings[end - len(rows) : end]
        of_clip = frames[rows].astype(np.uint8)
        write_split(split_path(split, folder), Split(chosen, of_clip, labels[rows], ids, top_names))
    return {
        "source": "generated sample" if is_sample(names) else "AudioSet",
        "records": {path.stem: size for path, size in zip(paths, sizes, strict=True)},
        "clips": {
            "all": len(clips.video_ids),
            f"of_{length.replace(' ', '_')}_seconds": int(of_length.sum()),
            "with_a_top_label": len(tagged),
        },
        "top_labels": {
            label.name: {"index": label.index, "mid": label.mid, "clips": int(counts[label.index])}
            for label in top_names
        },
        "split": {split: len(rows) for split, rows in zip(SPLITS, splits, strict=True)},
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
    check_subsets(settings.subsets, load(Converted, "convert").subsets)
    write_json(METRICS, prepare(settings, Path("data/parquet"), read_labels(LABELS)))


if __name__ == "__main__":
    main()
