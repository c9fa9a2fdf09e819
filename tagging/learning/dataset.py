"""The clips of a split, read from a memory-mapped feature a batch at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tagging.data.clips import Features, read_features
from tagging.data.spec import InputSpec
from tagging.layers.padding import frame_mask


class Batch(NamedTuple):
    """The input of a network, and its targets.

    `x` is float32 (batch, channels, frames, bins), 0 after a clip's end; `targets` float32 (batch,
    classes), 0 to 1; `frames` the number of frames of each clip, int64 (batch,), or None if no clip
    is padded.
    """

    x: torch.Tensor
    targets: torch.Tensor
    frames: torch.Tensor | None = None


def list_copies(feature: Path) -> list[Path]:
    """Return the folders of the augmented copies of a feature."""
    return sorted(feature.glob("augmented*"))


@dataclass(frozen=True)
class ClipDataset:
    """The clips of a split; rows count among them, 0 to `len(dataset)` - 1.

    Attributes:
        values: the feature of all clips of the task, (n, channels, frames, bins), memory-mapped.
        spec: how stored values become the input of a network.
        places: the clips of the split among all clips, int64 (clips,).
        labels: uint8 (clips, classes).
        frames: the number of frames of each clip, int64 (clips,), or None if no clip is padded.
        device: where batches are wanted.
        targets: what is learned instead of the labels, float32 (clips, classes), 0 to 1, or None.
        scales: the factor of each clip's values, float32 (clips,), or None.
    """

    values: np.ndarray
    spec: InputSpec
    places: np.ndarray
    labels: np.ndarray
    frames: np.ndarray | None
    device: torch.device
    targets: np.ndarray | None = None
    scales: np.ndarray | None = None

    @classmethod
    def select(
        cls,
        features: Features,
        labels: np.ndarray,
        places: np.ndarray,
        device: torch.device,
        targets: np.ndarray | None = None,
    ) -> "ClipDataset":
        """Return the clips at `places`, integers (clips,).

        Args:
            features: of all clips of the task.
            labels: of all clips of the task, uint8 (n, classes).
            places: the clips of the split.
            device: where batches are wanted.
            targets: of the split's clips, as the attribute.
        """
        return cls(
            np.asarray(features.values),  # a plain view: indexing of np.memmap is slow
            features.spec,
            places.astype(np.int64),
            labels[places],
            features.frames[places] if features.spec.any_length else None,
            device,
            targets,
            None if features.scales is None else features.scales[places],
        )

    def __len__(self) -> int:
        return len(self.places)

    def read_copies(self, folder: Path) -> list["ClipDataset"]:
        """Return the same clips with the values of each augmented copy of their feature.

        Args:
            folder: of the feature; copies are its folders `augmented1`, ..
        """
        copies = list_copies(folder)
        return [self.with_values(np.asarray(read_features(copy).values)) for copy in copies]

    def with_values(self, values: np.ndarray) -> "ClipDataset":
        """Return the same clips with another feature of the same shape, such as augmented ones."""
        return replace(self, values=values)

    def read(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """Read the clips at `rows` (integers) to the device."""
        return Batch(self.read_inputs(rows), self.read_targets(rows), self.read_frames(rows))

    def read_inputs(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Read the inputs alone: float32 (batch, channels, frames, bins), 0 after a clip's end."""
        stored = torch.from_numpy(self.values[self.places[rows]]).to(self.device)
        x = self.spec.as_input(stored)
        if self.scales is not None:
            x *= torch.from_numpy(self.scales[rows]).to(self.device)[:, None, None, None]
        mask = frame_mask(self.read_frames(rows), x.shape[2])
        return x if mask is None else x * mask[:, None, :, None]

    def read_targets(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Read the targets alone: float32 (batch, classes), 0 to 1."""
        targets = self.labels if self.targets is None else self.targets
        return torch.from_numpy(targets[rows]).float().to(self.device)

    def read_frames(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor | None:
        """Read the lengths alone: int64 (batch,), or None if no clip is padded."""
        if self.frames is None:
            return None
        return torch.from_numpy(self.frames[rows]).to(self.device)
