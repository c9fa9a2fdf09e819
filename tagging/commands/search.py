"""`tagging search`: the clips of an index, or the recordings, that are most similar to a query.

The search is exact: it computes all distances.
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
from tagging.commands.inputs import find_input_files
from tagging.commands.project import find_project
from tagging.commands.tag_formats import to_json
from tagging.commands.tagger import BLOCK_SECONDS, Tagger
from tagging.data.parameters import Params
from tagging.data.task_folder import TaskFolder
from tagging.features.channels import Mixer
from tagging.features.decoding import decode_blocks


class Match(NamedTuple):
    """A result: its distance, its URL or path and, for a clip of an index, the shared labels."""

    distance: float
    location: str
    shared_labels: list[str] | None = None


class SearchIndex(NamedTuple):
    """An index of clips, as the stage `index` writes it.

    Attributes:
        embeddings: float32 (clips, width).
        ids: of the videos, bytes (clips,).
        starts: of the clips in their videos (seconds), float32 (clips,).
        subsets: positions in `metadata["subsets"]`, int8 (clips,).
        labels: 0 or 1, (clips, classes).
        metadata: the model, and the names of subsets and classes.
    """

    embeddings: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    subsets: np.ndarray
    labels: np.ndarray
    metadata: dict[str, Any]


def search(
    query: str,
    corpus: Sequence[str] | None,
    index: Path | None,
    model: str | None,
    top: int | None,
    as_json: bool,
) -> int:
    """Print the most similar ones, nearest first; return how many files could not be compared.

    Args:
        query: SUBSET:VIDEO_ID or, with `corpus`, a recording.
        corpus: names of the recordings to search; None to search an index.
        index: its file; None for that of the project.
        model: of recordings; None for mn04_as.
        top: number of results; None for all.
        as_json: print JSON.

    Raises:
        UserError: if the query, the index or the model does not exist, or they do not fit.
    """
    failures = 0
    if corpus is None and ":" not in query:
        raise UserError(
            f"QUERY must be a clip of an index, SUBSET:VIDEO_ID, got {query!r}; to search "
            "recordings, add --corpus FOLDER"
        )
    if corpus is None and model is not None:
        raise UserError("--model must come with --corpus; an index has its own model")
    if corpus is not None and index is not None:
        raise UserError("--index and --corpus exclude each other; use the one to search")
    if corpus is None:
        matches = match_clip(query, read_search_index(index or find_search_index()), top)
    else:
        matches, failures = match_recording(query, corpus, model, top)
    if as_json:
        print(to_json([_as_json(match) for match in matches], indent=1))
    else:
        for match in matches:
            shared = match.shared_labels
            labels = "" if shared is None else f"  {', '.join(shared) or '-'}"
            print(f"{match.distance:.3f}  {match.location}{labels}")
    return failures


def _as_json(match: Match) -> dict[str, Any]:
    entry: dict[str, Any] = {"distance": round(match.distance, 6), "location": match.location}
    return entry | ({} if match.shared_labels is None else {"shared_labels": match.shared_labels})


def find_search_index() -> Path:
    """Return the index of the project around the working directory.

    Raises:
        UserError: if it has no index or several.
    """
    root = find_project() or Path()
    indexes = [
        path
        for folder in map(TaskFolder, (root, *sorted(root.glob("tasks/*"))))
        if folder.params.is_file()
        for name in Params.read(folder.params).entries("search")
        if (path := folder.data / f"{name}.safetensors").is_file()
    ]
    if not indexes:
        raise UserError(
            "the project has no index; name one with --index, or make one with dvc repro "
            "tasks/similarity/dvc.yaml:index@index"
        )
    if len(indexes) > 1:
        raise UserError(
            f"the project has several indexes ({', '.join(map(str, indexes))}); name one with "
            "--index"
        )
    return indexes[0]


def read_search_index(path: Path) -> SearchIndex:
    """Read an index that the stage `index` wrote.

    Raises:
        UserError: if the file does not exist or is not an index.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})["index"])
            tensors = {name: file.get_tensor(name) for name in SearchIndex._fields[:-1]}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make an index with the stage index") from None
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(
            f"{path} is not an index ({error}); make one with the stage index"
        ) from None
    ids = tensors["ids"]
    tensors["ids"] = ids.view(f"S{ids.shape[1]}").ravel()
    return SearchIndex(**tensors, metadata=metadata)


