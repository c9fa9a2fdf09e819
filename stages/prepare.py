"""Stage `prepare`: the features, labels and splits of a task on AudioSet, from parquet files.

Its clips have one of the most frequent labels and are sorted by their video ids, so that the result
depends on the set of clips, not on their order in the files.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.data.classes import Class
from tagging.data.clips import SPLITS, Index, write_features, write_index, write_json
from tagging.data.parameters import PARAMS_NAME, Int, Params, Section
from tagging.data.spec import InputSpec
from tagging.data.splits import SplitSettings, make_folds
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.sources.audioset.labels import CLASSES, is_sample, read_labels
from tagging.sources.audioset.records import (
    FRAME_BYTES,
    VIDEO_ID_CHARACTERS,
    find_duplicate,
    locate_rows,
)
from tagging.sources.corrections import CORRECTIONS, apply_corrections, drop_clips

BATCH_ROWS = 4_096
MAX_SECONDS = 10  # of an AudioSet clip


class Prepare(Section):
    """The section `prepare`: the clips and labels of the task."""

    data_folder: str | None = None
    """Has parquet/ and class_labels_indices.csv, relative to the repository's root; null for the
    task's own data/."""
    subsets: list[str] = Field(min_length=1)  # of the root's convert.subsets
    clip_seconds: Int | None = Field(ge=1, le=MAX_SECONDS)  # null: clips of any length
    top_k_labels: Int = Field(ge=1, le=CLASSES)


class ClipTable(NamedTuple):
    """The clips of the parquet files, in their order, without the embeddings, which stay on disk.

    `video_ids` (S11) and `embedding_bytes` (int32) have a value for each clip. Labels are pairs,
    because a matrix of two million clips by 527 labels fills a gigabyte: the clip `clip[i]`, an
    index of the other two arrays, has the label `label[i]`.
    """

    video_ids: np.ndarray
    embedding_bytes: np.ndarray
    clip: np.ndarray
    label: np.ndarray


def read_clip_table(paths: list[Path]) -> ClipTable:
    """Read everything but the embeddings.

    Raises:
        UserError: if a file is missing or damaged, or a video id occurs twice.
    """
    tables = []
    for path in paths:
        with _readable(path):
            tables.append(pq.read_table(path, columns=["video_id", "labels"], pre_buffer=False))
    table = pa.concat_tables(tables)
    ids = table["video_id"].cast(pa.binary(VIDEO_ID_CHARACTERS)).combine_chunks()
    video_ids = np.frombuffer(ids.buffers()[1], f"S{VIDEO_ID_CHARACTERS}", len(ids))
    _refuse_duplicates(video_ids, paths, [len(table) for table in tables])
    lists = table["labels"].combine_chunks()
    return ClipTable(
        video_ids,
        pa.chunked_array(map(pc.binary_length, _iterate_embeddings(paths)), pa.int32()).to_numpy(),
        np.repeat(np.arange(len(lists), dtype=np.int32), pc.list_value_length(lists)),
        lists.flatten().to_numpy(),
    )


def _refuse_duplicates(video_ids: np.ndarray, paths: list[Path], sizes: list[int]) -> None:
    if (duplicate := find_duplicate(video_ids)) is None:
        return
    places = [
        f"row {row} of {paths[file]}"
        for file, row in locate_rows(np.flatnonzero(video_ids == duplicate), sizes)
    ]
    raise UserError(f"the video id {duplicate.decode()} occurs twice: {', '.join(places)}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Refuse a file that is missing or that `convert` did not write."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; run dvc repro, and see that convert.subsets has prepare.subsets"
        ) from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({' '.join(str(error).split())}); remove it and run dvc repro"
        ) from None


def _iterate_embeddings(paths: list[Path]) -> Iterator[pa.BinaryArray]:
    """Yield the embedding columns in batches: they are never all in memory."""
    for path in paths:
        # Pre-buffered pages stay in memory until the file is closed, in the end all of them.
        with _readable(path), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=["audio_embedding"]):
                yield batch["audio_embedding"]


def most_frequent(counts: np.ndarray, number: int) -> np.ndarray:
    """Return the indices of the `number` highest counts, highest first; ties by index."""
    return np.argsort(-counts, kind="stable")[:number]


def multi_hot(clips: ClipTable, labels: np.ndarray) -> np.ndarray:
    """Return which clips have which of `labels`: uint8 (clips, labels)."""
    column = np.full(CLASSES, -1)
    column[labels] = np.arange(len(labels))
    columns = column[clips.label]
    hot = np.zeros((len(clips.video_ids), len(labels)), np.uint8)
    hot[clips.clip[columns >= 0], columns[columns >= 0]] = 1
    return hot


