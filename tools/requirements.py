"""`python -m tools.requirements`: pin the packages of pyproject.toml in requirements*.txt.

pyproject.toml is the place of each package, its range and its reason; the files have the versions
that are installed in this environment.
"""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from tagging.base.files import write_text

ROOT = Path(__file__).parents[1]
# Of each file, the lists of pyproject.toml; a file includes the one before.
FILES = {
    "requirements.txt": ("dependencies", "train"),
    "requirements-test.txt": ("test", "export", "hub", "docs"),
}
PACKAGE = re.compile(r'"(?P<name>[\w.-]+)(?P<extras>\[[\w,]+\])?(?P<range>[^"]*)",')


def render_requirements(project: str, find_version: Callable[[str], str]) -> dict[str, str]:
    """Return the text of each file by its name.

    Args:
        project: the text of pyproject.toml.
        find_version: returns the version of a package.
    """
    texts: dict[str, str] = {}
    written: set[str] = set()
    for file, lists in FILES.items():
        lines = [f"-r {name}" for name in texts]
        for name in lists:
            comment: list[str] = []
            body = re.search(rf"(?ms)^{name} = \[\n(.*?)^\]", project)
            assert body is not None, f"pyproject.toml has no list {name}"
            for line in map(str.strip, body[1].splitlines()):
                package = PACKAGE.fullmatch(line)
                if package is None:
                    comment.append(line)
                    continue
                if package["name"] not in written:
                    pin = f"{package['name']}{package['extras'] or ''}"
                    lines += [*comment, f"{pin}=={find_version(package['name'])}"]
                    written.add(package["name"])
                comment = []
        texts[file] = "\n".join(lines) + "\n"
    return texts


def public_version(package: str) -> str:
    """Return the installed version of a package without its build, as in `2.13.0+cpu`."""
    return version(package).partition("+")[0]


if __name__ == "__main__":
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, text in render_requirements(project, public_version).items():
        write_text(ROOT / name, text)
