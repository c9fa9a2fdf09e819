"""`tagging tag --report`: one HTML page of predictions, which needs no network."""

import base64
import math
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from tagging.base.files import write_text
from tagging.commands.prediction import Prediction, describe_windows
from tagging.commands.render import render
from tagging.commands.tag_formats import label_times
from tagging.commands.tagger import DEFAULT_THRESHOLD, Tagger
from tagging.reports.spectrogram import SpectrogramImage

HTML_MAGIC = b"<!doctype html>"  # the first bytes of a page
MAX_TRACKS = 15  # labels of a timeline
RANKED_WINDOWS = 4
TOP_LABELS = 10  # of the recording, in the table beside those of the timeline
PLAYED = (  # endings of recordings that browsers play
    ".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".aac", ".m4a", ".mp4", ".webm", ".weba",
)  # fmt: skip
MAX_BARS = 600  # of a track; of more windows, the maximum of neighbouring ones is drawn
MAX_CLIPS = 200  # of embeddings on a page
CLIP_LABELS = 5
# Labels without events have a track if their maximum is at least this, and bars from MIN_BAR.
MIN_MAXIMUM, MIN_BAR = 0.1, 0.02
TIMES_WIDTH = 60  # characters of a label's times in the table
MAX_TICKS = 10
TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds


class Bar(NamedTuple):
    """A span of a track (seconds), the probability in it, and whether it is of an event."""

    start: float
    end: float
    probability: float
    is_event: bool

    @property
    def height(self) -> float:
        """The square root of the probability, as short windows have low ones."""
        return math.sqrt(self.probability)


class Track(NamedTuple):
    """A label's row of the timeline, and its probability in the recording."""

    label: str
    bars: list[Bar]
    whole: float


class Row(NamedTuple):
    """A label's row of the table: of the recording, and of the timeline's windows."""

    label: str
    whole: float
    confident: str
    times: str


class Recording(NamedTuple):
    """A recording's section of the page, as the template shows it."""

    file: Path
    url: str
    duration: float
    summary: str
    has_windows: bool
    has_thresholds: bool
    spectrogram: str | None
    tracks: list[Track]
    ticks: list[int]
    rows: list[Row]


class ModelNote(NamedTuple):
    """What the page says of a model: its thresholds, and what they were chosen on."""

    name: str
    target_precision: float | None  # None without thresholds
    unit: str


