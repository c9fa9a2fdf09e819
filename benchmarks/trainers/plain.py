"""Trainer with a plain loop in PyTorch: `python -m benchmarks.trainers.plain <batch size>`.

Network, loss and optimizer of the recipe, clips in memory, batches by indexing, one thread.
"""

import sys
import time

import torch

from benchmarks.trainers.splits import load_split, make_validation
from benchmarks.workers import Channel
from tagging.learning.losses import Msml
from tagging.networks.yac import Network, Settings

LR = 0.001


def main(batch_size: int) -> None:
    channel = Channel()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    train, validate, loss = load_split("train"), make_validation(), Msml()
    network = Network(Settings(head="softmax"), train.spec, train.labels.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    channel.send()
    while channel.wait():
        begin = time.perf_counter()
        network.train()
        for batch in torch.randperm(len(train.labels)).split(batch_size):
            optimizer.zero_grad()
            x = train.spec.as_input(train.stored[batch])
            loss(network(x), train.labels[batch]).backward()
            optimizer.step()
        seconds = time.perf_counter() - begin
        channel.send(seconds=seconds, ndcg=validate(network))


if __name__ == "__main__":
    main(int(sys.argv[1]))
