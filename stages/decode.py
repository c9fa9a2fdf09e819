"""Stage `decode`: the recordings of a source as clips: waveforms of one rate, labels and splits.

Each file is decoded once, on all cores, and cut into windows while it is decoded, so that memory
does not grow with its length (except by the compressed bytes of a file in an archive). A clip is a
window of a recording: short recordings are padded, long ones cut into several windows. Files of the
same bytes are copies of one recording, and in one split.

Files are read ahead by plain threads: torchdata.nodes was not faster, and importing PyTorch for it
costs a second.
"""

import hashlib
import io
import math
import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heapify, heappop, heappush
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.data.classes import Class
from tagging.data.clips import (
    SPLITS,
    Fold,
    Index,
    quantize,
    write_features,
    write_index,
    write_json,
)
from tagging.data.parameters import Float, Int, Params, Section
from tagging.data.spec import InputSpec
from tagging.data.splits import SplitSettings, check_classes, make_folds
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.features.channels import Mixer
from tagging.features.decoding import decode_blocks
from tagging.sources import esc, nsynth, sounds
from tagging.sources import folder as folder_source
from tagging.sources.copies import find_copies, merge_copies
from tagging.sources.corrections import CORRECTIONS, apply_corrections, drop_clips
from tagging.sources.recording import Recording

FEATURE = "waveform"
RECORDINGS = "recordings"  # the default folder of recordings, in the task's folder
BLOCK_SECONDS = 10  # of a recording, decoded at a time
MAX_NAMED = 5  # files in a warning
MAX_GROUPS = 50  # in the summary


class Decode(Section):
    """The section `decode`: the recordings, and how they are cut into clips."""

    source: Literal["esc", "nsynth", "folder"]
    path: str | None = None
    """The source's archive or folder, relative to the repository's root; null for recordings/ in
    the task's folder."""
    table: str | None = None
    """The table of a folder's clips, relative to the repository's root; null, or the same as `path`
    where that has its labels in it. A dependency of the stage of its own."""
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
    channel: Literal["mean", "first", "loudest"] | Annotated[Int, Field(ge=1)] = "mean"
    """The mean of a file's channels, or one of them: the first, the loudest of the file, or a
    number from 1."""
    unreadable: Literal["fail", "skip"] = "fail"
    """Whether files that cannot be decoded end the stage, or are left out and named in
    data/summary.json."""


Source = esc.Source | nsynth.Source | folder_source.Source


class UnreadableError(UserError):
    """A file cannot be decoded."""


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
    if settings.source == "esc":
        return esc.Source(path)
    has_own = settings.table not in (None, settings.path)
    return folder_source.Source(path, Path(str(settings.table)) if has_own else None)


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


class DecodedFiles(NamedTuple):
    """The files of a source after decoding; keys are their names.

    Attributes:
        problems: the errors of files that have no clips.
        digests: SHA-256 of the other files' bytes.
        losses: sentences about files whose mean channel is far below the loudest.
    """

    problems: dict[str, UserError]
    digests: dict[str, bytes]
    losses: dict[str, str]


def cut_all(
    source: Source,
    settings: Decode,
    recordings: list[Recording],
    receive: Callable[[Window, np.ndarray | None], None],
    progress: Progress,
) -> DecodedFiles:
    """Pass all windows, as `cut_windows` yields them, to `receive`, from threads in any order.

    Windows of a file with problems may be passed as well.

    Raises:
        UserError: if the whole archive cannot be read.
        OSError: if the archive cannot be read.
    """
    file_recordings: dict[str, list[int]] = {}
    for number, recording in enumerate(recordings):
        file_recordings.setdefault(recording.file, []).append(number)
    files = list(file_recordings.items())
    decoded = DecodedFiles({}, {}, {})

    def cut_file(position: int, content: bytes | Path | UserError) -> int:
        """Cut the recordings of a file; return their number."""
        file, numbers = files[position]
        parts = {number: recordings[number] for number in numbers}
        try:
            if isinstance(content, UserError):
                raise UnreadableError(str(content))
            mixer = Mixer(file, find_channel(content, file, settings))
            for window, samples in cut_windows(_decode(content, mixer, settings), parts, settings):
                receive(window, samples)
            decoded.digests[file] = hash_content(content)
        except UserError as error:
            decoded.problems[file] = error
        else:
            if loss := mixer.describe_loss():
                decoded.losses[file] = loss
        return len(numbers)

    # Threads suffice: decoders and soxr release the interpreter's lock. A few files are read
    # ahead.
    pending: deque[Future[int]] = deque()
    with ThreadPoolExecutor(threads := num_workers()) as pool:
        firsts = [recordings[numbers[0]] for _, numbers in files]
        for position, content in read_contents(source, firsts):
            pending.append(pool.submit(cut_file, position, content))
            if len(pending) > 2 * threads:
                progress.advance(pending.popleft().result())
        for future in pending:
            progress.advance(future.result())
    return decoded


