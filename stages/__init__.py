"""The stages: `python -m stages.<stage>` in the folder of a task.

A stage runs the code of the checkout that its folder is in, not of the one that was installed:
`dvc exp run --temp` and `--queue` make checkouts of their own.
"""

import sys
from pathlib import Path

for _folder in (Path.cwd(), *Path.cwd().parents):
    if (_folder / "stages" / "__init__.py").is_file():
        if _folder != Path(__file__).parents[1]:
            __path__[:] = [str(_folder / "stages")]
            sys.path.insert(0, str(_folder))
        break
