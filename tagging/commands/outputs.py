"""Where answers are to be written: refused before any work is done for it."""

import os
from pathlib import Path

from tagging.base.errors import UserError


def check_file(option: str, path: Path, begins: bytes, what: str) -> None:
    """Refuse what a file cannot be written to, and a file of another kind: it would be lost.

    Args:
        option: of the command, for errors.
        path: the file to write.
        begins: how files of its kind begin, whatever the case.
        what: one of its kind is called.

    Raises:
        UserError: saying what is accepted instead.
    """
    # What is written is renamed into place: a device must not be replaced by a file.
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"{option} is {path}, which is no file; it takes {what} to write")
    check_above(option, path)
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(begins)).lower()
        if head != begins[: len(head)].lower():
            raise UserError(
                f"{option} is {path}, which is there and is not {what}; it takes a new name, or "
                f"{what} to replace"
            )


def check_above(option: str, path: Path) -> None:
    """Refuse a file that cannot be made where it is to be.

    Raises:
        UserError: naming what is above it, and is no folder that can be written to.
    """
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise UserError(
            f"{option} would be written below {above}, which is no folder that you may write to"
        )