def read_contents(
    source: Source, recordings: Sequence[Recording]
) -> Iterator[tuple[int, bytes | Path | UserError]]:
    """Yield each recording's position in the list with its file's content, or why it has none.

    Args:
        source: the source of the recordings.
        recordings: one of each file.

    Raises:
        UserError: if the source is read as a whole, and is damaged.
    """
    unread = dict(enumerate(recordings))
    try:
        for position, content in source.contents(recordings):
            del unread[position]
            yield position, content
    except UserError:
        if isinstance(source, nsynth.Source):
            raise
        # The error does not tell the file, so that each of the others is read for itself.
        for position, recording in unread.items():
            try:
                ((_, content),) = source.contents([recording])
            except UserError as error:
                yield position, error
            else:
                yield position, content


def _decode(content: bytes | Path, mixer: Mixer, settings: Decode) -> Iterator[np.ndarray]:
    """Yield a file's waveform in blocks, float32 (samples,).

    Raises:
        UnreadableError: if the file cannot be decoded.
    """
    try:
        yield from decode_blocks(content, mixer.name, settings.sample_rate, BLOCK_SECONDS, mixer)
    except UserError as error:
        raise UnreadableError(str(error)) from None
    except OSError as error:  # the file was removed, or its disk fails
        raise UnreadableError(f"{mixer.name} cannot be read: {error.strerror or error}") from None


def find_channel(content: bytes | Path, file: str, settings: Decode) -> int | None:
    """Return the number of the channel to use, from 1, or None for the mean of all.

    For the loudest channel, the whole file is decoded.

    Raises:
        UnreadableError: if the file cannot be decoded.
    """
    if settings.channel == "mean":
        return None
    if settings.channel == "first":
        return 1
    if settings.channel == "loudest":
        mixer = Mixer(file)
        for _ in _decode(content, mixer, settings):
            pass
        return mixer.loudest
    return settings.channel


def hash_content(content: bytes | Path) -> bytes:
    """Return the SHA-256 of a file's bytes."""
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def write_clips(
    source: Source,
    settings: Decode,
    recordings: list[Recording],
    feature: Path,
    progress: Progress,
) -> tuple[list[Window], int, DecodedFiles]:
    """Write the waveforms of all clips, in the order of the recordings.

    Args:
        source: the source of the recordings.
        settings: the section `decode`.
        recordings: the source's recordings.
        feature: the folder of the waveforms.
        progress: counts recordings.

    Returns:
        The clips, the number of windows whose level is below `settings.min_level_db`, and the
        files.

    Raises:
        UserError: naming all files that have no clips, unless they are skipped; as by `cut_all`; or
            if there is no clip.
        OSError: as by `cut_all`, or if the disk is full.
    """
    size = round(settings.clip_seconds * settings.sample_rate)
    windows: list[Window] = []
    scales: list[float] = []
    silent: list[Window] = []
    lock = Lock()
    feature.mkdir(parents=True, exist_ok=True)
    # The number of clips is known at the end only, and threads finish in any order.
    with TemporaryFile(dir=feature) as unsorted:

        def receive(window: Window, samples: np.ndarray | None) -> None:
            if samples is None:
                silent.append(window)
                return
            quantized, scale = quantize(samples)
            padded = np.pad(quantized, (0, size - len(quantized)))
            with lock:
                windows.append(window)
                scales.append(scale)
                unsorted.write(padded.tobytes())

        decoded = cut_all(source, settings, recordings, receive, progress)
        check_problems(decoded, settings)

        def is_whole(window: Window) -> bool:
            return recordings[window.recording].file not in decoded.problems

        order = [position for position, window in enumerate(windows) if is_whole(window)]
        order.sort(key=lambda position: windows[position])
        if not order:
            raise UserError(
                f"decode.min_level_db must be below the level of some clips, got "
                f"{settings.min_level_db}: all of them are lower"
            )
        unsorted.flush()
        waveforms = np.memmap(unsorted, np.int16, "r", shape=(len(windows), 1, size, 1))
        spec = InputSpec(1, size, 1)
        about = {"name": FEATURE, "sample_rate": settings.sample_rate}
        with write_features(
            feature, len(order), np.int16, spec, about, np.array(scales, np.float32)[order]
        ) as (values, frames):
            for row, position in enumerate(order):
                values[row] = waveforms[position]
                frames[row] = windows[position].samples
    return [windows[position] for position in order], sum(map(is_whole, silent)), decoded


