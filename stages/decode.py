"""Stage `decode`: the recordings of a source as clips: waveforms of one rate, labels and splits.

Each file is decoded once, on all cores, and cut into windows while it is decoded, so that memory
does not grow with its length (except by the compressed bytes of a file in an archive). A clip is a
window of a recording: short recordings are padded, long ones cut into several windows.

Files are read ahead by plain threads: torchdata.nodes was not faster, and importing PyTorch for it
costs a second.
"""

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heapify, heappop, heappush
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.data.classes import Class
from tagging.data.clips import SPLITS, Fold, Index, write_features, write_index, write_json
from tagging.data.parameters import Float, Int, Params, Section
from tagging.data.spec import InputSpec
from tagging.data.splits import SplitSettings, make_folds
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.features.decoding import decode_blocks
from tagging.sources import esc, nsynth, sounds
from tagging.sources import folder as folder_source
from tagging.sources.recording import Recording

FEATURE = "waveform"
RECORDINGS = "recordings"  # the default folder of recordings, in the task's folder
FULL_SCALE = 32768  # of 16-bit samples
BLOCK_SECONDS = 10  # of a recording, decoded at a time


class Decode(Section):
    """The section `decode`: the recordings, and how they are cut into clips."""

    source: Literal["esc", "nsynth", "folder"]
    path: str | None = None
    """The source's archive or folder, relative to the repository's root; null for recordings/ in
    the task's folder."""
    labels: Literal["family", "qualities"] = "family"  # for nsynth
    classes: list[str] | None = Field(None, min_length=2)
    """Recordings with any other label are left out; null for all classes."""
    max_recordings: Int | None = Field(None, ge=1)
    """Recordings of a group, evenly spaced in the source's order; null for all."""
    sample_rate: Int = Field(ge=1000)  # Hz
    clip_seconds: Float = Field(gt=0)  # the longest clip; shorter recordings are padded
    max_windows: Int | None = Field(1, ge=1)  # clips of a recording; null for all
    min_level_db: Float | None = None
    """Windows whose mean power, in decibels relative to full scale, is lower are skipped; null for
    none."""


Source = esc.Source | nsynth.Source | folder_source.Source


class Window(NamedTuple):
    """A clip: the number of its recording, its first sample, and its number of samples."""

    recording: int
    start: int
    samples: int


def open_source(settings: Decode, task_folder: TaskFolder) -> Source:
    """Return the source of recordings."""
    path = Path(settings.path or task_folder.path / RECORDINGS)
    if settings.source == "nsynth":
        return nsynth.Source(path, settings.labels)
    return esc.Source(path) if settings.source == "esc" else folder_source.Source(path)


