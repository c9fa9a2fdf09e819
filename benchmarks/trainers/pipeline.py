"""Trainer: the stage `train` with a configured model, in the folder of a params.yaml.

As `python -m benchmarks.trainers.pipeline <model> <batch size>`. A turn is an epoch of
tagging/learning/trainer.py; seconds are those that it counts as training.
"""

import sys
from pathlib import Path

import torch

from benchmarks.trainers.splits import mapped, validation
from benchmarks.turns import Turns
from tagging.data.task_folder import TaskFolder
from tagging.learning.device import pick_device
from tagging.learning.factory import build_network
from tagging.learning.loader import BatchLoader
from tagging.learning.model import read_model
from tagging.learning.settings import read_train_settings
from tagging.learning.trainer import Trainer
from tagging.parameters import Params


def main(name: str, batch_size: int) -> None:
    turns = Turns()
    params = Params.read(TaskFolder(Path()).params)
    model = read_model(params, name)
    settings = read_train_settings(params, model, name)
    settings = settings.model_copy(update={"batch_size": batch_size})
    pick_device("cpu")
    torch.manual_seed(0)
    dataset, index = mapped("train")
    network = build_network(model, dataset.spec, len(index.classes), name)
    loader = BatchLoader(dataset, settings, seed=0)
    trainer = Trainer(network, settings, 0, loader, validation())
    turns.tell()
    while turns.wait():
        before = trainer.seconds
        epoch = trainer.train_epoch(len(trainer.history))
        turns.tell(seconds=trainer.seconds - before, ndcg=epoch.val)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