class HtmlReport:
    """A page of predictions, in the order in which they are added."""

    def __init__(self) -> None:
        self._recordings: list[Recording] = []
        self._clips: dict[Path, list[dict[str, Any]]] = {}
        self._omitted_clips = 0
        self._models: dict[str, ModelNote] = {}  # by name

    def add(
        self,
        tagger: Tagger,
        file: Path,
        clip: str | None,
        prediction: Prediction,
        timeline: Prediction | None,
        spectrogram: SpectrogramImage | None,
    ) -> None:
        """Add the prediction for a recording, or for a clip of a file of embeddings."""
        self._models[tagger.name] = _describe_model(tagger)
        if clip is None:
            recording = _describe(tagger, file, prediction, timeline or prediction, spectrogram)
            self._recordings.append(recording)
        elif sum(map(len, self._clips.values())) < MAX_CLIPS:
            labels = tagger.top_labels(prediction, CLIP_LABELS)
            self._clips.setdefault(file, []).append({"id": clip, "labels": labels})
        else:
            self._omitted_clips += 1

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all.

        Raises:
            OSError: naming `path`, if the disk is full.
        """
        folder = path.resolve().parent
        page = render(
            "report.html",
            models=list(self._models.values()),
            default_threshold=DEFAULT_THRESHOLD,
            played=PLAYED,
            recordings=[
                recording._replace(url=_relative_url(recording.file, folder))
                for recording in self._recordings
            ],
            clips=self._clips,
            omitted_clips=self._omitted_clips,
        )
        # Names of files that are not UTF-8 are shown with escapes.
        write_text(path, page.encode("utf-8", "backslashreplace").decode())


def _describe_model(tagger: Tagger) -> ModelNote:
    has_thresholds = np.isfinite(tagger.clips.thresholds).any()
    unit = "recordings (by the mean of their windows)" if tagger.recordings else "clips"
    if tagger.kind == "sound" and tagger.recordings is None:
        unit = f"clips of {tagger.window_seconds:.3g} s"
    target = tagger.metadata.get("target_precision") if has_thresholds else None
    return ModelNote(tagger.name, target, unit)


def _relative_url(file: Path, folder: Path) -> str:
    relative = Path(os.path.relpath(file.resolve(), folder))
    return quote(os.fsencode(relative.as_posix()))


def _describe(
    tagger: Tagger,
    file: Path,
    prediction: Prediction,
    timeline: Prediction,
    spectrogram: SpectrogramImage | None,
) -> Recording:
    columns = _timeline_columns(tagger, timeline)
    summary = f"{describe_windows(prediction)}, by {tagger.name}"
    if timeline is not prediction:
        _, _, windows = describe_windows(timeline).partition(", ")
        summary += f"; timeline: {windows or '1 window'}"
    return Recording(
        file=file,
        url="",  # relative to the page, once its path is known
        duration=prediction.duration,
        summary=summary,
        has_windows=len(timeline.starts) > 1,
        has_thresholds=bool(np.isfinite(tagger.whole_thresholds(prediction)).any()),
        spectrogram=base64.b64encode(spectrogram.png()).decode() if spectrogram else None,
        tracks=[_track(tagger, prediction, timeline, column) for column in columns],
        ticks=_ticks(prediction.duration),
        rows=_table_rows(tagger, prediction, timeline, columns),
    )


def _timeline_columns(tagger: Tagger, timeline: Prediction) -> list[int]:
    """Return the columns of the labels on the timeline, by the time of their first event.

    Labels that are confident in most windows are preferred, then those with the highest mean of
    their `RANKED_WINDOWS` highest probabilities: one window alone is often wrong.
    """
    probabilities, maximum = timeline.probabilities, timeline.maximum
    above = probabilities >= tagger.event_thresholds()
    counts = above.sum(axis=0)
    confident = np.where(np.isnan(tagger.clips.thresholds), 0, counts)
    highest = np.sort(probabilities, axis=0)[-RANKED_WINDOWS:].mean(axis=0)
    order = np.lexsort((-highest, -confident))[:MAX_TRACKS]
    visible = [
        int(column) for column in order if counts[column] or maximum[column] >= MIN_MAXIMUM
    ] or [int(order[0])]

    def position(column: int) -> tuple[bool, int]:
        events = counts[column] > 0
        first = above[:, column] if events else probabilities[:, column]
        return not events, int(first.argmax())

    return sorted(visible, key=position)


def _track(tagger: Tagger, prediction: Prediction, timeline: Prediction, column: int) -> Track:
    """Return a label's track: a bar as high as the probability of each window."""
    probabilities, edges = timeline.probabilities[:, column], timeline.edges
    threshold = tagger.event_thresholds()[column]
    windows_per_bar = math.ceil(len(probabilities) / MAX_BARS)
    bars = []
    for first in range(0, len(probabilities), windows_per_bar):
        following = min(first + windows_per_bar, len(probabilities))
        probability = float(probabilities[first:following].max())
        is_event = bool(probability >= threshold)
        if is_event or probability >= MIN_BAR:
            bars.append(Bar(float(edges[first]), float(edges[following]), probability, is_event))
    return Track(tagger.classes[column], bars, float(prediction.whole[column]))


def _ticks(duration: float) -> list[int]:
    """Return the times of the axis (seconds), at most eleven, none near its end."""
    step = next((step for step in TICK_STEPS if duration / step <= MAX_TICKS), TICK_STEPS[-1])
    times = range(0, int(duration) + 1, step)
    return [time for time in times if not time or time <= 0.97 * duration]


def _table_rows(
    tagger: Tagger, prediction: Prediction, timeline: Prediction, columns: list[int]
) -> list[Row]:
    """Return rows of the recording's labels and of the timeline's, most probable first."""
    whole = prediction.whole
    thresholds = tagger.whole_thresholds(prediction)
    best = np.argsort(-whole, kind="stable")[:TOP_LABELS]
    rows = []
    for column in sorted({*map(int, best), *columns}, key=lambda column: -whole[column]):
        threshold, label = thresholds[column], tagger.classes[column]
        confident = "" if np.isnan(threshold) else "yes" if whole[column] >= threshold else "no"
        times = label_times(tagger, timeline, label, TIMES_WIDTH)
        rows.append(Row(label, whole[column], confident, times))
    return rows