def select_recordings(recordings: list[Recording], settings: Decode) -> list[Recording]:
    """Return the recordings of `settings.classes`, at most `settings.max_recordings` of a group.

    Raises:
        UserError: if one of the classes is not a label of any recording.
    """
    if settings.classes is not None:
        known = {label for recording in recordings for label in recording.labels}
        if unknown := set(settings.classes) - known:
            raise UserError(
                f"decode.classes must be labels of the recordings ({', '.join(sorted(known))}), "
                f"got {min(unknown)!r}"
            )
        recordings = [r for r in recordings if set(r.labels) <= set(settings.classes)]
    if (most := settings.max_recordings) is None:
        return recordings
    groups: dict[str, list[int]] = {}
    for position, recording in enumerate(recordings):
        groups.setdefault(recording.group or recording.file, []).append(position)
    kept = []
    for positions in groups.values():
        number = min(most, len(positions))
        kept += [positions[len(positions) * k // number] for k in range(number)]
    return [recordings[position] for position in sorted(kept)]


def multi_hot(recordings: list[Recording], task: Task) -> tuple[np.ndarray, list[Class]]:
    """Return labels, uint8 (recordings, classes), and the classes, sorted by name.

    Raises:
        UserError: if a recording of a single-label task does not have exactly one label.
    """
    names = sorted({label for recording in recordings for label in recording.labels})
    columns = {name: column for column, name in enumerate(names)}
    labels = np.zeros((len(recordings), len(names)), np.uint8)
    for row, recording in zip(labels, recordings, strict=True):
        if task.type == "single_label" and len(recording.labels) != 1:
            raise UserError(
                f"{recording.id} must have one label, as task.type is single_label, got "
                f"{len(recording.labels)}; multi_label allows several"
            )
        row[[columns[label] for label in recording.labels]] = 1
    return labels, [Class(name, name) for name in names]


def cut_windows(
    blocks: Iterable[np.ndarray], recordings: Mapping[int, Recording], settings: Decode
) -> Iterator[tuple[Window, np.ndarray | None]]:
    """Yield the windows of a file's recordings while the file is decoded.

    Windows of one recording keep their order. A last window shorter than half a clip is left out,
    unless it is the recording's only one.

    Args:
        blocks: the whole file, float32 (samples,) each.
        recordings: the parts of the file to cut, by their numbers.
        settings: the section `decode`.

    Yields:
        The window, and its samples, float32 (samples,), or None where its level is below
        `settings.min_level_db`, so that it is not a clip.

    Raises:
        UserError: if a recording starts after the end of the file or is shorter than a sample.
    """
    rate = settings.sample_rate
    size = round(settings.clip_seconds * rate)
    ends: dict[int, float] = {}
    # The next window of each recording: its latest end, its start, the recording's number, and the
    # number of clips before it.
    queue: list[tuple[float, int, int, int]] = []
    for number, recording in recordings.items():
        start = round(recording.start * rate)
        ends[number] = math.inf if recording.end is None else round(recording.end * rate)
        end = min(start + size, ends[number])
        if start >= end:
            raise UserError(
                f"{recording.id} must have at least one sample at {rate} Hz, got none; see its "
                "start and end, and decode.clip_seconds"
            )
        queue.append((end, start, number, 0))
    heapify(queue)
    buffer, buffer_start = np.zeros(0, np.float32), 0
    for block in chain(blocks, [None]):
        if block is not None:
            buffer = np.concatenate([buffer, block])
        buffer_end = buffer_start + len(buffer)
        while queue and (block is None or queue[0][0] <= buffer_end):
            end, start, number, clips = heappop(queue)
            recording = recordings[number]
            stop = int(min(end, buffer_end))
            if start >= stop and start == round(recording.start * rate):
                raise UserError(
                    f"{recording.id} must start before the end of {recording.file}, "
                    f"{buffer_end / rate:.2f} s, got {recording.start:g} s"
                )
            if start >= stop or (clips and stop - start < size / 2):
                continue
            samples = buffer[start - buffer_start : stop - buffer_start]
            is_loud = settings.min_level_db is None or level_db(samples) >= settings.min_level_db
            yield Window(number, start, stop - start), samples if is_loud else None
            clips += is_loud
            if clips != settings.max_windows and stop < ends[number]:
                heappush(queue, (min(stop + size, ends[number]), stop, number, clips))
        # No window starts more than its length before the first end.
        needed = int(min(queue[0][0] - size, buffer_end)) if queue else buffer_end
        buffer = buffer[max(0, needed - buffer_start) :]
        buffer_start = max(buffer_start, needed)


def level_db(samples: np.ndarray) -> float:
    """Return the mean power of samples, float32 (samples,), in decibels relative to full scale."""
    power = np.mean(np.square(samples, dtype=np.float64))
    return 10 * np.log10(max(power, 1e-20))


def cut_all(
    source: Source,
    settings: Decode,
    recordings: list[Recording],
    receive: Callable[[Window, np.ndarray | None], None],
    progress: Progress,
) -> None:
    """Pass all windows, as `cut_windows` yields them, to `receive`, from threads in any order.

    Raises:
        UserError: if a file cannot be decoded, or a recording starts after its end.
        OSError: if the archive cannot be read.
    """
    file_recordings: dict[str, list[int]] = {}
    for number, recording in enumerate(recordings):
        file_recordings.setdefault(recording.file, []).append(number)
    files = list(file_recordings.items())

    def cut_file(position: int, content: bytes | Path) -> int:
        """Cut the recordings of a file; return their number."""
        file, numbers = files[position]
        parts = {number: recordings[number] for number in numbers}
        blocks = decode_blocks(content, file, settings.sample_rate, BLOCK_SECONDS)
        for window, samples in cut_windows(blocks, parts, settings):
            receive(window, samples)
        return len(numbers)

    # Threads suffice: libsndfile and soxr release the interpreter's lock. A few files are read
    # ahead.
    pending: deque[Future[int]] = deque()
    with ThreadPoolExecutor(threads := num_workers()) as pool:
        firsts = [recordings[numbers[0]] for _, numbers in files]
        for position, content in source.contents(firsts):
            pending.append(pool.submit(cut_file, position, content))
            if len(pending) > 2 * threads:
                progress.advance(pending.popleft().result())
        for future in pending:
            progress.advance(future.result())


def write_clips(
    source: Source,
    settings: Decode,
    recordings: list[Recording],
    feature: Path,
    progress: Progress,
) -> tuple[list[Window], int]:
    """Write the waveforms of all clips, in the order of the recordings.

    Args:
        source: the source of the recordings.
        settings: the section `decode`.
        recordings: the source's recordings.
        feature: the folder of the waveforms.
        progress: counts recordings.

    Returns:
        The clips, and the number of windows whose level is below `settings.min_level_db`.

    Raises:
        UserError: as by `cut_all`, or if there is no clip.
        OSError: as by `cut_all`, or if the disk is full.
    """
    size = round(settings.clip_seconds * settings.sample_rate)
    windows: list[Window] = []
    silent: list[Window] = []
    lock = Lock()
    feature.mkdir(parents=True, exist_ok=True)
    # The number of clips is known at the end only, and threads finish in any order.
    with TemporaryFile(dir=feature) as unsorted:

        def receive(window: Window, samples: np.ndarray | None) -> None:
            if samples is None:
                silent.append(window)
                return
            scaled = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
            padded = np.pad(scaled.astype(np.int16), (0, size - len(scaled)))
            with lock:
                windows.append(window)
                unsorted.write(padded.tobytes())

        cut_all(source, settings, recordings, receive, progress)
        if not windows:
            raise UserError(
                f"decode.min_level_db must be below the level of some clips, got "
                f"{settings.min_level_db}: all of them are lower"
            )
        unsorted.flush()
        order = sorted(range(len(windows)), key=lambda position: windows[position])
        waveforms = np.memmap(unsorted, np.int16, "r", shape=(len(windows), 1, size, 1))
        spec = InputSpec(1, size, 1, scale=1 / FULL_SCALE)
        about = {"name": FEATURE, "sample_rate": settings.sample_rate}
        with write_features(feature, len(windows), np.int16, spec, about) as (values, frames):
            for row, position in enumerate(order):
                values[row] = waveforms[position]
                frames[row] = windows[position].samples
    return [windows[position] for position in order], len(silent)


def split_clips(
    settings: SplitSettings,
    recordings: list[Recording],
    labels: np.ndarray,
    class_names: list[str],
    task: Task,
) -> list[Fold]:
    """Return the folds of the clips, with every class in the splits that the task needs.

    Args:
        settings: the section `split`.
        recordings: the recording of each clip.
        labels: 0 or 1, (clips, classes).
        class_names: the names of the classes.
        task: the section `task`.

    Raises:
        UserError: if a class is missing from a split, there are too few clips, or the source lacks
            what the method needs.
    """
    fold_numbers = [recording.fold for recording in recordings]
    try:
        folds = make_folds(
            settings,
            labels,
            class_names,
            [recording.split for recording in recordings],
            None if None in fold_numbers else np.array(fold_numbers),
            [recording.group or recording.file for recording in recordings],
        )
    except UserError as error:
        if settings.method != "group_k_fold" or settings.folds == 2:  # fewer are not possible
            raise
        raise UserError(
            f"{error}: use fewer split.folds, another split.seed, or more files or groups of each "
            "class"
        ) from None
    for split in task.complete_splits:
        for clips in (getattr(fold, split) for fold in folds):
            missing = ~labels[clips].any(axis=0)
            if len(clips) and missing.any():
                raise UserError(
                    f"split.method {settings.method} must have clips of each class in "
                    f"{', '.join(task.complete_splits)}, got none of "
                    f"{class_names[missing.argmax()]} in {split}: add files of it, or use another "
                    "method"
                )
    return folds


def summarize(
    settings: Decode,
    recordings: list[Recording],
    index: Index,
    silent_windows: int,
    path: Path,
) -> dict[str, Any]:
    """Return the counts of a task's recordings, clips and classes."""
    assert index.recordings is not None
    is_sample = {label.name for label in index.classes} == set(sounds.CLASSES)
    counts = index.labels.sum(axis=0, dtype=int)
    return {
        "source": "generated sample" if is_sample else settings.source,
        "records": {path.name: len(recordings)},
        "clips": {"all": len(index.ids)},
        "clip_seconds": settings.clip_seconds,
        "max_windows": settings.max_windows,
        "recordings_without_clips": len(recordings) - len(set(index.recordings.tolist())),
        "silent_windows": silent_windows,
        "classes": {
            label.name: {"id": label.id, "clips": int(count)}
            for label, count in zip(index.classes, counts, strict=True)
        },
        "folds": len(index.folds),
        "split": {
            split: sum(len(getattr(fold, split)) for fold in index.folds) for split in SPLITS
        },
    }


@entry_point
def main(folder: str) -> None:
    """Decode the recordings of a task."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    settings = params.section(Decode, "decode")
    split, task = params.section(SplitSettings, "split"), params.section(Task, "task")
    source = open_source(settings, task_folder)
    recordings = select_recordings(source.recordings(), settings)
    recording_labels, classes = multi_hot(recordings, task)
    style = params.runtime().progress
    with Progress("decode", len(recordings), "recording", style) as progress:
        windows, silent_windows = write_clips(
            source, settings, recordings, task_folder.feature(FEATURE), progress
        )
    numbers = np.array([window.recording for window in windows])
    labels = recording_labels[numbers]
    clip_recordings = [recordings[number] for number in numbers]
    names = [label.name for label in classes]
    folds = split_clips(split, clip_recordings, labels, names, task)
    ids = np.array(
        [
            f"{recording.id}@{window.start / settings.sample_rate:g}".encode()
            for recording, window in zip(clip_recordings, windows, strict=True)
        ]
    )
    index = Index(ids, labels, classes, folds, numbers.astype(np.int32))
    write_index(index, task_folder.index)
    summary = summarize(settings, recordings, index, silent_windows, source.path)
    write_json(task_folder.summary, summary)


if __name__ == "__main__":
    main(*sys.argv[1:])
