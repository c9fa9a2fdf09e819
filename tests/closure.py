"""Which of the project's files a module runs: its imports, and theirs, down to the last."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Of these, parameters name the file that is imported.
NAMED = ("tagging.features", "tagging.networks", "tagging.scoring.metrics")


@functools.cache
def imported(path: Path) -> list[str]:
    """Return the names of what `path` imports, anywhere in its code: modules, and parts of them."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def imports(path: Path) -> set[Path]:
    """Return the project's files that `path` imports, anywhere in its code."""
    files = (ROOT / f"{name.replace('.', '/')}.py" for name in imported(path))
    return {file for file in files if file.is_file()}


def named_imports(path: Path) -> list[str]:
    """Return what a file imports by a name that is none of its code's, as the code says it."""
    loaders = {"__import__", "exec", "eval", "import_module", "runpy", "SourceFileLoader"}
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")
            # `network.eval()` is PyTorch's: `eval` counts as a bare name only.
            if loaders & set(called) and called[1:] != ["eval"]:
                found.append(ast.unparse(node.args[0]) if node.args else "")
    return found


def closure(*paths: Path) -> set[str]:
    """Return `paths` and all project files they run, relative to the root."""
    todo, done = set(paths), set()
    while todo:
        file = todo.pop()
        done.add(file)
        todo |= imports(file) - done
    return {str(file.relative_to(ROOT)) for file in done}
