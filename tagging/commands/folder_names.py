"""Labels from the names of folders: `dog/a.wav`, or with splits, `train/dog/a.wav`."""

from collections.abc import Sequence
from pathlib import Path

from tagging.base.errors import UserError
from tagging.sources.checks import Location, check_separators, check_spelling, parse_labels
from tagging.sources.recording import Recording

# Names of splits, as in Hugging Face's AudioFolder.
SPLIT_FOLDERS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip


def read_folder_names(folder: Path, files: Sequence[str]) -> tuple[list[Location], list[Recording]]:
    """Return a clip for each file, whose label is the first folder that is not a split.

    Args:
        folder: the folder of recordings.
        files: their paths in it.

    Raises:
        UserError: if a file is in no such folder, or labels look alike.
    """
    has_splits = all("/" in file and file.split("/")[0].lower() in SPLIT_FOLDERS for file in files)
    locations, clips = [], []
    for file in files:
        *parents, _ = file.split("/")
        split = SPLIT_FOLDERS[parents.pop(0).lower()] if has_splits else ""
        if not parents:
            raise UserError(
                f"{folder / file} must be in a folder with the name of its label, as other "
                "recordings are"
            )
        location = Location(str(folder / parents[0] if not split else (folder / file).parent))
        locations.append(location)
        clips.append(Recording(file, file, parse_labels(location, parents[0]), split=split))
    check_spelling(locations, clips)
    check_separators(locations, clips)
    return locations, clips
