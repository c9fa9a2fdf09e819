"""Trainer: the stage `train` with a configured model, in the folder of a params.yaml.

As `python -m benchmarks.trainers.pipeline <model> <batch size>`. A turn is an epoch of
tagging/training.py; seconds are what it counts as training.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.trainers.splits import clips
from benchmarks.turns import Turns
from stages.train import load_settings
from tagging.dataset import read_split, split_path
from tagging.device import pick_device
from tagging.models import build, shape_of
from tagging.progress import Progress
from tagging.resume import load_state
from tagging.training import Epoch, train


class NoMoreTurnsError(Exception):
    """Nobody asks for another epoch."""


def main(name: str, batch_size: int) -> None:
    turns = Turns()
    model, settings = load_settings(name)
    settings = settings.model_copy(update={"batch_size": batch_size})
    pick_device("cpu")
    torch.manual_seed(settings.seed)
    split = read_split(split_path("train"))
    network = build(model, shape_of(split), name)
    before = 0.0

    with TemporaryDirectory() as folder:
        state = Path(folder) / "state.safetensors"

        def tell(epoch: Epoch) -> None:
            nonlocal before
            _, record = load_state(state)
            turns.tell(seconds=record["seconds"] - before, ndcg=epoch.val_ndcg)
            before = record["seconds"]
            wait()

        def wait() -> None:
            if not turns.wait():
                raise NoMoreTurnsError

        turns.tell()
        try:
            wait()
            silent = Progress(name, None, "step", "none")
            train(network, settings, clips("train"), clips("val"), state, silent, tell)
        except NoMoreTurnsError:
            pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
