"""Stage `decode`: the recordings of a source as clips: waveforms at one rate, labels and splits.

Each file is decoded once, from its archive, on all cores. A clip is a window of a recording: short
recordings are padded, long ones cut into several.

Files are read ahead by plain threads: torchdata.nodes was not faster, and its import of PyTorch
takes a second.
"""

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.base.processes import at_once
from tagging.base.progress import Progress
from tagging.data.classes import Class
from tagging.data.clips import SPLITS, Index, write_features, write_index, write_json
from tagging.data.protocols import Protocol, folds_of
from tagging.data.spec import InputSpec
from tagging.data.task import Task, load_task
from tagging.features.decoding import decode
from tagging.parameters import Float, Int, Machine, Section, load
from tagging.sources import esc, folder, nsynth, sounds
from tagging.sources.recording import Recording

METRICS = Path("metrics/data.json")
FEATURE = "waveform"
FULL_SCALE = 32768  # of 16-bit samples


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
        description="a number of decibels below full scale, such as -60: clips that are softer are "
        "left out; null for none",
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


def cut(waveform: np.ndarray, recording: Recording, settings: Decode) -> list[tuple[int, int]]:
    """Return where the clips of a recording begin and end, in samples of `waveform`.

    A rest shorter than half a clip is a clip only where there is no other.

    Args:
        waveform: float32 (samples,), the whole file.
        recording: the part of it that is meant.
        settings: how long a clip is, and how many there are.
    """
    size = round(settings.seconds * settings.rate)
    first = round(recording.start * settings.rate)
    end = len(waveform) if recording.end is None else round(recording.end * settings.rate)
    end = min(end, len(waveform))
    if first >= end:
        raise UserError(
            f"{recording.id} begins at {recording.start:g} s, but {recording.file} has "
            f"{len(waveform) / settings.rate:.2f} s"
        )
    found = []
    for start in range(first, end, size):
        stop = min(start + size, end)
        if found and stop - start < size / 2:
            break
        if settings.silence is not None:
            power = np.mean(np.square(waveform[start:stop], dtype=np.float64))
            if 10 * np.log10(max(power, 1e-20)) < settings.silence:
                continue
        found.append((start, stop))
        if len(found) == settings.windows:
            break
    return found


def clips_of(
    recordings: list[Recording], settings: Decode, progress: Progress
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield each clip and its samples, int16, in the order in which the source gives files.

    Raises:
        UserError: if a file cannot be read, is no sound, or ends before its clip begins.
        OSError: if the archive cannot be read.
    """

    def of_file(place: int, content: bytes) -> list[tuple[Window, np.ndarray]]:
        recording = recordings[place]
        waveform = decode(content, recording.file, settings.rate)
        pieces = cut(waveform, recording, settings)
        whole = np.clip(np.rint(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1)
        return [
            (Window(place, start, stop - start), whole[start:stop].astype(np.int16))
            for start, stop in pieces
        ]

    # Threads: libsndfile and soxr work without the interpreter's lock. Files are read ahead, but
    # not all of them.
    at_work: deque[Future] = deque()
    with ThreadPoolExecutor(threads := at_once()) as pool:
        for place, content in open_source(settings).contents(recordings):
            at_work.append(pool.submit(of_file, place, content))
            if len(at_work) > 2 * threads:
                yield from at_work.popleft().result()
                progress.advance()
        for done in at_work:
            yield from done.result()
            progress.advance()


def write_clips(settings: Decode, recordings: list[Recording], progress: Progress) -> list[Window]:
    """Write the waveforms of all clips, in the order of the recordings; return the clips."""
    size = round(settings.seconds * settings.rate)
    windows: list[Window] = []
    # How many clips there are is known at the end only; their order is the recordings'.
    with TemporaryFile(dir=".") as given:
        for window, samples in clips_of(recordings, settings, progress):
            windows.append(window)
            given.write(np.pad(samples, (0, size - len(samples))).tobytes())
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
    return [windows[place] for place in order]


@entry_point
def main() -> None:
    """Run the stage."""
    settings, protocol, task = load(Decode, "decode"), load(Protocol, "protocol"), load_task()
    machine = load(Machine, "run")
    recordings = open_source(settings).recordings()
    of_recording, classes = multi_hot(recordings, task)
    with Progress("decode", len(recordings), "recording", machine.progress) as progress:
        windows = write_clips(settings, recordings, progress)
    places = np.array([window.recording for window in windows])
    labels = of_recording[places]
    of_clip = [recordings[place] for place in places]
    names = [of.name for of in classes]
    folds = folds_of(
        protocol,
        labels,
        names,
        [recording.split for recording in of_clip],
        None
        if any(recording.fold is None for recording in of_clip)
        else np.array([recording.fold for recording in of_clip]),
        [recording.group or recording.file for recording in of_clip],
    )
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
            "recordings_without_a_clip": len(recordings) - len(set(places.tolist())),
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
