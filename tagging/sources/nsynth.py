"""NSynth: single notes of instruments, four seconds at 16 kHz, with families and qualities.

Engel, Resnick, Roberts, Dieleman, Eck, Simonyan, Norouzi (2017), "Neural audio synthesis of musical
notes with WaveNet autoencoders", arXiv 1704.01279. An archive (`nsynth-test.jsonwav.tar.gz`) holds
`nsynth-test/examples.json` with what is known of each note and `nsynth-test/audio/<note>.wav`.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from isal import igzip, isal_zlib

from tagging.base.errors import UserError
from tagging.sources.recording import Recording

Labels = Literal["family", "qualities"]
EXAMPLES = "examples.json"
AUDIO = (".wav", ".flac")
READ_BYTES = 1 << 20

_BROKEN = (tarfile.TarError, igzip.BadGzipFile, isal_zlib.error, EOFError, OSError)


class Source:
    """The notes of one of NSynth's archives.

    Args:
        path: the tar.gz archive.
        labels: what the classes are: `family` (bass, brass, ..; one a note) or `qualities` (bright,
            percussive, ..; several a note or none).
    """

    def __init__(self, path: Path, labels: Labels = "family") -> None:
        if labels not in get_args(Labels):
            takes = " or ".join(get_args(Labels))
            raise UserError(f"the labels of NSynth are {labels!r}; it takes {takes}")
        self._path = path
        self._labels = labels

    def recordings(self) -> list[Recording]:
        """Return the notes in the order of `examples.json`; their groups are the instruments.

        The archive is read through once, for `examples.json` may lie anywhere in it.

        Raises:
            UserError: if it is no archive of NSynth, is damaged, or lacks a note's sound.
        """
        examples = None
        files: dict[str, str] = {}
        for file, content in self._read(lambda file: PurePosixPath(file).name == EXAMPLES):
            name = PurePosixPath(file)
            if content is not None:
                examples = content
            elif name.suffix in AUDIO:
                files[name.stem] = file
        if examples is None:
            raise UserError(
                f"{self._path} holds no {EXAMPLES}; it takes an archive of NSynth, such as "
                "nsynth-test.jsonwav.tar.gz"
            )
        notes = self._notes(examples)
        if missing := [note for note in notes if note not in files]:
            raise UserError(
                f"{self._path}: {len(missing)} of {len(notes)} notes in {EXAMPLES} have no "
                f"sound there, first {missing[0]}; it takes the whole archive"
            )
        return [
            Recording(note, files[note], self._labels_of(note, example), example["instrument_str"])
            for note, example in notes.items()
        ]

    def contents(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, bytes]]:
        """Yield each note's place in the list and its file's bytes, in the archive's order.

        Raises:
            UserError: if the archive is damaged, or lacks a note.
        """
        places: dict[str, list[int]] = {}
        for place, recording in enumerate(recordings):
            places.setdefault(recording.file, []).append(place)
        for file, content in self._read(lambda file: file in places):
            if content is not None:
                for place in places.pop(file):
                    yield place, content
            if not places:
                return
        if places:
            raise UserError(
                f"{self._path} lacks {len(places)} files, first {next(iter(places))}; it takes the "
                "archive that the recordings were listed from"
            )

    def _read(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
        """Yield the names of the archive's files, in its order, with the bytes of those wanted."""
        try:
            with (
                igzip.open(self._path) as unzipped,
                tarfile.open(fileobj=unzipped, mode="r|") as tar,
            ):
                for member in tar:
                    if member.isreg():
                        is_wanted = wanted(member.name)
                        yield member.name, tar.extractfile(member).read() if is_wanted else None
                # The checksum stands at the very end.
                while unzipped.read(READ_BYTES):
                    pass
        except FileNotFoundError:
            raise UserError(
                f"{self._path} is not there; it takes one of NSynth's archives"
            ) from None
        except _BROKEN as error:
            raise UserError(
                f"{self._path} is no whole tar.gz archive ({error}); it takes one of NSynth's, "
                "such as nsynth-test.jsonwav.tar.gz"
            ) from None

    def _notes(self, examples: bytes) -> dict[str, dict]:
        try:
            notes = json.loads(examples)
        except ValueError as error:
            raise UserError(f"{self._path}: {EXAMPLES} is no JSON ({error})") from None
        if not isinstance(notes, dict) or not notes:
            raise UserError(f"{self._path}: {EXAMPLES} holds no notes; it takes a mapping of them")
        for note, example in notes.items():
            is_mapping = isinstance(example, dict)
            if not is_mapping or not isinstance(example.get("instrument_str"), str):
                raise UserError(
                    f"{self._path}: {EXAMPLES} has no instrument_str for {note}; it takes the name "
                    "of its instrument"
                )
        return notes

    def _labels_of(self, note: str, example: dict) -> tuple[str, ...]:
        key = {"family": "instrument_family_str", "qualities": "qualities_str"}[self._labels]
        value = example.get(key)
        labels = [value] if self._labels == "family" else value
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{self._path}: {EXAMPLES} has {key} {value!r} for {note}")
        return tuple(labels)
