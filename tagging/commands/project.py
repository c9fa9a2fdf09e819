"""The project that a command is run in."""

from pathlib import Path


def find_project() -> Path | None:
    """Return the root of the DVC project around the working directory."""
    working = Path.cwd()
    folders = (working, *working.parents)
    return next((folder for folder in folders if (folder / ".dvc").is_dir()), None)
