"""`tagging search`: what is near a clip of an index, or near a recording among others.

The search is exact: all distances are computed.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.commands import models
from tagging.commands.inputs import find_inputs
from tagging.commands.tagger import BLOCK_SECONDS, Tagger
from tagging.features.decoding import blocks

INDEX = "data/index.safetensors"  # in a task's folder


class Found(NamedTuple):
    """What is near: its distance, where it can be heard and, of a clip, the labels shared."""

    distance: float
    where: str
    shared: list[str] | None = None


class Clips(NamedTuple):
    """An index, as the stage `index` wrote it."""

    embeddings: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    subsets: np.ndarray
    labels: np.ndarray
    about: dict[str, Any]


def search(
    query: str,
    among: Sequence[str] | None,
    index: Path | None,
    model: str | None,
    top: int | None,
    as_json: bool,
) -> int:
    """Print what is near, nearest first; return how many files could not be compared.

    Args:
        query: SUBSET:VIDEO_ID or, with `among`, a recording.
        among: names of recordings; None to search in an index.
        index: the file of one; None for that of the project.
        model: of recordings; None for mn04_as.
        top: how many are printed; None for all.
        as_json: whether as JSON.

    Raises:
        UserError: if the query, the index or the model is not there, or they do not go together.
    """
    failed = 0
    if among is None and ":" not in query:
        raise UserError(
            f"{query} is no clip of an index, SUBSET:VIDEO_ID; to search for what sounds like a "
            "recording, add --in FOLDER"
        )
    if among is None and model is not None:
        raise UserError(
            "--model is for recordings, with --in; an index has the model it was made by"
        )
    if among is not None and index is not None:
        raise UserError("--index and --in are given; it takes one, what to search in")
    if among is None:
        found = near_clip(query, read_index(index or find_index()), top)
    else:
        found, failed = near_recording(query, among, model, top)
    if as_json:
        print(json.dumps([_as_json(of) for of in found], ensure_ascii=False, indent=1))
    else:
        for of in found:
            labels = f"  {', '.join(of.shared) or '-'}" if of.shared is not None else ""
            print(f"{of.distance:.3f}  {of.where}{labels}")
    return failed


def _as_json(found: Found) -> dict[str, Any]:
    entry: dict[str, Any] = {"distance": round(found.distance, 6), "where": found.where}
    return entry | ({} if found.shared is None else {"shared": found.shared})


def find_index() -> Path:
    """Return the index of the project that the working directory is in.

    Raises:
        UserError: if there is none, or several.
    """
    root = models.project() or Path()
    there = [
        folder / INDEX
        for folder in (root, *sorted(root.glob("tasks/*")))
        if (folder / INDEX).is_file()
    ]
    if len(there) != 1:
        held = f"several ({', '.join(map(str, there))})" if there else "none"
        raise UserError(
            f"of indexes there are {held}; give one by --index, or make one by dvc repro "
            "tasks/similarity/dvc.yaml:index"
        )
    return there[0]


def read_index(path: Path) -> Clips:
    """Read what the stage `index` wrote.

    Raises:
        UserError: if the file is missing, or no index.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["index"])
            fields = [file.get_tensor(name) for name in Clips._fields[:-1]]
    except FileNotFoundError:
        raise UserError(f"{path} is not there; it takes an index, of a stage index") from None
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{path} is no index ({error}); it takes one of a stage index") from None
    fields[1] = fields[1].view(f"S{fields[1].shape[1]}").ravel()
    return Clips(*fields, about)


def near_clip(query: str, clips: Clips, top: int | None) -> list[Found]:
    """Return the clips nearest to one of an index, without it.

    Args:
        query: SUBSET:VIDEO_ID.
        clips: the index.
        top: how many; None for all.

    Raises:
        UserError: if the index has no such clip.
    """
    subset, _, video = query.partition(":")
    subsets = clips.about["subsets"]
    if not video or subset not in subsets:
        raise UserError(
            f"the query is {query!r}; it takes SUBSET:VIDEO_ID, of the subsets "
            f"{', '.join(subsets)}, or a recording with --in"
        )
    places = (clips.ids == video.encode()) & (clips.subsets == subsets.index(subset))
    if not places.any():
        raise UserError(f"{subset} has no clip of the video {video!r} in this index")
    place = int(places.argmax())
    names = np.array(clips.about["classes"])
    mine = clips.labels[place] > 0
    return [
        Found(
            distance,
            f"https://youtu.be/{clips.ids[other].decode()}?t={int(clips.starts[other])}",
            names[mine & (clips.labels[other] > 0)].tolist(),
        )
        for distance, other in nearest(clips.embeddings, place, top)
    ]


def nearest(embeddings: np.ndarray, place: int, top: int | None) -> list[tuple[float, int]]:
    """Return the distances and places of what is nearest to one of them, nearest first.

    Args:
        embeddings: float32 (n, width).
        place: of the query, which is left out.
        top: how many; None for all.
    """
    query = embeddings[place]
    squares = np.einsum("ij,ij->i", embeddings, embeddings)
    distances = squares - 2 * (embeddings @ query) + squares[place]
    distances[place] = np.inf
    top = min(len(embeddings) - 1, len(embeddings) if top is None else top)
    chosen = np.argpartition(distances, max(0, top - 1))[:top]
    order = chosen[np.argsort(distances[chosen], kind="stable")]
    # Anew, as the difference of large squares is rough near 0.
    return [(float(np.linalg.norm(embeddings[k] - query)), int(k)) for k in order]


def near_recording(
    query: str, among: Sequence[str], model: str | None, top: int | None
) -> tuple[list[Found], int]:
    """Return the recordings nearest to one, and how many could not be heard.

    Raises:
        UserError: if the query cannot be heard, or there is no other recording.
    """
    tagger = Tagger(models.find(model or models.SOUND))
    if tagger.kind != "sound":
        raise UserError(f"{tagger.name} takes AudioSet's embeddings; --model takes one of sound")
    inputs, problems = find_inputs(among)
    paths = [
        of.path
        for of in inputs
        if of.kind == "sound" and of.path.resolve() != Path(query).resolve()
    ]
    problems += [f"{of.path} is no recording" for of in inputs if of.kind != "sound"]
    units = [_heard(tagger, Path(query))]
    heard = []
    with Progress("search", len(paths), "file", "auto" if sys.stderr.isatty() else "none") as bar:
        for path in paths:
            try:
                units.append(_heard(tagger, path))
                heard.append(path)
            except UserError as error:
                problems.append(str(error))
            except OSError as error:  # it is gone, or its disk fails
                problems.append(f"{path} cannot be read: {error.strerror or error}")
            bar.advance()
    if not heard and len(problems) == 1:
        raise UserError(problems[0])
    for problem in problems:
        tqdm.write(f"error: {problem}", file=sys.stderr)
    if not heard:
        raise UserError(f"{', '.join(among)} has no recording to compare {query} with")
    found = nearest(np.stack(units), 0, top)
    return [Found(distance, str(heard[k - 1])) for distance, k in found], len(problems)


def _heard(tagger: Tagger, path: Path) -> np.ndarray:
    """Return a recording's embedding, of length 1."""
    if not path.is_file():
        raise UserError(f"{path} is not there; it takes a recording")
    embedding = tagger.embed(blocks(path, str(path), tagger.rate, BLOCK_SECONDS))
    return embedding / max(float(np.linalg.norm(embedding)), 1e-12)
