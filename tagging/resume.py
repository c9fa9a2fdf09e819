"""State of an unfinished training, so that a killed one goes on where its last epoch ended.

The files lie in a scratch folder that neither git nor DVC sees. Their names are a hash of all that
decides the result, so that a changed parameter, data set or line of code never picks up old state.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tagging.files import whole_file

SCRATCH = Path(".resume")


def identity(description: Any, files: list[Path]) -> str:
    """Return a hash of what decides a result: a JSON-able description, data files and the code.

    The code is every module of the project that this process has loaded.
    """
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode())
    digest.update(f"torch {torch.__version__}".encode())
    root = Path(__file__).parents[1]
    code = {
        Path(module.__file__)
        for module in list(sys.modules.values())
        if getattr(module, "__file__", None) and Path(module.__file__).parent.is_relative_to(root)
    }
    environment = root / ".venv"
    for path in sorted(code) + files:
        if not path.is_relative_to(environment):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def save_state(path: Path, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Replace the state at `path`, whole or not at all."""
    with whole_file(path) as partial:
        save_file(tensors, partial, {"record": json.dumps(record)})


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return what `save_state` wrote, or None if there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, json.loads(file.metadata()["record"])
    except (FileNotFoundError, SafetensorError):
        return None
