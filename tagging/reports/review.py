"""The review page of a task: mistakes, likely label errors and near-copies, with their sound.

One HTML page that needs no network. All that depends on clips is data in it, as JSON: the script
of the page shows labels and names of files as text, whatever characters they have.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tagging.base.files import atomic_write, write_text
from tagging.data.clips import Features, Index
from tagging.data.task import Task
from tagging.reports.clip_media import encode_opus, encode_spectrogram, read_samples
from tagging.reports.label_errors import LabelErrors
from tagging.reports.near_copies import Pair
from tagging.reports.review_predictions import (
    Predictions,
    count_confusions,
    list_pairs,
    rank_mistakes,
)
from tagging.sources.corrections import CORRECTIONS, Correction

MAX_CLIPS, MAX_SILENT_CLIPS = 500, 2_000  # of each list, with sound and without
MAX_MEDIA_BYTES = 28_000_000  # inside the page, whose text has some more
MAX_INLINE_SECONDS = 15
MIN_RANKED = 20  # of the ranking of label errors, which is twice the expected number
TOP_LABELS = 5
SOUND = "sound"  # folder of linked files, beside the page


class Recordings(NamedTuple):
    """Where the page's sound comes from.

    Attributes:
        waveforms: of all windows, or None where clips have no sound.
        starts: the moments of videos by their ids (seconds).
    """

    waveforms: Features | None
    starts: dict[str, float]


@dataclass
class ReviewPage:
    """What the page shows, and the files beside it.

    Attributes:
        windows: the task's clips.
        index: the scored clips, which are recordings or their windows.
        task: the section `task`.
        recordings: the sound.
        predictions: out of fold, or None.
    """

    windows: Index
    index: Index
    task: Task
    recordings: Recordings
    predictions: Predictions | None
    _clips: dict[int, dict[str, Any]] = field(default_factory=dict)
    _bytes: int = 0

    def __post_init__(self) -> None:
        """Find the windows of each scored clip, and the prediction for it."""
        if self.index is self.windows:
            self._windows = [np.array([clip]) for clip in range(len(self.index.ids))]
        else:
            assert self.windows.recordings is not None
            order = np.argsort(self.windows.recordings, kind="stable")
            edges = np.flatnonzero(np.diff(self.windows.recordings[order])) + 1
            self._windows = np.split(order, edges)
        # Windows are named by their moments, too, where recordings have several.
        numbers = self.index.recordings
        self._has_recordings = numbers is None or len(np.unique(numbers)) == len(numbers)
        self._pairs: list[list[tuple[int, int]]] = []
        self._places: dict[int, int] = {}
        if self.predictions is not None:
            self._pairs = list_pairs(self.predictions, self.single_label)
            self._places = {int(clip): k for k, clip in enumerate(self.predictions.clips)}

    @property
    def single_label(self) -> bool:
        """Whether a clip has one label."""
        return self.task.type == "single_label"

    def correction_name(self, clip: int) -> str:
        """Return the name of a clip in `corrections.csv`: of a window, its recording."""
        name = self.index.ids[clip].decode()
        return name.rpartition("@")[0] if self.windows.recordings is not None else name

    def find_clip(self, window: int) -> int:
        """Return the scored clip of a window."""
        if self.index is self.windows:
            return window
        assert self.windows.recordings is not None
        numbers = np.unique(self.windows.recordings)
        return int(np.searchsorted(numbers, self.windows.recordings[window]))

    def add_clip(self, clip: int, folder: Path) -> int:
        """Describe a clip, and write its files if they are not inside the page; return it."""
        if clip in self._clips:
            return clip
        name = self.index.ids[clip].decode()
        description: dict[str, Any] = {
            "id": self.correction_name(clip) if self._has_recordings else name,
            "clip": self.correction_name(clip),
            "labels": np.flatnonzero(self.index.labels[clip]).tolist(),
        }
        if self.predictions is not None and clip in self._places:
            place = self._places[clip]
            probabilities = self.predictions.probabilities[place]
            top = np.argsort(-probabilities, kind="stable")[:TOP_LABELS].tolist()
            shown = dict.fromkeys([*top, *description["labels"]])
            description["predicted"] = [[k, round(float(probabilities[k]), 4)] for k in shown]
            description["pairs"] = [list(pair) for pair in self._pairs[place]]
        if self.recordings.waveforms is not None:
            description |= self._encode_media(clip, self.recordings.waveforms, folder)
        elif name in self.recordings.starts:
            start = int(self.recordings.starts[name])
            description["link"] = f"https://www.youtube.com/watch?v={name}&t={start}s"
        self._clips[clip] = description
        return clip

    def _encode_media(self, clip: int, waveforms: Features, folder: Path) -> dict[str, Any]:
        rate: int = waveforms.settings["sample_rate"]
        samples = read_samples(waveforms, self._windows[clip])
        seconds = len(samples) / rate
        files = {
            "image": ("png", "image/png", encode_spectrogram(samples, rate)),
            "sound": ("ogg", "audio/ogg", encode_opus(samples, rate)),
        }
        size = sum(len(content) * 4 // 3 for _, _, content in files.values())
        is_inside = seconds <= MAX_INLINE_SECONDS and self._bytes + size <= MAX_MEDIA_BYTES
        media: dict[str, Any] = {"seconds": round(seconds, 2)}
        for kind, (suffix, mime, content) in files.items():
            if is_inside:
                media[kind] = f"data:{mime};base64,{base64.b64encode(content).decode()}"
            else:
                file = f"{SOUND}/{clip}.{suffix}"
                with atomic_write(folder / file) as partial:
                    partial.write_bytes(content)
                media[kind] = file
        self._bytes += size if is_inside else 0
        return media

    def describe(
        self, errors: LabelErrors | None, pairs: Iterable[Pair] | None, folder: Path
    ) -> dict[str, Any]:
        """Return the clips of the lists, and the lists.

        Args:
            errors: of the predictions, or None.
            pairs: of windows, or None.
            folder: of the page.
        """
        most = MAX_SILENT_CLIPS if self.recordings.waveforms is None else MAX_CLIPS
        mistakes: list[int] = []
        suspects: list[int] = []
        if self.predictions is not None:
            ranked = rank_mistakes(self.predictions, self.single_label)
            mistakes = self.predictions.clips[ranked].tolist()
            if errors is not None:
                least = max(MIN_RANKED, 2 * errors.expected)
                suspects = self.predictions.clips[errors.ranking[:least]].tolist()
        copies = {
            tuple(map(self.find_clip, (pair.first, pair.second))): pair.distance
            for pair in reversed(list(pairs or []))
        }
        return {
            "mistakes": [self.add_clip(clip, folder) for clip in mistakes[:most]],
            "num_mistakes": len(mistakes),
            "errors": None
            if errors is None
            else [self.add_clip(clip, folder) for clip in suspects[:most]],
            "num_errors": 0 if errors is None else errors.expected,
            "copies": None
            if pairs is None
            else [
                [*(self.add_clip(clip, folder) for clip in clips), round(distance, 3)]
                for clips, distance in reversed(copies.items())
                if clips[0] != clips[1]
            ],
            "confusions": None
            if self.predictions is None
            else count_confusions(self.predictions, self.single_label).tolist(),
            "clips": {str(clip): description for clip, description in self._clips.items()},
        }


def read_starts(folder: Path, index: Index) -> dict[str, float]:
    """Return the moments of clips in their videos (seconds), by the ids of the videos.

    Args:
        folder: of the parquet files.
        index: the task's clips.
    """
    wanted = set(index.ids.tolist())
    starts: dict[str, float] = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["video_id", "start_time_seconds"])
        ids, seconds = (table[column].to_pylist() for column in table.column_names)
        starts |= {
            video: start
            for video, start in zip(ids, seconds, strict=True)
            if video.encode() in wanted
        }
    return starts


def describe_correction(correction: Correction, class_names: list[str]) -> dict[str, Any]:
    """Return a correction as the script of the page has it: labels are positions of classes."""
    labels = [class_names.index(name) for name in correction.labels]
    return {"action": correction.action, "labels": labels}


def write_page(path: Path, **values: Any) -> None:
    """Render the template; values are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("review.html")
    write_text(path, template.render(values, corrections_file=CORRECTIONS))
