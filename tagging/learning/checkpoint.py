"""The checkpoint of an unfinished training: a killed one resumes after its last complete epoch.

Checkpoints lie in a scratch folder that neither git nor DVC tracks. The name of each ends with a
hash of all that decides the result, so that a changed parameter, data file or line of code never
resumes from an old state. The checkpoint of a finished training stays: DVC may be killed before it
records the outputs.
"""

import functools
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from tagging.base.errors import UserError
from tagging.base.files import atomic_write

ROOT = Path(__file__).parents[2]
CODE = [ROOT / folder for folder in ("stages", "tagging", "replication")]
BASE = ROOT / "tagging" / "base"
DIGEST_BYTES = 32  # a file begins with the SHA-256 of the rest
RECORD = "record"  # the name of the JSON among the tensors
STATE = "state.safetensors"

Tensors = Mapping[str, torch.Tensor]


class Checkpoint:
    """The folder of a training's checkpoint: its state, and the weights of saved epochs.

    The weights of an epoch are written once, in a file of their own, before the state that names
    them: a kill at any moment leaves the previous state or the new one, and all its files.

    Args:
        path: the folder.
        read_only: whether to write nothing, as another process does it.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._read_only = read_only
        self._written: set[int] = set()

    def save(
        self, tensors: Tensors, record: Mapping[str, Any], saved_epochs: Mapping[int, Tensors]
    ) -> None:
        """Replace the state.

        Args:
            tensors: of the state.
            record: the rest of it, JSON-able.
            saved_epochs: weights after single epochs, by the number of the epoch.
        """
        if self._read_only:
            return
        for epoch in saved_epochs.keys() - self._written:
            save_state(self._epoch_path(epoch), saved_epochs[epoch], {})
            self._written.add(epoch)
        save_state(self.path / STATE, tensors, {**record, "saved_epochs": list(saved_epochs)})

    def load(
        self,
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[int, dict[str, torch.Tensor]]] | None:
        """Return the arguments of the last `save`, or None if a file is missing or damaged."""
        state = load_state(self.path / STATE)
        if state is None:
            return None
        tensors, record = state
        saved_epochs = {}
        for epoch in record.pop("saved_epochs"):
            if (weights := load_state(self._epoch_path(epoch))) is None:
                return None
            saved_epochs[epoch] = weights[0]
        self._written = set(saved_epochs)
        return tensors, record, saved_epochs

    def _epoch_path(self, epoch: int) -> Path:
        return self.path / f"epoch{epoch}.safetensors"


def checkpoint_path(folder: Path, name: str, description: Any, digests: Sequence[str]) -> Path:
    """Return the path of a training's checkpoint; outdated ones of the same training are removed.

    Args:
        folder: of all checkpoints.
        name: of this training and no other.
        description: the settings that decide the result, JSON-able.
        digests: of the data files that decide it, as `file_digest` returns them.
    """
    key = training_hash(description, digests)
    path = folder / f"{name}-{key}"
    for outdated in set(folder.glob(f"{name}-{'?' * len(key)}")) - {path}:
        shutil.rmtree(outdated)
    return path


def training_hash(description: Any, digests: Sequence[str]) -> str:
    """Return a hash of all that decides a result: settings, data files, code and PyTorch's version.

    The code is every module of the project that this process has loaded, except for those of
    `tagging/base`, on which no result depends.
    """
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode())
    digest.update(f"torch {torch.__version__}".encode())
    loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(file) for file in loaded if file}
    code = {path for path in paths if any(path.is_relative_to(folder) for folder in CODE)}
    for path in sorted(path for path in code if not path.is_relative_to(BASE)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for data in digests:
        digest.update(bytes.fromhex(data))
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, read once in a process as long as it does not change.

    Raises:
        UserError: if it does not exist.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run dvc repro") from None
    return _file_digest(path.resolve(), status.st_size, status.st_mtime_ns)


@functools.cache
def _file_digest(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:  # not as a whole: it may be half of the memory
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_state(path: Path, tensors: Tensors, record: Mapping[str, Any]) -> None:
    """Replace the file of a state atomically."""
    text = torch.frombuffer(bytearray(json.dumps(record).encode()), dtype=torch.uint8)
    content = save({**tensors, RECORD: text})
    with atomic_write(path) as partial:
        partial.write_bytes(hashlib.sha256(content).digest() + content)


def load_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return the arguments of `save_state`, or None if the file is missing or damaged."""
    try:
        whole = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, content = whole[:DIGEST_BYTES], whole[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    tensors = load(content)
    return tensors, json.loads(tensors.pop(RECORD).numpy().tobytes())
