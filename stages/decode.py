"""Stage `decode`: the recordings of a source as clips: waveforms at one rate, labels and splits.

Each file is decoded once, from its archive or folder, on all cores, and cut while it is decoded: of
a long one no more is held than a window, some seconds and, of one in an archive, its bytes there. A
clip is a window of a recording: short recordings are padded, long ones cut into several.

Files are read ahead by plain threads: torchdata.nodes was not faster, and its import of PyTorch
takes a second.
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
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.data.classes import Class
from tagging.data.clips import SPLITS, Fold, Index, write_features, write_index, write_json
from tagging.data.splits import SplitSettings, make_folds
from tagging.data.spec import InputSpec
from tagging.data.task import Task, load_task
from tagging.features.decoding import blocks
from tagging.parameters import Float, Int, Machine, Section, load
from tagging.sources import esc, folder, nsynth, sounds
from tagging.sources.recording import Recording

METRICS = Path("metrics/data.json")
FEATURE = "waveform"
FULL_SCALE = 32768  # of 16-bit samples
PIECE_SECONDS = 10  # of a recording that are decoded at a time


class Decode(Section):
    """Where recordings come from, and what of them is a clip."""

    source: Literal["esc", "nsynth", "folder"] = Field(description="esc, nsynth or folder")
    path: str = Field(description="the path of the source's archive or folder")
    labels: Literal["family", "qualities"] = Field(
        "family", description="family or qualities (of the source nsynth)"
    )
    rate: Int = Field(description="a whole number of samples a second, 1,000 or more", ge=1000)
    seconds: Float = Field(description="a number above 0: how long a clip is at most", gt=0)
    windows: Int | None = Field(
        1,
        description="how many clips a recording gives at most, one after the other; null for all",
        ge=1,
    )
    silence: Float | None = Field(
        None,
        description="a number of decibels below full scale, such as -60: windows whose mean power "
        "is lower are no clips, and the next ones are taken; null for none",
    )


class Window(NamedTuple):
    """A clip: the place of its recording, where it begins, and how many samples it has."""

    recording: int
    start: int
    samples: int


def open_source(settings: Decode) -> esc.Source | nsynth.Source | folder.Source:
    """Return the source of recordings."""
    path = Path(settings.path)
    if settings.source == "nsynth":
        return nsynth.Source(path, settings.labels)
    return (esc if settings.source == "esc" else folder).Source(path)


def multi_hot(recordings: list[Recording], task: Task) -> tuple[np.ndarray, list[Class]]:
    """Return labels, uint8 (recordings, classes), and the classes in the order of their names.

    Raises:
        UserError: if a task of one label a clip has a recording with another number.
    """
    names = sorted({label for recording in recordings for label in recording.labels})
    column = {name: place for place, name in enumerate(names)}
    labels = np.zeros((len(recordings), len(names)), np.uint8)
    for row, recording in zip(labels, recordings, strict=True):
        if task.kind == "single_label" and len(recording.labels) != 1:
            raise UserError(
                f"{recording.id} has {len(recording.labels)} labels; task.kind single_label takes "
                "one: multi_label takes several"
            )
        row[[column[label] for label in recording.labels]] = 1
    return labels, [Class(name, name) for name in names]


def cut(
    pieces: Iterable[np.ndarray], recordings: Mapping[int, Recording], settings: Decode
) -> Iterator[tuple[Window, np.ndarray | None]]:
    """Yield the windows of a file's recordings while it goes by, and the samples of each.

    Windows of one recording come in their order. A rest shorter than half a window is one only
    where there is no other.

    Args:
        pieces: the whole file, float32 (samples,) each.
        recordings: the parts of it that are meant, by their places.
        settings: how long a window is, and how many are clips.

    Yields:
        The window, and float32 (samples,); None in place of them where it is softer than
        `settings.silence`, and no clip.

    Raises:
        UserError: if the file ends before a recording begins, or one is shorter than a sample.
    """
    size = round(settings.seconds * settings.rate)
    ends: dict[int, float] = {}
    # Of each recording the next window: where it ends at most, where it begins, its recording's
    # place, and how many clips there are before it.
    following: list[tuple[float, int, int, int]] = []
    for place, recording in recordings.items():
        start = round(recording.start * settings.rate)
        ends[place] = math.inf if recording.end is None else round(recording.end * settings.rate)
        stop = min(start + size, ends[place])
        if start >= stop:
            raise UserError(
                f"{recording.id} gives a clip without a sample at {settings.rate} Hz; it takes "
                "longer parts of recordings, and decode.seconds"
            )
        following.append((stop, start, place, 0))
    heapify(following)
    held, begins = np.zeros(0, np.float32), 0  # what is held of the file, and where that begins
    for piece in chain(pieces, [None]):
        if piece is not None:
            held = np.concatenate([held, piece])
        reached = begins + len(held)
        while following and (piece is None or following[0][0] <= reached):
            stop, start, place, found = heappop(following)
            recording = recordings[place]
            stop = min(stop, reached)
            if start >= stop and start == round(recording.start * settings.rate):
                raise UserError(
                    f"{recording.id} begins at {recording.start:g} s, but {recording.file} has "
                    f"{reached / settings.rate:.2f} s"
                )
            if start >= stop or (found and stop - start < size / 2):
                continue
            samples = held[start - begins : stop - begins]
            sounds = settings.silence is None or level(samples) >= settings.silence
            yield Window(place, start, stop - start), samples if sounds else None
            found += sounds
            if found != settings.windows and stop < ends[place]:
                heappush(following, (min(stop + size, ends[place]), stop, place, found))
        # No window begins more than its length before the first end.
        needed = min(following[0][0] - size, reached) if following else reached
        held, begins = held[max(0, needed - begins) :], max(begins, needed)


def level(samples: np.ndarray) -> float:
    """Return the mean power of samples, float32 (samples,), in decibels below full scale."""
    power = np.mean(np.square(samples, dtype=np.float64))
    return 10 * np.log10(max(power, 1e-20))


def cut_all(
    settings: Decode,
    recordings: list[Recording],
    put: Callable[[Window, np.ndarray | None], None],
    progress: Progress,
) -> None:
    """Give `put` all windows and their samples, as `cut` does, from several threads, in any order.

    Raises:
        UserError: if a file cannot be read, is no sound, or ends before its clip begins.
        OSError: if the archive cannot be read.
    """
    of_file: dict[str, list[int]] = {}
    for place, recording in enumerate(recordings):
        of_file.setdefault(recording.file, []).append(place)
    files = list(of_file.items())

    def cut_file(number: int, content: bytes | Path) -> int:
        """Cut what is listed of a file; return how many recordings that are."""
        file, places = files[number]
        listed = {place: recordings[place] for place in places}
        pieces = blocks(content, file, settings.rate, PIECE_SECONDS)
        for window, samples in cut(pieces, listed, settings):
            put(window, samples)
        return len(places)

    # Threads: libsndfile and soxr work without the interpreter's lock. Files are read ahead, but
    # not all of them.
    at_work: deque[Future] = deque()
    with ThreadPoolExecutor(threads := num_workers()) as pool:
        firsts = [recordings[places[0]] for _, places in files]
        for number, content in open_source(settings).contents(firsts):
            at_work.append(pool.submit(cut_file, number, content))
            if len(at_work) > 2 * threads:
                progress.advance(at_work.popleft().result())
        for done in at_work:
            progress.advance(done.result())


def write_clips(
    settings: Decode, recordings: list[Recording], progress: Progress
) -> tuple[list[Window], int]:
    """Write the waveforms of all clips, in the order of the recordings.

    Returns:
        The clips, and how many windows were left out as softer than `settings.silence`.

    Raises:
        UserError: as by `cut_all`, or if there is no clip.
        OSError: likewise, or if the disk takes no more.
    """
    size = round(settings.seconds * settings.rate)
    windows: list[Window] = []
    silent: list[Window] = []
    writing = Lock()
    # How many clips there are is known at the end only; their order is the recordings'.
    with TemporaryFile(dir=".") as given:

        def put(window: Window, samples: np.ndarray | None) -> None:
            if samples is None:
                silent.append(window)
                return
            whole = np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
            padded = np.pad(whole.astype(np.int16), (0, size - len(whole)))
            with writing:
                windows.append(window)
                given.write(padded.tobytes())

        cut_all(settings, recordings, put, progress)
        if not windows:
            raise UserError("no recording has a clip that is loud enough; see decode.silence")
        given.flush()
        order = sorted(range(len(windows)), key=lambda place: windows[place])
        came = np.memmap(given, np.int16, "r", shape=(len(windows), 1, size, 1))
        spec = InputSpec(1, size, 1, scale=1 / FULL_SCALE)
        about = {"name": FEATURE, "sample_rate": settings.rate}
        with write_features(FEATURE, (came.shape, np.int16), spec, about) as (values, frames):
            for row, place in enumerate(order):
                values[row] = came[place]
                frames[row] = windows[place].samples
    return [windows[place] for place in order], len(silent)


def split_up(
    protocol: SplitSettings,
    recordings: list[Recording],
    labels: np.ndarray,
    names: list[str],
    task: Task,
) -> list[Fold]:
    """Return the folds of the clips; classes are in all parts in which the task takes them.

    Args:
        protocol: the settings.
        recordings: each clip's.
        labels: 0 or 1, (clips, classes).
        names: of the classes.
        task: whose clips they are.

    Raises:
        UserError: if a class is missing from a part, or the clips are too few or lack what the
            protocol takes.
    """
    fold_of = [recording.fold for recording in recordings]
    try:
        folds = make_folds(
            protocol,
            labels,
            names,
            [recording.split for recording in recordings],
            None if None in fold_of else np.array(fold_of),
            [recording.group or recording.file for recording in recordings],
        )
    except UserError as error:
        if protocol.split != "groups" or protocol.folds == 2:  # fewer are none
            raise
        raise UserError(
            f"{error}: fewer protocol.folds, another protocol.seed, or more files or groups of "
            "each class"
        ) from None
    for part in task.complete:
        for places in (getattr(fold, part) for fold in folds):
            missing = ~labels[places].any(axis=0)
            if len(places) and missing.any():
                raise UserError(
                    f"no clip of {names[missing.argmax()]} is in {part}; protocol.split "
                    f"{protocol.split} takes clips of each class in {', '.join(task.complete)}: "
                    "more files of it, or another split"
                )
    return folds


@entry_point
def main() -> None:
    """Run the stage."""
    settings, protocol, task = load(Decode, "decode"), load(SplitSettings, "protocol"), load_task()
    machine = load(Machine, "run")
    recordings = open_source(settings).recordings()
    of_recording, classes = multi_hot(recordings, task)
    with Progress("decode", len(recordings), "recording", machine.progress) as progress:
        windows, silent = write_clips(settings, recordings, progress)
    places = np.array([window.recording for window in windows])
    labels = of_recording[places]
    of_clip = [recordings[place] for place in places]
    names = [of.name for of in classes]
    folds = split_up(protocol, of_clip, labels, names, task)
    ids = np.array(
        [
            f"{recordings[window.recording].id}@{window.start / settings.rate:g}".encode()
            for window in windows
        ]
    )
    write_index(Index(ids, labels, classes, folds, places.astype(np.int32)))
    of_split = {split: sum(len(getattr(fold, split)) for fold in folds) for split in SPLITS}
    write_json(
        METRICS,
        {
            "source": "generated sample" if set(names) == set(sounds.CLASSES) else settings.source,
            "records": {Path(settings.path).name: len(recordings)},
            "clips": {"all": len(windows)},
            "seconds": settings.seconds,
            "clips_of_a_recording": settings.windows,
            "recordings_without_a_clip": len(recordings) - len(set(places.tolist())),
            "silent_windows": silent,
            "classes": {
                of.name: {"id": of.id, "clips": int(count)}
                for of, count in zip(classes, labels.sum(axis=0, dtype=int), strict=True)
            },
            "folds": len(folds),
            "split": of_split,
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
