"""Stage `weights@<name>`: published weights, converted once to a trained model's file."""

import sys
from pathlib import Path

from tagging.base.errors import entry_point
from tagging.data.task_folder import TaskFolder
from tagging.parameters import Params
from tagging.sources.published import fetch_published


@entry_point
def main(task: str, name: str) -> None:
    """Run the stage for the published weights `name` of the task in the folder `task`."""
    folder = TaskFolder(Path(task))
    runtime = Params.read(folder.params).runtime()
    fetch_published(name, folder.weights(name).parent, runtime.progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
