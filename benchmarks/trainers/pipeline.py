"""Trainer: the stage `train` with a configured model, in the folder of a params.yaml.

As `python -m benchmarks.trainers.pipeline <model> <batch size>`. A turn is an epoch of
tagging/learning/loop.py; seconds are what it counts as training.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.trainers.splits import mapped, validation
from benchmarks.turns import Turns
from stages.train import load_settings
from tagging.base.progress import Progress
from tagging.learning.device import pick_device
from tagging.learning.loop import Epoch, train
from tagging.learning.model import build
from tagging.learning.resume import load_state


class NoMoreTurnsError(Exception):
    """Nobody asks for another epoch."""


def main(name: str, batch_size: int) -> None:
    turns = Turns()
    model, settings = load_settings(name)
    settings = settings.model_copy(update={"batch_size": batch_size})
    pick_device("cpu")
    torch.manual_seed(0)
    clips, index = mapped("train")
    network = build(model, clips.spec, len(index.classes), name)
    before = 0.0

    with TemporaryDirectory() as folder:
        state = Path(folder) / "state.safetensors"

        def tell(epoch: Epoch) -> None:
            nonlocal before
            _, record = load_state(state)
            turns.tell(seconds=record["seconds"] - before, ndcg=epoch.val)
            before = record["seconds"]
            wait()

        def wait() -> None:
            if not turns.wait():
                raise NoMoreTurnsError

        turns.tell()
        try:
            wait()
            silent = Progress(name, None, "step", "none")
            train(network, settings, 0, clips, validation(), state, silent, tell)
        except NoMoreTurnsError:
            pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
