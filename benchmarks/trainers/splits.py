"""The prepared splits as all trainers take them, in the folder they run in."""

import torch

from tagging.batches import Clips, to_clips
from tagging.dataset import read_split, split_path


def clips(split: str) -> Clips:
    """Return a split's embeddings, as the bytes they are, and its labels."""
    return to_clips(read_split(split_path(split)), torch.device("cpu"))
