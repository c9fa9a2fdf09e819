"""Trainer: a stack of the published grid, as `python -m benchmarks.trainers.stack <batch size>`.

Five networks with the five learning rates of the study, and the recipe's loss and head, share every
step on one core (tagging/yac_stack.py). NDCG is the best network's.
"""

import sys
import time

import torch

from benchmarks.turns import Turns
from published.grid import CPU, RUNS_A_STACK, Stack, build, load_clips, scores
from tagging.batches import epoch_batches
from tagging.conv_block import kernels
from tagging.dataset import split_path
from tagging.yac_stack import EpochLoop

LRS = (1.0, 0.1, 0.01, 0.001, 0.0001)


def main(batch_size: int) -> None:
    turns = Turns()
    torch.set_num_threads(1)
    train, val = (load_clips(split_path(name), CPU) for name in ("train", "val"))
    clips, labels = train.labels.shape
    stack = Stack([("msml", lr) for lr in LRS[:RUNS_A_STACK]], "softmax", 0, batch_size)
    trainer = build(stack, labels, CPU)
    loop = EpochLoop(trainer, *train)
    turns.tell(networks=len(stack.runs), compiled=kernels() is not None)
    epoch = 0
    while turns.wait():
        begin = time.perf_counter()
        loop.run(epoch_batches(clips, batch_size, stack.seed, epoch))
        seconds = time.perf_counter() - begin
        turns.tell(seconds=seconds, ndcg=float(max(scores(trainer, val)[0])))
        epoch += 1


if __name__ == "__main__":
    main(int(sys.argv[1]))
