"""Formats in which `tagging tag` prints its results: text, JSON and CSV."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from tqdm import tqdm

from tagging.commands.prediction import Prediction, describe_windows, format_time
from tagging.commands.tagger import Tagger

WIDTH = 100  # columns of the text
MAX_LABEL_WIDTH = 50


class Formatter(Protocol):
    """Prints results, one at a time.

    Args:
        top: number of labels; None for all.
    """

    def __init__(self, top: int | None) -> None: ...

    def write(self, tagger: Tagger, file: Path, clip: str | None, prediction: Prediction) -> None:
        """Print the prediction for a recording, or for a clip of a file of embeddings."""

    def end(self) -> None:
        """Print what follows the last result."""


class TextFormatter:
    """Labels in aligned columns."""

    def __init__(self, top: int | None) -> None:
        self._top = top

    def write(self, tagger: Tagger, file: Path, clip: str | None, prediction: Prediction) -> None:
        """Print one result."""
        lines = [_shorten(_heading(tagger, file, clip, prediction), WIDTH)]
        labels = tagger.top_labels(prediction, self._top)
        width = min(MAX_LABEL_WIDTH, max((len(label["label"]) for label in labels), default=0))
        has_thresholds = any(label["confident"] is not None for label in labels)
        for label in labels:
            line = f"  {_shorten(label['label'], width):<{width}}  {label['probability']:5.3f}"
            if has_thresholds:
                line += f"  {'confident' if label['confident'] else '':9}"
            if len(prediction.starts) > 1:
                times = label_times(tagger, prediction, label["label"], WIDTH - len(line) - 2)
                line += f"  {times}"
            lines.append(line.rstrip())
        print_text("\n".join(lines) + "\n")

    def end(self) -> None:
        """Print nothing."""


class JsonFormatter:
    """A list with an object for each result."""

    def __init__(self, top: int | None) -> None:
        self._top = top
        self._separator = "["

    def write(self, tagger: Tagger, file: Path, clip: str | None, prediction: Prediction) -> None:
        """Print one result."""
        result: dict[str, Any] = {"file": str(file)}
        if clip is not None:
            result["clip"] = clip
        result |= tagger.as_json(prediction, self._top)
        print_text(f"{self._separator}\n{to_json(result)}")
        self._separator = ","

    def end(self) -> None:
        """Print the end of the list."""
        print_text("[]\n" if self._separator == "[" else "\n]\n")


class CsvFormatter:
    """A row for each label of the whole (without a window), then of each of several windows."""

    HEADER = ("file", "clip", "model", "window", "start", "end", "label", "probability",
              "confident")  # fmt: skip

    def __init__(self, top: int | None) -> None:
        self._top = top
        self._write_row = csv.writer(
            SimpleNamespace(write=print_text), lineterminator="\n"
        ).writerow
        self._write_row(self.HEADER)

    def write(self, tagger: Tagger, file: Path, clip: str | None, prediction: Prediction) -> None:
        """Print one result."""
        result = tagger.as_json(prediction, self._top)
        windows = result["windows"]
        whole = {"start": windows[0]["start"], "end": windows[-1]["end"], **result}
        for number, section in enumerate([whole, *(windows if len(windows) > 1 else [])]):
            for label in section["labels"]:
                confident = "" if label["confident"] is None else str(label["confident"]).lower()
                self._write_row(
                    (
                        file, clip or "", tagger.name, number or "", section["start"],
                        section["end"], label["label"], label["probability"], confident,
                    )
                )  # fmt: skip

    def end(self) -> None:
        """Print nothing."""


FORMATS: dict[str, type[Formatter]] = {
    "text": TextFormatter,
    "json": JsonFormatter,
    "csv": CsvFormatter,
}


def to_json(value: object, indent: int | None = None) -> str:
    """Return JSON, with escapes only if standard output cannot encode its characters."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def print_text(text: str) -> None:
    """Print without tearing the progress bar."""
    if sys.stdout.isatty():
        tqdm.write(text, end="")
    else:
        sys.stdout.write(text)


def _heading(tagger: Tagger, file: Path, clip: str | None, prediction: Prediction) -> str:
    if clip is not None:
        return f"{file}, clip {clip} from {format_time(prediction.starts[0])}, by {tagger.name}"
    return f"{file}: {describe_windows(prediction)}, by {tagger.name}"


def _shorten(text: str, width: int) -> str:
    """Return text of at most `width` characters, with an ellipsis in the middle."""
    if len(text) <= width:
        return text
    left = (width - 1) // 3
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def label_times(tagger: Tagger, prediction: Prediction, label: str, width: int) -> str:
    """Return when a label reaches its threshold, or the time and value of its maximum.

    Args:
        tagger: with the thresholds.
        prediction: of several windows.
        label: a class's name.
        width: of the text, at most, unless it is a single time.
    """
    column = tagger.classes.index(label)
    events = tagger.find_events(prediction, [column])
    tenths = len(prediction.starts) > 1 and prediction.starts[1] - prediction.starts[0] < 1
    if not events:
        probabilities = prediction.probabilities[:, column]
        best = int(probabilities.argmax())
        time = format_time(prediction.starts[best], tenths)
        return f"maximum {probabilities[best]:.2f} at {time}"
    shown = ["-".join(format_time(time, tenths) for time in event[:2]) for event in events]
    text = ", ".join(shown)
    while len(text) > width and len(shown) > 1:
        shown.pop()
        text = f"{', '.join(shown)}, .. ({len(events)} times)"
    return text
