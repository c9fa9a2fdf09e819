"""The Makefile's targets, with a Python that makes empty environments."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.archives import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# `-m venv` fails before pip is installed, as on Debian without python3-venv, if the file `broken`
# exists. Programs of the environments write their arguments to the file `log`.
PYTHON = r"""#!/bin/sh
[ "$1" = -m ] && [ "$2" = venv ] || exit 0
for folder; do :; done
[ "$3" = --clear ] && rm -rf "$folder"
mkdir -p "$folder/bin"
made="python"
[ -e broken ] || made="python pip ruff codespell mypy"
for name in $made; do
    [ -e "$folder/bin/$name" ] && continue
    printf '#!/bin/sh\necho "$0 $S3_ENVIRONMENT: $*" >> log\n' > "$folder/bin/$name"
    chmod +x "$folder/bin/$name"
done
if [ -e broken ]; then touch "$folder/half-made"; exit 1; fi
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder whose name has spaces, with the Makefile."""
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", *(path.name for path in ROOT.glob("require*.txt"))):
        shutil.copy(ROOT / name, folder)
    python = folder / "fake-python"
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return folder


def make(project: Path, *arguments: str) -> tuple[int, str]:
    """Run make; return its status and the log of what it ran."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    command = ["make", *arguments, "PYTHON=./fake-python"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    log = project / "log"
    return done.returncode, log.read_text() if log.exists() else done.stderr


def test_a_half_made_environment_is_made_anew(project: Path) -> None:
    (project / "broken").touch()
    for _ in range(2):
        assert make(project, "install")[0] != 0
    assert (project / ".venv/half-made").exists() and not (project / ".venv/.run").exists()
    (project / "broken").unlink()
    status, log = make(project, "install")
    assert status == 0 and "-m pip install" in log
    assert (project / ".venv/.run").exists() and not (project / ".venv/half-made").exists()
    # A complete environment is kept.
    (project / ".venv/own").touch()
    (project / ".venv/.run").unlink()
    assert make(project, "install")[0] == 0
    assert (project / ".venv/own").exists()


def test_targets_accept_paths_with_spaces(project: Path) -> None:
    status, log = make(project, "test")
    assert status == 0
    assert f"{project}/.venv-s3: -m pytest -n 2" in log
    status, log = make(project, "test-fast")
    assert status == 0
    assert "-m pytest tests/unit " in log
    status, log = make(project, "repro", "TASK=my own", "JOBS=2")
    assert status == 0
    assert log.endswith(" -m tools.repro tasks/my own/dvc.yaml\n")
