"""A folder or a zip archive of recordings, whose files are read by name and never unpacked."""

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tagging.base.errors import UserError

# Errors of a zip archive that is damaged, encrypted or compressed by an unsupported method.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError)


class Container:
    """The files of a folder or of a zip archive, by their paths in it, with / as the separator.

    Args:
        path: the folder or the archive.

    Raises:
        UserError: if `path` is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: dict[str, zipfile.ZipInfo] | None = None
        if path.is_dir():
            return
        if not path.exists():
            raise UserError(f"{path} must be a folder or a zip archive, but does not exist")
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
        except _BROKEN as error:
            raise UserError(
                f"{path} must be a folder or a complete zip archive ({error})"
            ) from None
        self._members = {_decode_name(member): member for member in members}

    def names(self) -> list[str]:
        """Return the sorted names of all files that are not hidden."""
        if self._members is not None:
            names = list(self._members)
        else:
            names = [
                (Path(folder) / file).relative_to(self.path).as_posix()
                for folder, _, files in os.walk(self.path, followlinks=True)
                for file in files
            ]
        # Zip archives made on macOS have a ._name beside each file.
        return sorted(name for name in names if not PurePosixPath(name).name.startswith("."))

    def has(self, name: str) -> bool:
        """Return whether a file of that name exists, hidden or not."""
        if self._members is not None:
            return name in self._members
        try:
            return (self.path / name).is_file()
        except OSError:  # no file can have this name
            return False

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            UserError: if it cannot be read.
        """
        content = next(content for _, content in self.contents([name]))
        return content if isinstance(content, bytes) else content.read_bytes()

    def contents(self, names: Sequence[str]) -> Iterator[tuple[int, bytes | Path]]:
        """Yield each name's position in `names`, with its file's bytes or, in a folder, its path.

        A file is read once. The order is that of the archive, or of `names` in a folder.

        Raises:
            UserError: if a file cannot be read, or is damaged.
        """
        positions: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            positions.setdefault(name, []).append(position)
        for name, content in self._read(list(positions)):
            for position in positions[name]:
                yield position, content

    def _read(self, names: list[str]) -> Iterator[tuple[str, bytes | Path]]:
        members = self._members
        if members is None:
            for name in names:
                try:
                    (self.path / name).open("rb").close()
                except OSError as error:
                    problem = error.strerror or error
                    raise UserError(f"{self.path / name} cannot be read: {problem}") from None
                yield name, self.path / name
            return
        with zipfile.ZipFile(self.path) as archive:
            missing = [name for name in names if name not in members]
            if missing:
                raise UserError(f"{self.path}: {missing[0]} cannot be read (it does not exist)")
            for name in sorted(names, key=lambda name: members[name].header_offset):
                try:
                    content = archive.read(members[name])
                except _BROKEN as error:
                    problem = str(error) or "it is truncated"
                    raise UserError(f"{self.path}: {name} cannot be read ({problem})") from None
                yield name, content


def _decode_name(member: zipfile.ZipInfo) -> str:
    """Return the name of a file in an archive.

    Many programs write UTF-8 without the flag that says so; `zipfile` then reads code page 437.
    """
    if not member.flag_bits & 0x800:
        try:
            return member.filename.encode("cp437").decode()
        except UnicodeError:
            pass
    return member.filename
