"""Which of the project's files a module runs: its imports, and theirs, down to the last."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imports(path: Path) -> set[Path]:
    """Return the project's files that `path` imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            file = ROOT / f"{name.replace('.', '/')}.py"
            if file.is_file():
                found.add(file)
    return found


def closure(path: Path) -> set[str]:
    """Return `path` and all project files it runs, relative to the root."""
    todo, done = {path}, set()
    while todo:
        file = todo.pop()
        done.add(file)
        todo |= imports(file) - done
    return {str(file.relative_to(ROOT)) for file in done}
