"""Stage `index`: the embeddings of all clips by one model, to search for what is near.

One safetensors file: `embeddings` float32 (clips, width), of which near ones are similar;
`ids` of the videos and `starts`, where in them a clip begins (seconds), `subsets`, the place of its
subset in the metadata's list, and `labels` 0 or 1, (clips, classes), of the metadata's names.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pydantic import Field
from safetensors.numpy import save_file

from tagging.base.errors import UserError, entry_point
from tagging.base.files import atomic_write
from tagging.data.clips import SPLITS, Index, read_index
from tagging.parameters import Section, load, read_entries
from tagging.scoring.scores import read_scores, scores_path

PATH = Path("data/index.safetensors")


class Indexed(Section):
    """The section `index`."""

    model: str = Field(description="the name of a model or student, whose first run is taken")
    folder: str = Field(description="the path of the folder with the parquet files of convert")
    subsets: list[str] = Field(description="a list of their names", min_length=1)


def embeddings_of(name: str, index: Index) -> np.ndarray:
    """Return the embedding of each clip by an entry's first run: float32 (clips, width).

    Raises:
        UserError: if there is no such entry.
    """
    kinds = [kind for kind in ("models", "students") if name in read_entries(kind)]
    if not kinds:
        raise UserError(f"params.yaml: index.model is {name!r}; it takes a model or a student")
    scores = read_scores(scores_path(kinds[0], name))
    run, fold = next(iter(scores.runs.items()))
    of_fold = index.folds[fold]
    found = np.zeros((len(index.ids), scores.outputs[f"{run}/test"].shape[1]), np.float32)
    for split in SPLITS:
        if len(places := getattr(of_fold, split)):
            found[places] = scores.outputs[f"{run}/{split}"]
    return found


def places_of(settings: Indexed, index: Index) -> tuple[np.ndarray, np.ndarray]:
    """Return each clip's subset, int8, and where it begins in its video (seconds), float32.

    Raises:
        UserError: if the subsets do not have all clips.
    """
    subsets = np.full(len(index.ids), -1, np.int8)
    starts = np.zeros(len(index.ids), np.float32)
    order = np.argsort(index.ids)
    for number, subset in enumerate(settings.subsets):
        path = Path(settings.folder, f"{subset}.parquet")
        table = pq.read_table(path, columns=["video_id", "start_time_seconds"])
        ids = np.array(table["video_id"].to_pylist(), index.ids.dtype)
        found = order[np.searchsorted(index.ids, ids, sorter=order).clip(max=len(order) - 1)]
        there = index.ids[found] == ids
        subsets[found[there]] = number
        starts[found[there]] = table["start_time_seconds"].to_numpy()[there]
    if (subsets < 0).any():
        raise UserError(
            f"params.yaml: index.subsets is {settings.subsets}, which have no clip "
            f"{index.ids[subsets < 0][0].decode()}; it takes those of prepare.subsets"
        )
    return subsets, starts


@entry_point
def main() -> None:
    """Run the stage."""
    settings, index = load(Indexed, "index"), read_index()
    subsets, starts = places_of(settings, index)
    about = {
        "model": settings.model,
        "subsets": settings.subsets,
        "classes": [of.name for of in index.classes],
    }
    tensors = {
        "embeddings": embeddings_of(settings.model, index),
        "ids": index.ids.view(np.uint8).reshape(len(index.ids), -1),
        "starts": starts,
        "subsets": subsets,
        "labels": np.ascontiguousarray(index.labels),
    }
    with atomic_write(PATH) as partial:
        save_file(tensors, partial, {"index": json.dumps(about)})


if __name__ == "__main__":
    main()
