"""Trainer: a stack of the published grid, as `python -m benchmarks.trainers.stack <batch size>`.

Five networks with the five learning rates of the study, and the recipe's loss and head, share every
step on one core (tagging/yac_stack.py). NDCG is the best network's.
"""

import sys
import time

import torch

from benchmarks.turns import Turns
from published.grid import RUNS_A_STACK, Stack, build, scores, train_epoch
from tagging.conv_block import kernels
from tagging.dataset import read_split, split_path

LRS = (1.0, 0.1, 0.01, 0.001, 0.0001)


def main(batch_size: int) -> None:
    turns = Turns()
    torch.set_num_threads(1)
    train, val = (read_split(split_path(name)) for name in ("train", "val"))
    stack = Stack([("msml", lr) for lr in LRS[:RUNS_A_STACK]], "softmax", 0, batch_size)
    trainer = build(stack, len(train.names))
    turns.tell(networks=len(stack.runs), compiled=kernels() is not None)
    epoch = 0
    while turns.wait():
        begin = time.perf_counter()
        train_epoch(trainer, train, stack, epoch)
        seconds = time.perf_counter() - begin
        turns.tell(seconds=seconds, ndcg=float(max(scores(trainer, val)[0])))
        epoch += 1


if __name__ == "__main__":
    main(int(sys.argv[1]))