def check_problems(decoded: DecodedFiles, settings: Decode) -> None:
    """Refuse files that have no clips, all in one error, except those to skip.

    Raises:
        UserError: if there are any, or all files are to be skipped.
    """
    problems, num_files = decoded.problems, len(decoded.problems) + len(decoded.digests)
    is_skipping = settings.unreadable == "skip"
    if is_skipping and decoded.digests:
        problems = {
            file: problem
            for file, problem in problems.items()
            if not isinstance(problem, UnreadableError)
        }
    if not problems:
        return
    sentences = [str(problems[file]) for file in sorted(problems)]
    is_unreadable = any(isinstance(problem, UnreadableError) for problem in problems.values())
    remedy = "; decode.unreadable: skip leaves out files that cannot be decoded"
    if not is_unreadable or is_skipping:
        remedy = ""
    if len(sentences) == 1:
        raise UserError(sentences[0] + remedy)
    listed = "\n  ".join(sentences)
    raise UserError(f"{len(sentences):,} of {num_files:,} files have no clips{remedy}\n  {listed}")


def keep_together(fold: Fold, names: Sequence[Hashable]) -> Fold:
    """Return a split with clips of one name moved to the split of the first of them.

    Args:
        fold: of all clips.
        names: of the clips, (clips,).
    """
    order = np.concatenate(fold)
    splits = np.empty(len(names), int)
    for number, clips in enumerate(fold):
        splits[clips] = number
    first: dict[Hashable, int] = {}
    moved = splits[[first.setdefault(name, clip) for clip, name in enumerate(names)]]
    return Fold(*(order[moved[order] == number] for number in range(len(fold))))


def split_clips(
    settings: SplitSettings,
    recordings: list[Recording],
    labels: np.ndarray,
    class_names: list[str],
    task: Task,
    contents: Sequence[Hashable],
) -> list[Fold]:
    """Return the folds of the clips, with every class in the splits that the task needs.

    Args:
        settings: the section `split`.
        recordings: the recording of each clip.
        labels: 0 or 1, (clips, classes).
        class_names: the names of the classes.
        task: the section `task`.
        contents: of each clip, equal for copies; a random split, which ignores groups, has them in
            one split.

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
    if settings.method == "random":
        folds = [keep_together(fold, contents) for fold in folds]
    check_classes(settings, folds, labels, class_names, task)
    return folds


def summarize(
    settings: Decode,
    recordings: list[Recording],
    index: Index,
    silent_windows: int,
    problems: Mapping[str, UserError],
    path: Path,
) -> dict[str, Any]:
    """Return the counts of a task's recordings, clips and classes, and the files left out."""
    assert index.recordings is not None
    is_sample = {label.name for label in index.classes} == set(sounds.CLASSES)
    used = np.concatenate(index.folds[0])  # without clips that corrections drop
    counts = index.labels[used].sum(axis=0, dtype=int)
    readable = sum(recording.file not in problems for recording in recordings)
    return {
        "source": "generated sample" if is_sample else settings.source,
        "records": {path.name: len(recordings)},
        "clips": {"all": len(used)},
        "clip_seconds": settings.clip_seconds,
        "max_windows": settings.max_windows,
        "recordings_without_clips": readable - len(set(index.recordings.tolist())),
        "silent_windows": silent_windows,
        "unreadable_files": {file: str(problems[file]) for file in sorted(problems)},
        "classes": {
            label.name: {"id": label.id, "clips": int(count)}
            for label, count in zip(index.classes, counts, strict=True)
        },
        "folds": len(index.folds),
        "split": {
            split: sum(len(getattr(fold, split)) for fold in index.folds) for split in SPLITS
        },
    }


