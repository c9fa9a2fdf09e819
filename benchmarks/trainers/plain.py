"""Trainer: a plain loop in PyTorch, as `python -m benchmarks.trainers.plain <batch size>`.

The recipe's network, loss and optimizer; clips in memory, batches by indexing, one thread.
"""

import sys
import time

import torch

from benchmarks.trainers.splits import in_memory, validation
from benchmarks.turns import Turns
from tagging.learning.losses import Msml
from tagging.networks.yac import Network, Settings

LR = 0.001


def main(batch_size: int) -> None:
    turns = Turns()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, validate, loss = in_memory("train"), validation(), Msml()
    network = Network(Settings(head="softmax"), train.spec, train.labels.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    turns.tell()
    while turns.wait():
        begin = time.perf_counter()
        network.train()
        for batch in torch.randperm(len(train.labels)).split(batch_size):
            optimizer.zero_grad()
            x = train.spec.as_input(train.stored[batch])
            loss(network(x), train.labels[batch]).backward()
            optimizer.step()
        seconds = time.perf_counter() - begin
        turns.tell(seconds=seconds, ndcg=validate(network))


if __name__ == "__main__":
    main(int(sys.argv[1]))
