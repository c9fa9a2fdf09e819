"""Stage `prepare`: parquet files to tensors of the most frequent labels, split at random.

The result depends on the set of clips, not on the order they stand in.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from tagging.dataset import SPLITS, Split, split_path, write_split
from tagging.errors import UserError, entry_point
from tagging.files import write_json
from tagging.labels import CLASSES, Label, is_sample, read_labels
from tagging.parameters import Int, Section, load
from tagging.records import FRAME_BYTES, VIDEO_ID_CHARACTERS

LABELS = Path("data/class_labels_indices.csv")
METRICS = Path("metrics/data.json")

Part = Annotated[Int, Field(ge=1)]


class Prepare(Section):
    """Which clips and labels are used, and how the clips are split."""

    subsets: list[str] = Field(description="a list of one or more of convert.subsets", min_length=1)
    seconds: Int = Field(description="a whole number of seconds from 1 to 10", ge=1, le=10)
    top_labels: Int = Field(description=f"a whole number from 1 to {CLASSES}", ge=1, le=CLASSES)
    split: tuple[Part, Part, Part] = Field(
        description="three whole numbers of 1 or more, train, val and test, such as [8, 1, 1]"
    )
    seed: Int = Field(description="a whole number of 0 or more", ge=0)


class Clips(NamedTuple):
    """What selects clips, sorted by video id; embeddings stay on disk.

    `row` counts a clip's place through all parquet files; `labels` is a multi-hot matrix of
    dtype bool and shape (clips, 527).
    """

    video_ids: np.ndarray
    row: np.ndarray
    seconds: np.ndarray
    labels: np.ndarray

    def only(self, keep: np.ndarray) -> "Clips":
        """Return the clips at the places `keep` (a mask or indices)."""
        return Clips(*(column[keep] for column in self))


def read_clips(paths: list[Path]) -> Clips:
    """Read everything but the embeddings.

    Raises:
        UserError: if a file is missing, or a video id stands in the files twice.
    """
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path} is missing; prepare.subsets takes subsets of convert.subsets only"
            )
    table = pa.concat_tables(pq.read_table(path, columns=["video_id", "labels"]) for path in paths)
    frames = [pc.divide(pc.binary_length(column), FRAME_BYTES) for column in _embeddings(paths)]
    video_ids = table["video_id"].to_numpy()
    lists = table["labels"].combine_chunks()
    labels = np.zeros((len(table), CLASSES), bool)
    labels[np.repeat(np.arange(len(table)), pc.list_value_length(lists)), lists.flatten()] = True
    order = np.argsort(video_ids)
    clips = Clips(video_ids, np.arange(len(table)), pa.chunked_array(frames).to_numpy(), labels)
    clips = clips.only(order)
    twice = np.flatnonzero(clips.video_ids[1:] == clips.video_ids[:-1])
    if len(twice):
        files = ", ".join(map(str, paths))
        raise UserError(f"the video id {clips.video_ids[twice[0]]} stands twice in {files}")
    return clips


def _embeddings(paths: list[Path]):
    """Yield the embedding columns piece by piece: they are never all in memory."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["audio_embedding"]):
                yield batch["audio_embedding"]


def most_frequent(labels: np.ndarray, number: int) -> np.ndarray:
    """Return the indices of the `number` most frequent labels, most frequent first.

    Args:
        labels: multi-hot, bool, (clips, 527). Equal counts are ordered by index.
    """
    counts = labels.sum(axis=0)
    return np.argsort(-counts, kind="stable")[:number]


def random_split(
    clips: int, parts: tuple[int, int, int], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split `clips` places at random: 22,582 at 8:1:1 are 18,064, 2,258 and 2,260.

    A part is a whole number of units of `clips // sum(parts)`; the last gets what is left, as in
    the published study.

    Raises:
        UserError: if a part would be empty.
    """
    unit = clips // sum(parts)
    if unit == 0:
        raise UserError(f"{clips} clips are left; prepare.split {list(parts)} takes more of them")
    order = np.random.default_rng(seed).permutation(clips)
    first, second = parts[0] * unit, (parts[0] + parts[1]) * unit
    return order[:first], order[first:second], order[second:]


def gather(paths: list[Path], rows: np.ndarray, seconds: int) -> np.ndarray:
    """Read the embeddings of the clips at `rows`: uint8, (clips, seconds, 128)."""
    out = np.empty((len(rows), seconds * FRAME_BYTES), np.uint8)
    by_row = np.argsort(rows)
    sorted_rows = rows[by_row]
    begin = 0
    for column in _embeddings(paths):
        first, last = np.searchsorted(sorted_rows, [begin, begin + len(column)])
        picked = column.take(pa.array(sorted_rows[first:last] - begin))
        # All picked clips have the same length: their bytes lie side by side in one buffer.
        flat = np.frombuffer(b"".join(picked.to_pylist()), np.uint8)
        out[by_row[first:last]] = flat.reshape(last - first, seconds * FRAME_BYTES)
        begin += len(column)
    return out.reshape(len(rows), seconds, FRAME_BYTES)


def prepare(settings: Prepare, parquet: Path, names: list[Label]) -> dict:
    """Write the three splits; return what `metrics/data.json` holds.

    Raises:
        UserError: if the settings leave too few clips.
    """
    paths = [parquet / f"{subset}.parquet" for subset in settings.subsets]
    clips = read_clips(paths)
    of_length = clips.only(clips.seconds == settings.seconds)
    top = most_frequent(of_length.labels, settings.top_labels)
    counts = of_length.labels[:, top].sum(axis=0)
    if not len(of_length.row) or counts[-1] == 0:
        raise UserError(
            f"prepare.top_labels is {settings.top_labels}, but the clips of {settings.seconds} "
            f"seconds hold {(of_length.labels.any(axis=0)).sum()} labels"
        )
    tagged = of_length.only(of_length.labels[:, top].any(axis=1))
    top_names = [names[index] for index in top]
    sizes = {}
    for split, places in zip(
        SPLITS, random_split(len(tagged.row), settings.split, settings.seed), strict=True
    ):
        chosen = tagged.only(places)
        write_split(
            split_path(split),
            Split(
                gather(paths, chosen.row, settings.seconds),
                chosen.labels[:, top].astype(np.uint8),
                np.array(chosen.video_ids.astype("S"))
                .view(np.uint8)
                .reshape(-1, VIDEO_ID_CHARACTERS),
                top_names,
            ),
        )
        sizes[split] = len(places)
    return {
        "source": "generated sample" if is_sample(names) else "AudioSet",
        "records": {path.stem: pq.read_metadata(path).num_rows for path in paths},
        "clips": {
            "all": len(clips.row),
            f"of_{settings.seconds}_seconds": len(of_length.row),
            "with_a_top_label": len(tagged.row),
        },
        "top_labels": {
            label.name: {"index": label.index, "mid": label.mid, "clips": int(count)}
            for label, count in zip(top_names, counts, strict=True)
        },
        "split": sizes,
    }


@entry_point
def main() -> None:
    """Run the stage."""
    settings = load(Prepare, "prepare")
    write_json(METRICS, prepare(settings, Path("data/parquet"), read_labels(LABELS)))


if __name__ == "__main__":
    main()