def gather_embeddings(paths: list[Path], rows: np.ndarray, values: np.ndarray) -> None:
    """Read the embeddings of the clips at `rows` into `values`.

    Args:
        paths: the parquet files.
        rows: integers (clips,) in any order, counted through all files.
        values: uint8 (clips, 1, seconds, 128), filled in the order of `rows`, 0 after a clip's end.
    """
    size = values[0].size
    flat = values.reshape(len(values), size)
    order = np.argsort(rows)
    sorted_rows = rows[order]
    begin = 0
    for column in _iterate_embeddings(paths):
        first, last = np.searchsorted(sorted_rows, [begin, begin + len(column)])
        picked = column.take(pa.array(sorted_rows[first:last] - begin))
        lengths = pc.binary_length(picked).to_numpy()
        block = np.zeros((last - first, size), np.uint8)
        block[np.arange(size) < lengths[:, None]] = np.frombuffer(
            picked.buffers()[2], np.uint8, lengths.sum()
        )
        flat[order[first:last]] = block
        begin += len(column)


def prepare(
    settings: Prepare,
    data_folder: Path,
    split: SplitSettings,
    classes: list[Class],
    folder: TaskFolder,
    feature: str,
) -> dict[str, Any]:
    """Write the index and the features of a task; return its summary.

    Memory grows with the bytes of the features, which are mapped, and hardly more.

    Args:
        settings: the section `prepare`.
        data_folder: the folder with parquet/.
        split: the section `split`.
        classes: all classes of AudioSet.
        folder: the folder of the task.
        feature: the name of the feature.

    Raises:
        UserError: if the settings leave too few clips.
    """
    paths = [data_folder / "parquet" / f"{name}.parquet" for name in settings.subsets]
    clips = read_clip_table(paths)
    longest = MAX_SECONDS if settings.clip_seconds is None else settings.clip_seconds
    shortest = 1 if settings.clip_seconds is None else longest
    frames = clips.embedding_bytes // FRAME_BYTES
    has_length = (shortest <= frames) & (frames <= longest)
    length = f"1 to {longest}" if shortest < longest else f"{longest}"
    counts = np.bincount(clips.label[has_length[clips.clip]], minlength=CLASSES)
    if settings.top_k_labels > (present := np.count_nonzero(counts)):
        raise UserError(
            f"prepare.top_k_labels must be at most {present}, the labels of the clips of {length} "
            f"seconds, got {settings.top_k_labels}"
        )
    top = most_frequent(counts, settings.top_k_labels)
    labels = multi_hot(clips, top)
    selected = np.flatnonzero(has_length & labels.any(axis=1))
    selected = selected[np.argsort(clips.video_ids[selected])]
    sizes = [pq.read_metadata(path).num_rows for path in paths]
    subsets = np.asarray(settings.subsets)[np.searchsorted(np.cumsum(sizes), selected, "right")]
    top_classes = [classes[column] for column in top]
    names = [label.name for label in top_classes]
    folds = make_folds(split, labels[selected], names, subsets)
    corrected = apply_corrections(
        folder.path / CORRECTIONS,
        [video_id.decode() for video_id in clips.video_ids[selected]],
        labels[selected],
        names,
        single_label=False,
    )
    folds = drop_clips(folds, corrected.kept)
    spec = InputSpec(1, longest, FRAME_BYTES, scale=1 / 256)
    with write_features(
        folder.feature(feature), len(selected), np.uint8, spec, {"name": "vggish"}
    ) as (values, clip_frames):
        gather_embeddings(paths, selected, values)
        clip_frames[:] = frames[selected]
    index = Index(clips.video_ids[selected], corrected.labels, top_classes, folds)
    write_index(index, folder.index)
    return {
        "source": "generated sample" if is_sample(classes) else "AudioSet",
        "records": {path.stem: size for path, size in zip(paths, sizes, strict=True)},
        "clips": {
            "all": len(clips.video_ids),
            f"of_{length.replace(' ', '_')}_seconds": int(has_length.sum()),
            "with_a_top_label": len(selected),
        },
        "classes": {
            label.name: {"id": label.id, "clips": int(counts[column])}
            for column, label in zip(top, top_classes, strict=True)
        },
        "split": {split: len(getattr(folds[0], split)) for split in SPLITS},
    }


def check_subsets(subsets: list[str], converted: list[str]) -> None:
    """Refuse subsets that are repeated or that `convert.subsets` does not have.

    The parquet file of a subset that was removed there may still exist, but must not be used.

    Raises:
        UserError: naming them.
    """
    if len(set(subsets)) < len(subsets) or not set(subsets) <= set(converted):
        raise UserError(
            "params.yaml: prepare.subsets must be some of the root's convert.subsets, "
            f"{converted}, each once, got {subsets}"
        )


@entry_point
def main(folder: str) -> None:
    """Prepare the clips of a task."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    settings = params.section(Prepare, "prepare")
    split, task = params.section(SplitSettings, "split"), params.section(Task, "task")
    converted = Params.read(Path(PARAMS_NAME)).content.get("convert") or {}  # the root's
    check_subsets(settings.subsets, converted.get("subsets") or [])
    data_folder = Path(settings.data_folder or task_folder.data)
    classes = read_labels(data_folder / "class_labels_indices.csv")
    summary = prepare(settings, data_folder, split, classes, task_folder, task.features)
    write_json(task_folder.summary, summary)


if __name__ == "__main__":
    main(*sys.argv[1:])
