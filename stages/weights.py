"""Stage `weights@<name>`: published weights, converted once to a trained model's file."""

import sys
from pathlib import Path

from tagging.base.errors import entry_point
from tagging.data.parameters import Params
from tagging.data.task_folder import TaskFolder
from tagging.learning.published_models import fetch_published


@entry_point
def main(folder: str, name: str) -> None:
    """Fetch and convert the published weights `name`."""
    task_folder = TaskFolder(Path(folder))
    style = Params.read(task_folder.params).runtime().progress
    fetch_published(name, task_folder.weights(name).parent, style)


if __name__ == "__main__":
    main(*sys.argv[1:])