def measure_groups(
    recordings: list[Recording], windows: list[Window], sample_rate: int
) -> dict[str, dict[str, float]]:
    """Return the number of clips and the seconds of the largest groups, longest first."""
    clips, samples = Counter[str](), Counter[str]()
    for window in windows:
        group = recordings[window.recording].group
        clips[group] += 1
        samples[group] += window.samples
    return {
        group: {"clips": clips[group], "seconds": round(number / sample_rate, 1)}
        for group, number in samples.most_common(MAX_GROUPS)
        if group
    }


def warn(sentences: Iterable[str]) -> None:
    """Print warnings, even where no progress is wanted."""
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)


def describe_copies(copies: list[list[str]]) -> Iterator[str]:
    """Yield a sentence about files that have the same bytes, if there are any."""
    if not copies:
        return
    named = [f"{file} ({first})" for first, *others in copies for file in others]
    number = len(named)
    named[MAX_NAMED:] = [f"{number - MAX_NAMED:,} more"] if number > MAX_NAMED else []
    yield (
        f"{number:,} {'file is a copy' if number == 1 else 'files are copies'} of another, byte by "
        f"byte, and in its split: {', '.join(named)}"
    )


def describe_losses(losses: Mapping[str, str]) -> Iterator[str]:
    """Yield sentences about files whose mean channel is far below the loudest."""
    for file in sorted(losses)[:MAX_NAMED]:
        yield f"{losses[file]}; see decode.channel"
    if len(losses) > MAX_NAMED:
        yield f"{len(losses) - MAX_NAMED:,} more files lose as much by the mean of their channels"


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
    names = [label.name for label in classes]
    corrected = apply_corrections(
        task_folder.path / CORRECTIONS,
        [recording.id for recording in recordings],
        recording_labels,
        names,
        task.type == "single_label",
    )
    style = params.runtime().progress
    with Progress("decode", len(recordings), "recording", style) as progress:
        windows, silent_windows, decoded = write_clips(
            source, settings, recordings, task_folder.feature(FEATURE), progress
        )
    copies = find_copies(recordings, decoded.digests)
    warn(chain(describe_copies(copies), describe_losses(decoded.losses)))
    recordings = merge_copies(recordings, copies)
    numbers = np.array([window.recording for window in windows])
    clip_recordings = [recordings[number] for number in numbers]
    contents = [
        (decoded.digests[recording.file], window.start, window.samples)
        for recording, window in zip(clip_recordings, windows, strict=True)
    ]
    folds = split_clips(split, clip_recordings, recording_labels[numbers], names, task, contents)
    labels, folds = corrected.labels[numbers], drop_clips(folds, corrected.kept[numbers])
    check_classes(split, folds, labels, names, task)
    ids = np.array(
        [
            f"{recording.id}@{window.start / settings.sample_rate:g}".encode()
            for recording, window in zip(clip_recordings, windows, strict=True)
        ]
    )
    index = Index(ids, labels, classes, folds, numbers.astype(np.int32))
    write_index(index, task_folder.index)
    summary = summarize(settings, recordings, index, silent_windows, decoded.problems, source.path)
    summary["groups"] = measure_groups(recordings, windows, settings.sample_rate)
    write_json(task_folder.summary, summary)


if __name__ == "__main__":
    main(*sys.argv[1:])
