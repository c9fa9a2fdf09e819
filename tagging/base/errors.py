"""Errors a user can cause: one sentence, a non-zero exit, no traceback."""

import errno
import functools
import inspect
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Errors of the machine that the user can fix; the message names the path. Any other OSError is a
# bug and keeps its traceback.
USER_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
)  # fmt: skip


class UserError(Exception):
    """A sentence for the user: where the problem is, what must hold and what was found."""


def entry_point(main: Callable[..., None]) -> Callable[..., None]:
    """Make `main` end with one sentence on stderr and exit code 1 where the user can help.

    With `TAGGING_TRACEBACK=1` in the environment the traceback is shown as well. Characters that
    standard output cannot encode are printed as escapes of Python.
    """

    @functools.wraps(main)
    def run(*args: str) -> None:
        _escape_unprintable(sys.stdout)
        parameters = inspect.signature(main).parameters.values()
        required = sum(parameter.default is parameter.empty for parameter in parameters)
        if not required <= len(args) <= len(parameters):
            # Called as `python -m stages.<stage> <folder> <entry>`.
            script = Path(sys.argv[0])
            names = [f" <{parameter.name}>" for parameter in parameters]
            arguments = "".join(
                [*names[:required], *(f" [{name[1:]}]" for name in names[required:])]
            )
            sys.exit(f"error: usage: python -m {script.parent.name}.{script.stem}{arguments}")
        try:
            main(*args)
        except UserError as error:
            if os.environ.get("TAGGING_TRACEBACK"):
                raise
            sys.exit(f"error: {error}")
        except OSError as error:
            if error.errno not in USER_ERRNOS or os.environ.get("TAGGING_TRACEBACK"):
                raise
            location = f"{error.filename}: " if error.filename else ""
            sys.exit(f"error: {location}{error.strerror or error}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run


def _escape_unprintable(stream: object) -> None:
    """Make a stream escape the characters it cannot encode, unless the user chose otherwise.

    File names that are not UTF-8 have such characters in Python, and terminals may be limited to
    ASCII. Standard error escapes them by default.
    """
    if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")
