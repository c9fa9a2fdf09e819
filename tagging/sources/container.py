"""A folder or a zip archive, as sources of sound read it: files by name, none unpacked to disk."""

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tagging.base.errors import UserError

# What a zip archive raises where it is damaged, encrypted or compressed in a way not known here.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


class Container:
    """The files of a folder, or of a zip archive, under their names there, with / in between.

    Raises:
        UserError: if `path` is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[str, int] | None = None
        if path.is_dir():
            return
        if not path.exists():
            raise UserError(f"{path} is not there; it takes a folder or a zip archive")
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
        except _BROKEN as error:
            raise UserError(
                f"{path} is no folder and no whole zip archive ({error}); it takes one of them"
            ) from None
        self._offsets = {member.filename: member.header_offset for member in members}

    def names(self) -> list[str]:
        """Return the names of all files, sorted, without hidden ones."""
        if self._offsets is not None:
            names = list(self._offsets)
        else:
            names = [
                (Path(folder) / file).relative_to(self.path).as_posix()
                for folder, _, files in os.walk(self.path, followlinks=True)
                for file in files
            ]
        # Zip archives made on macOS hold a ._name beside each file.
        return sorted(name for name in names if not PurePosixPath(name).name.startswith("."))

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name, hidden or not."""
        if self._offsets is not None:
            return name in self._offsets
        try:
            return (self.path / name).is_file()
        except OSError:  # a name that no file can have
            return False

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            UserError: if it cannot be read.
        """
        content = next(content for _, content in self.contents([name]))
        return content if isinstance(content, bytes) else content.read_bytes()

    def contents(self, names: Sequence[str]) -> Iterator[tuple[int, bytes | Path]]:
        """Yield each name's place in `names` and its file's bytes; a file is read once.

        Of a folder the file's path is yielded: whoever reads it need not hold all of it.

        The order is the one they lie in: that of the archive, or for a folder that of `names`.

        Raises:
            UserError: if a file cannot be read, or is damaged.
        """
        places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(name, []).append(place)
        for name, content in self._read(list(places)):
            for place in places[name]:
                yield place, content

    def _read(self, names: list[str]) -> Iterator[tuple[str, bytes | Path]]:
        if self._offsets is None:
            for name in names:
                try:
                    (self.path / name).open("rb").close()
                except OSError as error:
                    problem = error.strerror or error
                    raise UserError(f"{self.path / name} cannot be read: {problem}") from None
                yield name, self.path / name
            return
        with zipfile.ZipFile(self.path) as archive:
            for name in sorted(names, key=lambda name: self._offsets.get(name, 0)):
                try:
                    content = archive.read(name)
                except (*_BROKEN, KeyError) as error:
                    problem = str(error) or "it is cut short"
                    raise UserError(
                        f"{self.path}: {name} cannot be read ({problem}); it takes a whole archive"
                    ) from None
                yield name, content
