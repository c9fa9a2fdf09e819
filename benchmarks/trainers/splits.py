"""The prepared splits as all trainers take them, in the folder they run in."""

import torch

from tagging.dataset import read_split, split_path
from tagging.training import Clips


def clips(split: str) -> Clips:
    """Return a split's embeddings, as the bytes they are, and its labels."""
    read = read_split(split_path(split))
    return Clips(torch.from_numpy(read.embeddings), torch.from_numpy(read.labels).float())
