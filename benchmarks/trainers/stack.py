"""Trainer of a stack of the grid: `python -m benchmarks.trainers.stack <batch size>`.

Five networks with the learning rates of the study, and with the loss and head of the recipe, share
every step on one core (replication/yac_stack.py). NDCG is that of the best network.
"""

import sys
import time

import torch

from benchmarks.workers import Channel
from replication.conv_block import kernels
from replication.grid import Stack, build_trainer, read_splits, score_runs
from replication.study import epoch_batches
from replication.yac_stack import EpochLoop

LRS = (1.0, 0.1, 0.01, 0.001, 0.0001)


def main(batch_size: int) -> None:
    channel = Channel()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    splits, spec = read_splits(device)
    train = splits["train"]
    stack = Stack([("msml", lr) for lr in LRS], "softmax", 0, batch_size, [1], "cpu", 0)
    trainer = build_trainer(stack, spec, train.labels.shape[1], device)
    loop = EpochLoop(trainer, *train, spec)
    channel.send(networks=len(stack.runs), compiled=kernels() is not None)
    epoch = 0
    while channel.wait():
        begin = time.perf_counter()
        loop.run(epoch_batches(len(train.x), batch_size, stack.seed, epoch))
        seconds = time.perf_counter() - begin
        best = max(float(run.ndcg) for run in score_runs(trainer, splits["val"], spec))
        channel.send(seconds=seconds, ndcg=best)
        epoch += 1


if __name__ == "__main__":
    main(int(sys.argv[1]))
