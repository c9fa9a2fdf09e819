"""Trainer of the project: `python -m benchmarks.trainers.pipeline <model> <batch size>`.

The model is one of the params.yaml in the working directory. Seconds are those that
tagging/learning/trainer.py counts as training.
"""

import sys
from pathlib import Path

import torch

from benchmarks.trainers.splits import make_validation, map_split
from benchmarks.workers import Channel
from tagging.data.parameters import Params
from tagging.data.task_folder import TaskFolder
from tagging.learning.device import pick_device
from tagging.learning.factory import build_network
from tagging.learning.loader import BatchLoader
from tagging.learning.model import read_model
from tagging.learning.settings import read_train_settings
from tagging.learning.trainer import Trainer


def main(name: str, batch_size: int) -> None:
    channel = Channel()
    params = Params.read(TaskFolder(Path()).params)
    model = read_model(params, name)
    settings = read_train_settings(params, model, name)
    settings = settings.model_copy(update={"batch_size": batch_size})
    pick_device("cpu")
    torch.manual_seed(0)
    dataset, index = map_split("train")
    network = build_network(model, dataset.spec, len(index.classes), name)
    loader = BatchLoader(dataset, settings, seed=0)
    trainer = Trainer(network, settings, 0, loader, make_validation())
    channel.send()
    while channel.wait():
        before = trainer.seconds
        epoch = trainer.train_epoch(len(trainer.history))
        channel.send(seconds=trainer.seconds - before, ndcg=epoch.val)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
