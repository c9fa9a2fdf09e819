"""NSynth: single notes of instruments, four seconds at 16 kHz, with families and qualities.

Engel, Resnick, Roberts, Dieleman, Eck, Simonyan, Norouzi (2017), "Neural audio synthesis of musical
notes with WaveNet autoencoders", arXiv 1704.01279. An archive (`nsynth-test.jsonwav.tar.gz`) has
`nsynth-test/examples.json`, which describes each note, and `nsynth-test/audio/<note>.wav`.
"""

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from isal import igzip, isal_zlib

from tagging.base.errors import UserError
from tagging.sources.recording import Recording

Labels = Literal["family", "qualities"]
EXAMPLES = "examples.json"
AUDIO = (".wav", ".flac")
READ_BYTES = 1 << 20

_BROKEN: tuple[Any, ...] = (
    tarfile.TarError, igzip.BadGzipFile, isal_zlib.error, EOFError, OSError,
)  # fmt: skip


class Source:
    """The notes of one of NSynth's archives.

    Args:
        path: the tar.gz archive.
        labels: the classes: `family` (bass, brass, ..; one for each note) or `qualities` (bright,
            percussive, ..; any number for each note).
    """

    def __init__(self, path: Path, labels: Labels = "family") -> None:
        if labels not in get_args(Labels):
            allowed = " or ".join(get_args(Labels))
            raise UserError(f"the labels of NSynth must be {allowed}, got {labels!r}")
        self.path = path
        self._kind: Labels = labels

    def recordings(self) -> list[Recording]:
        """Return the notes in the order of `examples.json`; their groups are the instruments.

        The whole archive is read once, because `examples.json` may be anywhere in it.

        Raises:
            UserError: if it is not an archive of NSynth, is damaged, or lacks the audio of a note.
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
                f"{self.path} must be an archive of NSynth, such as nsynth-test.jsonwav.tar.gz, "
                f"but has no {EXAMPLES}"
            )
        notes = self._notes(examples)
        if missing := [note for note in notes if note not in files]:
            raise UserError(
                f"{self.path}: {len(missing)} of {len(notes)} notes of {EXAMPLES} have no audio, "
                f"first {missing[0]}"
            )
        return [
            Recording(note, files[note], self._labels(note, example), example["instrument_str"])
            for note, example in notes.items()
        ]

    def contents(self, recordings: Sequence[Recording]) -> Iterator[tuple[int, bytes]]:
        """Yield each note's position in the list with its file's bytes, in the archive's order.

        Raises:
            UserError: if the archive is damaged, or lacks a note.
        """
        positions: dict[str, list[int]] = {}
        for position, recording in enumerate(recordings):
            positions.setdefault(recording.file, []).append(position)
        for file, content in self._read(lambda file: file in positions):
            if content is not None:
                for position in positions.pop(file):
                    yield position, content
            if not positions:
                return
        if positions:
            raise UserError(
                f"{self.path} lacks {len(positions)} files, first {next(iter(positions))}; it must "
                "be the archive of the list of recordings"
            )

    def _read(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes | None]]:
        """Yield the names of the archive's files, in its order, with the bytes of wanted files."""
        try:
            with (
                igzip.open(self.path) as unzipped,
                tarfile.open(fileobj=unzipped, mode="r|") as tar,
            ):
                for member in tar:
                    if member.isreg():
                        content = tar.extractfile(member) if wanted(member.name) else None
                        yield member.name, content.read() if content else None
                # The checksum is at the very end.
                while unzipped.read(READ_BYTES):
                    pass
        except FileNotFoundError:
            raise UserError(
                f"{self.path} must be an archive of NSynth, but does not exist"
            ) from None
        except _BROKEN as error:
            raise UserError(
                f"{self.path} must be a complete tar.gz archive of NSynth, such as "
                f"nsynth-test.jsonwav.tar.gz ({error})"
            ) from None

    def _notes(self, examples: bytes) -> dict[str, dict[str, Any]]:
        try:
            notes = json.loads(examples)
        except ValueError as error:
            raise UserError(f"{self.path}: {EXAMPLES} must be JSON ({error})") from None
        if not isinstance(notes, dict) or not notes:
            raise UserError(f"{self.path}: {EXAMPLES} must be a mapping of notes")
        for note, example in notes.items():
            is_mapping = isinstance(example, dict)
            if not is_mapping or not isinstance(example.get("instrument_str"), str):
                raise UserError(
                    f"{self.path}: {EXAMPLES} must have an instrument_str, the name of the "
                    f"instrument, for {note}"
                )
        return notes

    def _labels(self, note: str, example: dict[str, Any]) -> tuple[str, ...]:
        key = {"family": "instrument_family_str", "qualities": "qualities_str"}[self._kind]
        value = example.get(key)
        labels = [value] if self._kind == "family" else value
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise UserError(f"{self.path}: {EXAMPLES} must have the {key} of {note}, got {value!r}")
        return tuple(labels)
