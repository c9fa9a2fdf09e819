"""ESC-10 and ESC-50: environmental sounds of five seconds, in five folds.

Piczak (2015), "ESC: dataset for environmental sound classification". ESC-10's archive has a folder
for each class, `005 - Clock tick/1-21934-A.ogg`; ESC-50's has `audio/1-100032-A-0.wav` and the
classes in `meta/esc50.csv`. A file's name begins with its fold and the number of its source at
freesound.org; all cuts of one source are in one fold.

The table is read with `csv`: pandas would not be shorter, and importing it is slow.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tagging.base.errors import UserError
from tagging.sources.container import Container
from tagging.sources.recording import Recording

META = "meta/esc50.csv"

_CLASS_FOLDER = re.compile(r"(?:.*/)?\d{3} - (?P<label>[^/]+)/(?P<name>[^/]+)\.(ogg|wav)")
_NAME = re.compile(r"(?P<fold>[1-5])-(?P<freesound>\d+)-[A-Z](-\d+)?")


class Source:
    """The recordings of ESC-10's or ESC-50's archive, or of its folder.

    Args:
        path: the zip archive of the repository by GitHub, or its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = Container(path)

    def recordings(self) -> list[Recording]:
        """Return the recordings with their classes and folds, grouped by source at freesound.org.

        Raises:
            UserError: if it is neither archive, or a file is missing, repeated or has another name.
        """
        names = self._files.names()
        metas = [name for name in names if name == META or name.endswith(f"/{META}")]
        recordings = self._esc50(metas[0]) if metas else self._esc10(names)
        if not recordings:
            raise UserError(
                f"{self.path} must be the archive of ESC-10, with files such as "
                f"001 - Dog bark/1-100032-A.ogg, or of ESC-50, with {META}"
            )
        seen: dict[str, str] = {}
        for recording in recordings:
            if recording.id in seen:
                raise UserError(
                    f"{self.path} has the recording {recording.id} twice: "
                    f"{seen[recording.id]} and {recording.file}"
                )
            seen[recording.id] = recording.file
        return recordings

    def contents(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, bytes | Path]]:
        """Yield each recording's position in the list, with its file's bytes or (in a folder) path.

        Raises:
            UserError: if a file is damaged.
        """
        return self._files.contents([recording.file for recording in recordings])

    def _esc10(self, names: list[str]) -> list[Recording]:
        matches = [_CLASS_FOLDER.fullmatch(name) for name in names]
        return [
            self._recording(match.string, match["name"], match["label"])
            for match in matches
            if match
        ]

    def _esc50(self, meta: str) -> list[Recording]:
        try:
            text = self._files.read(meta).decode("utf-8-sig")
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path}: {meta} must be a CSV table ({error})") from None
        folder = f"{meta.removesuffix(META)}audio/"
        recordings = []
        for row in rows:
            file, label = row.get("filename"), row.get("category")
            if not file or not label:
                raise UserError(
                    f"{self.path}: {meta} must have a filename and a category in each row"
                )
            recordings.append(self._recording(folder + file, file.rpartition(".")[0], label))
        files = [recording.file for recording in recordings]
        if missing := [file for file in files if not self._files.has(file)]:
            raise UserError(
                f"{self.path}: {len(missing)} files of {meta} do not exist, first {missing[0]}"
            )
        return recordings

    def _recording(self, file: str, name: str, label: str) -> Recording:
        parts = _NAME.fullmatch(name)
        if not parts:
            raise UserError(
                f"{self.path}: the name of {file} must be a fold, a number at freesound.org and a "
                "take, such as 1-100032-A.ogg"
            )
        return Recording(name, file, (label,), parts["freesound"], int(parts["fold"]))
