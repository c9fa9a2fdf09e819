"""ESC-10 and ESC-50: environmental sounds of five seconds, in five folds.

Piczak (2015), "ESC: dataset for environmental sound classification". ESC-10's archive has a folder
for each class, `005 - Clock tick/1-21934-A.ogg`; ESC-50's has `audio/1-100032-A-0.wav` and the
classes in `meta/esc50.csv`. A file's name begins with its fold and the number of the recording at
freesound.org it was cut from; what comes of one recording lies in one fold.
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
        path: the zip archive as GitHub makes it of the repository, or the folder that it becomes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = Container(path)

    def recordings(self) -> list[Recording]:
        """Return the recordings, with classes, folds and, as groups, numbers at freesound.org.

        Raises:
            UserError: if it is neither archive, or a file is missing, is there twice or has another
                name than theirs.
        """
        names = self._files.names()
        metas = [name for name in names if name == META or name.endswith(f"/{META}")]
        found = self._esc50(metas[0]) if metas else self._esc10(names)
        if not found:
            raise UserError(
                f"{self._path} is neither ESC-10's archive nor ESC-50's; it takes files such as "
                f"001 - Dog bark/1-100032-A.ogg, or {META}"
            )
        seen: dict[str, str] = {}
        for recording in found:
            if recording.id in seen:
                raise UserError(
                    f"{self._path}: {seen[recording.id]} and {recording.file} are both the "
                    f"recording {recording.id}; it takes one of them"
                )
            seen[recording.id] = recording.file
        return found

    def contents(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, bytes | Path]]:
        """Yield each recording's place in the list and its file (Ogg Vorbis or WAV).

        Of an archive these are the file's bytes, of a folder its path.

        Raises:
            UserError: if a file is damaged.
        """
        return self._files.contents([recording.file for recording in recordings])

    def _esc10(self, names: list[str]) -> list[Recording]:
        parts = [(name, _CLASS_FOLDER.fullmatch(name)) for name in names]
        return [
            self._recording(name, found["name"], found["label"]) for name, found in parts if found
        ]

    def _esc50(self, meta: str) -> list[Recording]:
        try:
            text = self._files.read(meta).decode("utf-8-sig")
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self._path}: {meta} is no table of commas ({error})") from None
        folder = f"{meta.removesuffix(META)}audio/"
        found = []
        for row in rows:
            file, label = row.get("filename"), row.get("category")
            if not file or not label:
                raise UserError(
                    f"{self._path}: {meta} has no filename or no category in a row; it takes both"
                )
            found.append(self._recording(folder + file, file.rpartition(".")[0], label))
        missing = [recording.file for recording in found if not self._files.has(recording.file)]
        if missing:
            raise UserError(
                f"{self._path}: {meta} names {len(missing)} files that are not there, first "
                f"{missing[0]}; it takes the whole archive"
            )
        return found

    def _recording(self, file: str, name: str, label: str) -> Recording:
        parts = _NAME.fullmatch(name)
        if not parts:
            raise UserError(
                f"{self._path}: the name of {file} is none of ESC's; it takes fold, number at "
                "freesound.org and take, as 1-100032-A.ogg"
            )
        return Recording(name, file, (label,), parts["freesound"], int(parts["fold"]))
