"""Errors a user can cause: one sentence, a non-zero exit, no traceback."""

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """A sentence for the user: what is wrong, where, and what is accepted instead."""


def entry_point(main: Callable[..., None]) -> Callable[..., None]:
    """Make `main` end with one sentence on stderr and exit code 1 where the user can help.

    Problems of the operating system (a full disk, a missing file) count as the user's too: they
    name the path and cannot be mended in code.
    """

    @functools.wraps(main)
    def run(*args: str) -> None:
        takes = inspect.signature(main).parameters
        if len(args) != len(takes):
            # Called as `python -m stages.<stage> <argument>`.
            script = Path(sys.argv[0])
            arguments = "".join(f" <{name}>" for name in takes)
            sys.exit(f"error: usage: python -m {script.parent.name}.{script.stem}{arguments}")
        try:
            main(*args)
        except UserError as error:
            sys.exit(f"error: {error}")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            sys.exit(f"error: {where}{error.strerror or error}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run
