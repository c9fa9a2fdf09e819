"""Stage `index@<name>`: the embeddings of all clips by one model, to search for similar clips.

One safetensors file: `embeddings` float32 (clips, width), `ids` of the videos, `starts` of the
clips in them (seconds), `subsets` as positions in the metadata's list, and `labels` 0 or 1,
(clips, classes), of the metadata's classes.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field
from safetensors.numpy import save_file

from tagging.base.errors import UserError, entry_point
from tagging.base.files import atomic_write
from tagging.data.clips import SPLITS, Index, read_index
from tagging.data.parameters import Params, Section
from tagging.data.scores import Scores, read_scores
from tagging.data.task_folder import TaskFolder


class Search(Section):
    """An entry of the section `search`."""

    model: str  # of `models` or `finetuned`; its first run computes the embeddings
    data_folder: str  # has parquet/, relative to the repository's root
    subsets: list[str] = Field(min_length=1)  # those of prepare.subsets


def join_splits(scores: Scores, index: Index, name: str) -> np.ndarray:
    """Return the output for each clip by the first run of an entry: float32 (clips, width).

    It is zero for clips in no split, which corrections drop.

    Raises:
        UserError: if the training clips were not scored.
    """
    run, fold_number = next(iter(scores.runs.items()))
    if f"{run}/train" not in scores.outputs:
        raise UserError(f"params.yaml: score_train of {name} must be true, as search reads it")
    fold = index.folds[fold_number]
    embeddings = np.zeros((len(index.ids), scores.outputs[f"{run}/test"].shape[1]), np.float32)
    for split in SPLITS:
        if len(clips := getattr(fold, split)):
            embeddings[clips] = scores.outputs[f"{run}/{split}"]
    return embeddings


def locate_clips(settings: Search, index: Index) -> tuple[np.ndarray, np.ndarray]:
    """Return each clip's subset, int8, and its start in its video (seconds), float32.

    Raises:
        UserError: if a clip is in none of the subsets.
    """
    subsets = np.full(len(index.ids), -1, np.int8)
    starts = np.zeros(len(index.ids), np.float32)
    order = np.argsort(index.ids)
    for number, subset in enumerate(settings.subsets):
        path = Path(settings.data_folder, "parquet", f"{subset}.parquet")
        table = pq.read_table(path, columns=["video_id", "start_time_seconds"])
        ids = np.array(table["video_id"].to_pylist(), index.ids.dtype)
        clips = order[np.searchsorted(index.ids, ids, sorter=order).clip(max=len(order) - 1)]
        is_clip = index.ids[clips] == ids
        subsets[clips[is_clip]] = number
        starts[clips[is_clip]] = table["start_time_seconds"].to_numpy()[is_clip]
    if (subsets < 0).any():
        raise UserError(
            f"the subsets of an index must be those of prepare.subsets, got {settings.subsets}: "
            f"none of them has the clip {index.ids[subsets < 0][0].decode()}"
        )
    return subsets, starts


@entry_point
def main(folder: str, name: str) -> None:
    """Write the index of the entry `name` of `search`."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    entries = params.entries("search")
    if name not in entries:
        raise UserError(f"{params.path}: search.{name} is missing")
    settings = params.parse(Search, entries[name], f"search.{name}")
    if settings.model not in params.entries("models") | params.entries("finetuned"):
        raise UserError(
            f"{params.path}: search.{name}.model must be the name of an entry of models or "
            f"finetuned, got {settings.model!r}"
        )
    index = read_index(task_folder.index)
    subsets, starts = locate_clips(settings, index)
    clips = np.sort(np.concatenate(index.folds[0]))  # without those that corrections drop
    metadata = {
        "model": settings.model,
        "subsets": settings.subsets,
        "classes": [label.name for label in index.classes],
    }
    scores = read_scores(task_folder.scores("models", settings.model))
    tensors = {
        "embeddings": join_splits(scores, index, settings.model)[clips],
        "ids": index.ids[clips].view(np.uint8).reshape(len(clips), -1),
        "starts": starts[clips],
        "subsets": subsets[clips],
        "labels": index.labels[clips],
    }
    with atomic_write(task_folder.data / f"{name}.safetensors") as partial:
        save_file(tensors, partial, {"index": json.dumps(metadata)})


if __name__ == "__main__":
    main(*sys.argv[1:])