def match_clip(query: str, index: SearchIndex, top: int | None) -> list[Match]:
    """Return the clips that are nearest to a clip of an index, without the clip itself.

    Args:
        query: SUBSET:VIDEO_ID.
        index: to search.
        top: number of results; None for all.

    Raises:
        UserError: if the clip is not in the index.
    """
    subset, _, video = query.partition(":")
    subsets = index.metadata["subsets"]
    if not video or subset not in subsets:
        raise UserError(
            f"QUERY must be SUBSET:VIDEO_ID with a subset of {', '.join(subsets)}, or a recording "
            f"with --corpus, got {query!r}"
        )
    is_query = (index.ids == video.encode()) & (index.subsets == subsets.index(subset))
    if not is_query.any():
        raise UserError(f"subset {subset} of the index has no clip of the video {video!r}")
    row = int(is_query.argmax())
    class_names = np.array(index.metadata["classes"])
    query_labels = index.labels[row] > 0
    return [
        Match(
            distance,
            f"https://youtu.be/{index.ids[other].decode()}?t={int(index.starts[other])}",
            class_names[query_labels & (index.labels[other] > 0)].tolist(),
        )
        for distance, other in nearest(index.embeddings, row, top)
    ]


def nearest(embeddings: np.ndarray, query: int, top: int | None) -> list[tuple[float, int]]:
    """Return distances and rows of the embeddings nearest to one of them, nearest first.

    Args:
        embeddings: float32 (n, width).
        query: the row of the query, which is not returned.
        top: number of results; None for all.
    """
    vector = embeddings[query]
    squares = np.einsum("ij,ij->i", embeddings, embeddings)
    distances = squares - 2 * (embeddings @ vector) + squares[query]
    distances[query] = np.inf
    top = min(len(embeddings) - 1, len(embeddings) if top is None else top)
    candidates = np.argpartition(distances, max(0, top - 1))[:top]
    rows = candidates[np.argsort(distances[candidates], kind="stable")]
    # Computed again, as the difference of large squares is inexact near 0.
    return [(float(np.linalg.norm(embeddings[row] - vector)), int(row)) for row in rows]


def match_recording(
    query: str, corpus: Sequence[str], model: str | None, top: int | None
) -> tuple[list[Match], int]:
    """Return the recordings nearest to a recording, and how many files could not be compared.

    Raises:
        UserError: if the query cannot be read, or the corpus has no other recording.
    """
    tagger = Tagger(models.find_model(model or models.DEFAULT_SOUND_MODEL))
    if tagger.kind != "sound":
        raise UserError(
            f"--model must be a model of sound, got {tagger.name}, which reads AudioSet's "
            "embeddings"
        )
    files, problems, note = find_input_files(corpus)
    paths = [
        file.path
        for file in files
        if file.kind == "sound" and file.path.resolve() != Path(query).resolve()
    ]
    problems += [f"{file.path} is not a recording" for file in files if file.kind != "sound"]
    embeddings = [_embed_recording(tagger, Path(query))]
    compared = []
    with Progress("search", len(paths), "file", "auto" if sys.stderr.isatty() else "none") as bar:
        for path in paths:
            try:
                embeddings.append(_embed_recording(tagger, path))
                compared.append(path)
            except UserError as error:
                problems.append(str(error))
            except OSError as error:  # the file was removed, or its disk fails
                problems.append(f"{path} cannot be read: {error.strerror or error}")
            bar.advance()
    if not compared and len(problems) == 1:
        raise UserError(problems[0])
    for problem in problems:
        tqdm.write(f"error: {problem}", file=sys.stderr)
    if note:
        tqdm.write(f"note: {note}", file=sys.stderr)
    if not compared:
        raise UserError(f"--corpus {', '.join(corpus)} has no recording to compare {query} with")
    neighbours = nearest(np.stack(embeddings), 0, top)
    matches = [Match(distance, str(compared[row - 1])) for distance, row in neighbours]
    return matches, len(problems)


def _embed_recording(tagger: Tagger, path: Path) -> np.ndarray:
    """Return a recording's embedding, normalized to length 1."""
    if not path.is_file():
        raise UserError(f"recording {path} does not exist")
    mixer = Mixer(str(path))
    pieces = decode_blocks(path, mixer.name, tagger.sample_rate, BLOCK_SECONDS, mixer)
    embedding = tagger.embed(pieces)
    if warning := mixer.describe_loss():
        tqdm.write(f"warning: {warning}", file=sys.stderr)
    return embedding / max(float(np.linalg.norm(embedding)), 1e-12)
