"""Paths of outputs are checked before any work is done."""

import errno
import os
from pathlib import Path

from tagging.base.errors import UserError


def check_output_file(option: str, path: Path, magic: bytes, kind: str) -> None:
    """Refuse a path that cannot be written to, or a file of another kind, which would be lost.

    Args:
        option: of the command line, for errors.
        path: the file to write.
        magic: the first bytes of files of its kind, in either case.
        kind: of file, with an article, for errors.

    Raises:
        UserError: if the path is not usable.
    """
    _check_length(option, path)
    # The output is renamed to this path: that must not replace a device.
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"{option}: {path} must be a file, got a folder, device or broken link")
    check_parent(option, path)
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(magic)).lower()
        if head != magic[: len(head)].lower():
            raise UserError(
                f"{option}: {path} exists and is not {kind}, so it is not replaced; choose a new "
                "name"
            )


def _check_length(option: str, path: Path) -> None:
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                f"{option}: {path} is too long for the file system; choose a shorter name"
            ) from None


def check_parent(option: str, path: Path) -> None:
    """Refuse a file that cannot be created in its folder.

    Raises:
        UserError: if the closest existing parent is not a folder with write permission.
    """
    parent = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(
            f"{option}: {path} cannot be created, {parent} must be a folder with write permission"
        )
