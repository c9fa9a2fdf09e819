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
from tagging.commands.spectrogram import SpectrogramImage
from tagging.commands.tagger import Tagger

HTML_MAGIC = b"<!doctype html>"  # the first bytes of a page
MAX_TRACKS = 10  # labels of a timeline
MAX_BARS = 600  # of a track; of more windows, the maximum of neighbouring ones is drawn
MAX_CLIPS = 200  # of embeddings on a page
CLIP_LABELS = 5
# Labels without a threshold have a track if their maximum is at least this, and bars from MIN_BAR.
MIN_MAXIMUM, MIN_BAR = 0.1, 0.02
MAX_TICKS = 10
TICK_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds


class Bar(NamedTuple):
    """A span of a track (seconds) and the probability in it."""

    start: float
    end: float
    probability: float
    opacity: float


class Track(NamedTuple):
    """A label's row of the timeline."""

    label: str
    bars: list[Bar]
    maximum: float


class Row(NamedTuple):
    """A label's row of the table; `time` is that of the maximum (seconds)."""

    label: str
    mean: float
    maximum: float
    time: float
    confident: str


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


class HtmlReport:
    """A page of predictions, in the order in which they are added."""

    def __init__(self) -> None:
        self._recordings: list[Recording] = []
        self._clips: dict[Path, list[dict[str, Any]]] = {}
        self._omitted_clips = 0
        self._has_thresholds: dict[str, bool] = {}  # by the names of models

    def add(
        self,
        tagger: Tagger,
        file: Path,
        clip: str | None,
        prediction: Prediction,
        spectrogram: SpectrogramImage | None,
    ) -> None:
        """Add the prediction for a recording, or for a clip of a file of embeddings."""
        self._has_thresholds[tagger.name] = bool(np.isfinite(tagger.thresholds).any())
        if clip is None:
            self._recordings.append(_describe(tagger, file, prediction, spectrogram))
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
            models_with_thresholds=[name for name, has in self._has_thresholds.items() if has],
            models_without_thresholds=[
                name for name, has in self._has_thresholds.items() if not has
            ],
            recordings=[
                recording._replace(url=_relative_url(recording.file, folder))
                for recording in self._recordings
            ],
            clips=self._clips,
            omitted_clips=self._omitted_clips,
        )
        # Names of files that are not UTF-8 are shown with escapes.
        write_text(path, page.encode("utf-8", "backslashreplace").decode())


def _relative_url(file: Path, folder: Path) -> str:
    relative = Path(os.path.relpath(file.resolve(), folder))
    return quote(os.fsencode(relative.as_posix()))


def _describe(
    tagger: Tagger, file: Path, prediction: Prediction, spectrogram: SpectrogramImage | None
) -> Recording:
    columns = _timeline_columns(tagger, prediction)
    return Recording(
        file=file,
        url="",  # relative to the page, once its path is known
        duration=prediction.duration,
        summary=f"{describe_windows(prediction)}, by {tagger.name}",
        has_windows=len(prediction.starts) > 1,
        has_thresholds=bool(np.isfinite(tagger.thresholds).any()),
        spectrogram=base64.b64encode(spectrogram.png()).decode() if spectrogram else None,
        tracks=[_track(tagger, prediction, column) for column in columns],
        ticks=_ticks(prediction.duration),
        rows=_table_rows(tagger, prediction, columns),
    )


def _timeline_columns(tagger: Tagger, prediction: Prediction) -> list[int]:
    """Return the columns of the labels on the timeline.

    With thresholds, labels that are confident in most windows come first; without, those with the
    highest maximum.
    """
    probabilities = prediction.probabilities
    if np.isfinite(tagger.thresholds).any():
        counts = (probabilities >= np.nan_to_num(tagger.thresholds, nan=np.inf)).sum(0)
        order = np.lexsort((-probabilities.mean(0), -counts))
        return [int(column) for column in order[:MAX_TRACKS] if counts[column]]
    maximum = prediction.maximum
    order = np.argsort(-maximum, kind="stable")[:MAX_TRACKS]
    visible = [int(column) for column in order if maximum[column] >= MIN_MAXIMUM]
    return visible or [int(order[0])]


def _track(tagger: Tagger, prediction: Prediction, column: int) -> Track:
    """Return a label's track: opaque where the label is confident, or as strong as probable."""
    probabilities, threshold = prediction.probabilities[:, column], tagger.thresholds[column]
    has_threshold = not np.isnan(threshold)
    windows_per_bar = math.ceil(len(probabilities) / MAX_BARS)
    bars = []
    for first in range(0, len(probabilities), windows_per_bar):
        following = first + windows_per_bar
        probability = float(probabilities[first:following].max())
        if probability < (threshold if has_threshold else MIN_BAR):
            continue
        # Where windows overlap, a bar ends at the start of the next one.
        is_last = following >= len(probabilities)
        end = prediction.ends[-1] if is_last else prediction.starts[following]
        opacity = 1.0 if has_threshold else probability
        bars.append(Bar(prediction.starts[first], end, probability, opacity))
    return Track(tagger.classes[column], bars, float(probabilities.max()))


def _ticks(duration: float) -> list[int]:
    """Return the times of the axis (seconds), at most eleven, none near its end."""
    step = next((step for step in TICK_STEPS if duration / step <= MAX_TICKS), TICK_STEPS[-1])
    times = range(0, int(duration) + 1, step)
    return [time for time in times if not time or time <= 0.97 * duration]


def _table_rows(tagger: Tagger, prediction: Prediction, timeline: list[int]) -> list[Row]:
    """Return rows of the labels with the highest mean and of the timeline's, highest mean first."""
    mean, maximum = prediction.mean, prediction.maximum
    best = np.argsort(-mean, kind="stable")[:MAX_TRACKS]
    columns = sorted({*map(int, best), *timeline}, key=lambda column: -mean[column])
    rows = []
    for column in columns:
        threshold = tagger.thresholds[column]
        confident = "" if np.isnan(threshold) else "yes" if maximum[column] >= threshold else "no"
        time = prediction.starts[int(prediction.probabilities[:, column].argmax())]
        rows.append(Row(tagger.classes[column], mean[column], maximum[column], time, confident))
    return rows
