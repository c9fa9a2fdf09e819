"""Trainer: a plain loop in PyTorch, as `python -m benchmarks.trainers.plain <batch size>`.

The recipe's network, loss and optimizer; clips in memory, batches by indexing, one thread.
"""

import sys
import time

import torch

from benchmarks.trainers.splits import clips
from benchmarks.turns import Turns
from tagging.architectures.yac import Network, Settings
from tagging.batches import as_input
from tagging.losses import msml
from tagging.training import validate

LR = 0.001


def main(batch_size: int) -> None:
    turns = Turns()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, val = clips("train"), clips("val")
    network = Network(Settings(head="softmax"), 10, train.labels.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    turns.tell()
    while turns.wait():
        begin = time.perf_counter()
        network.train()
        for batch in torch.randperm(len(train.labels)).split(batch_size):
            optimizer.zero_grad()
            msml(network(as_input(train.embeddings[batch])), train.labels[batch]).backward()
            optimizer.step()
        seconds = time.perf_counter() - begin
        turns.tell(seconds=seconds, ndcg=validate(network, val)[0])


if __name__ == "__main__":
    main(int(sys.argv[1]))
