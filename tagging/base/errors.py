"""Errors a user can cause: one sentence, a non-zero exit, no traceback."""

import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

# What the machine refuses: the user's to mend, and the error names the path. Any other OSError is
# ours and keeps its traceback.
REFUSED = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
)  # fmt: skip


class UserError(Exception):
    """A sentence for the user: what is wrong, where, and what is accepted instead."""


def entry_point(main: Callable[..., None]) -> Callable[..., None]:
    """Make `main` end with one sentence on stderr and exit code 1 where the user can help.

    With `TAGGING_TRACEBACK=1` in the environment the traceback is shown all the same.
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
            if os.environ.get("TAGGING_TRACEBACK"):
                raise
            sys.exit(f"error: {error}")
        except OSError as error:
            if error.errno not in REFUSED or os.environ.get("TAGGING_TRACEBACK"):
                raise
            where = f"{error.filename}: " if error.filename else ""
            sys.exit(f"error: {where}{error.strerror or error}")
        except KeyboardInterrupt:
            sys.exit(130)

    return run
