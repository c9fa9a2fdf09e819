"""Label tracks of recordings, for Audacity and Raven: a file with the events of each recording."""

import os
from collections.abc import Sequence
from pathlib import Path

import soundfile

from tagging.base.errors import UserError
from tagging.base.files import write_text
from tagging.commands.prediction import Event, Prediction
from tagging.commands.tagger import Tagger

ENDINGS = {"audacity": ".txt", "raven": ".selections.txt"}  # in place of the recording's
RAVEN_HEADER = (
    "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)",
    "High Freq (Hz)", "Annotation", "Score",
)  # fmt: skip


class LabelTracks:
    """Writes a label track for each recording: beside it, or below a folder.

    Args:
        format: audacity or raven.
        folder: of the tracks, with the recordings' folders below their common one; None for the
            recordings' own.
        recordings: all of them.
    """

    def __init__(self, format: str, folder: Path | None, recordings: Sequence[Path]) -> None:
        self._format, self._folder = format, folder
        parents = [recording.parent.resolve() for recording in recordings]
        self._common = Path(os.path.commonpath(parents)) if parents else Path()
        self._recordings: dict[Path, Path] = {}  # by their tracks

    def path(self, recording: Path) -> Path:
        """Return the path of a recording's track."""
        name = recording.stem + ENDINGS[self._format]
        if self._folder is None:
            return recording.with_name(name)
        return self._folder / recording.parent.resolve().relative_to(self._common) / name

    def reserve(self, recording: Path) -> None:
        """Refuse a track that exists, as somebody may have edited it, or is that of another.

        Raises:
            UserError: with the path of the track.
        """
        track = self.path(recording)
        if os.path.lexists(track):
            raise UserError(
                f"{recording}: its label track {track} exists; remove it, or choose another folder "
                "with --out"
            )
        if (other := self._recordings.setdefault(track, recording)) != recording:
            raise UserError(
                f"{recording}: its label track {track} is that of {other} as well; rename one"
            )

    def write(self, tagger: Tagger, recording: Path, prediction: Prediction) -> tuple[Path, int]:
        """Write the track; return its path and the number of events."""
        events = tagger.find_events(prediction)
        rows = (
            audacity_rows(events)
            if self._format == "audacity"
            else raven_rows(events, _highest_frequency(tagger, recording))
        )
        # A cell cannot have tabs or ends of lines.
        lines = ("\t".join(" ".join(cell.split()) for cell in row) for row in rows)
        text = "".join(f"{line}\n" for line in lines)
        path = self.path(recording)
        write_text(path, text)
        return path, len(events)


def audacity_rows(events: Sequence[Event]) -> list[tuple[str, ...]]:
    """Return the rows of a label track."""
    return [(f"{event.start:.6f}", f"{event.end:.6f}", event.label) for event in events]


def raven_rows(events: Sequence[Event], highest_frequency: float) -> list[tuple[str, ...]]:
    """Return the rows of a selection table, after its header."""
    rows = [
        (
            str(number), "Spectrogram 1", "1", f"{event.start:.6f}", f"{event.end:.6f}", "0.0",
            f"{highest_frequency:.1f}", event.label, f"{event.probability:.4f}",
        )
        for number, event in enumerate(events, 1)
    ]  # fmt: skip
    return [RAVEN_HEADER, *rows]


def _highest_frequency(tagger: Tagger, recording: Path) -> float:
    """Return the highest frequency of a recording that the model can hear (Hz)."""
    try:
        with recording.open("rb") as file:  # soundfile refuses names that are not UTF-8
            rate = min(soundfile.info(file).samplerate, tagger.sample_rate)
    except soundfile.LibsndfileError:  # read by another decoder
        rate = tagger.sample_rate
    return rate / 2
