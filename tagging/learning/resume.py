"""State of an unfinished training, so that a killed one goes on where its last epoch ended.

The files lie in a scratch folder that neither git nor DVC sees. Their names end with a hash of all
that decides the result, so that a changed parameter, data set or line of code never picks up old
state. The state after the last epoch stays: it is the finished run.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from tagging.base.files import atomic_write

SCRATCH = Path(".resume")
ROOT = Path(__file__).parents[2]
CODE = [ROOT / folder for folder in ("stages", "tagging", "replication")]
BASE = ROOT / "tagging" / "base"
DIGEST_BYTES = 32  # of the SHA-256 that a file begins with
RECORD = "record"  # the name under which JSON lies among the tensors


def identity(description: Any, files: list[Path]) -> str:
    """Return a hash of what decides a result: a JSON-able description, data files and the code.

    The code is every module of the project that this process has loaded, but those of
    `tagging/base`, which decide no byte. Files are read in pieces: one may be half of the memory.
    """
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode())
    digest.update(f"torch {torch.__version__}".encode())
    code = {
        Path(module.__file__)
        for module in list(sys.modules.values())
        if getattr(module, "__file__", None)
        and any(Path(module.__file__).is_relative_to(folder) for folder in CODE)
    }
    for path in sorted(path for path in code if not path.is_relative_to(BASE)) + files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def state_path(name: str, description: Any, files: list[Path]) -> Path:
    """Return the file of a training's state; files of trainings it was before are removed.

    Args:
        name: of this training and no other; the file's name begins with it.
        description: settings that decide the result, JSON-able.
        files: data files that do.
    """
    key = identity(description, files)
    state = SCRATCH / f"{name}-{key}.safetensors"
    for stale in set(SCRATCH.glob(f"{name}-{'?' * len(key)}.safetensors")) - {state}:
        stale.unlink()
    return state


def save_state(path: Path, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Replace the state at `path`, whole or not at all."""
    text = torch.frombuffer(bytearray(json.dumps(record).encode()), dtype=torch.uint8)
    content = save({**tensors, RECORD: text})
    with atomic_write(path) as partial:
        partial.write_bytes(hashlib.sha256(content).digest() + content)


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return what `save_state` wrote, or None if that is not there or not as it was written."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, content = whole[:DIGEST_BYTES], whole[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    tensors = load(content)
    return tensors, json.loads(tensors.pop(RECORD).numpy().tobytes())
