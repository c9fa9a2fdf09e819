"""Stage `grid@<head>-<seed>`: the study's runs with one head and one seed, trained side by side.

Ten seconds of every clip, batches of 16, Adam at a constant rate, as in the study. Runs are put
together five to a stack (see tagging/yac_stack.py), stacks are spread over the cores. On a CUDA GPU
all runs are one stack. What a run computes does not depend on what else is in its stack.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path
from queue import Empty
from typing import NamedTuple

import numpy as np
import torch

from published.audit import ties_in_label_order
from published.settings import RESULTS, Published
from tagging.architectures.yac import Network, Settings
from tagging.batches import as_input, epoch_batches
from tagging.conv_block import SOURCE, kernels
from tagging.dataset import read_split, split_path
from tagging.device import pick_device
from tagging.errors import UserError, entry_point
from tagging.files import write_text
from tagging.parameters import Run, load
from tagging.progress import Progress
from tagging.ranking import ndcg, precision_at_1
from tagging.resume import SCRATCH, identity, load_state, save_state
from tagging.tables import to_csv
from tagging.yac_stack import EpochLoop, StackTrainer, features

RUNS_A_STACK = 5
CPU = torch.device("cpu")
SCORED_CLIPS = 256  # at a time
HEADER = (
    "loss", "lr", "epoch", "train_loss",
    "val_ndcg", "val_ndcg_label_order", "val_precision_at_1",
    "test_ndcg", "test_ndcg_label_order", "test_precision_at_1",
)  # fmt: skip


class Stack(NamedTuple):
    """What one worker trains: pairs of a loss and a learning rate, with one head and one seed."""

    runs: list[tuple[str, float]]
    head: str
    seed: int
    batch_size: int


class Clips(NamedTuple):
    """A split on the device: `features` uint8 (clips, 1526) and labels uint8 (clips, labels)."""

    x: torch.Tensor
    labels: torch.Tensor


def load_clips(path: Path, device: torch.device) -> Clips:
    """Read a split and put it on the device."""
    split = read_split(path)
    x, labels = features(torch.from_numpy(split.embeddings)), torch.from_numpy(split.labels)
    return Clips(x.to(device), labels.to(device))


def build(stack: Stack, labels: int, device: torch.device) -> StackTrainer:
    """Return freshly initialized networks: every run of a seed begins with the same weights."""
    networks = []
    for _ in stack.runs:
        torch.manual_seed(stack.seed)
        networks.append(Network(Settings(head=stack.head), 10, labels).to(device))
    losses, lrs = zip(*stack.runs, strict=True)
    return StackTrainer(networks, losses, lrs)


@torch.no_grad()
def scores(trainer: StackTrainer, clips: Clips) -> list[np.ndarray]:
    """Return each run's NDCG, NDCG with ties in label order, and precision at 1: (runs,) each."""
    outputs = torch.cat(
        [
            trainer.stack.forward(as_input(batch), training=False)
            for batch in clips.x.split(SCORED_CLIPS)
        ],
        dim=1,
    )
    labels = clips.labels.cpu().numpy()
    columns = zip(
        *(
            (
                ndcg(labels, run).mean(),
                ndcg(labels, ties_in_label_order(run)).mean(),
                precision_at_1(labels, run).mean(),
            )
            for run in outputs.cpu().numpy()
        ),
        strict=True,
    )
    return [np.array(column) for column in columns]


def state_path(stack: Stack, splits: list[Path], device: torch.device) -> Path:
    """Return where the state of an unfinished training lies: a name for each way to compute it."""
    name = identity([*stack, device.type, kernels() is not None], [SOURCE, *splits])
    return SCRATCH / f"published-{stack.head}-{stack.seed}-{name}.safetensors"


def train_stack(
    stack: Stack,
    looks: list[int],
    on_epochs: Callable[[int, bool], None] = lambda epochs, before: None,
    device: torch.device = CPU,
) -> list[list]:
    """Train a stack to the last of `looks`; return rows as in `HEADER`, one a run and epoch shown.

    The state is kept after every epoch, and at the end: a later call with more epochs goes on.

    Args:
        stack: what to train.
        looks: epochs at which the test split is scored too.
        on_epochs: told the number of epochs done since it was last told, times the runs, and
            whether an earlier call did them.
        device: where data, networks and the loop are.
    """
    torch.set_num_threads(1)
    paths = {name: split_path(name) for name in ("train", "val", "test")}
    splits = {name: load_clips(path, device) for name, path in paths.items()}
    trainer = build(stack, splits["train"].labels.shape[1], device)
    loop = EpochLoop(trainer, *splits["train"])
    state = state_path(stack, list(paths.values()), device)
    rows: list[list] = []
    done = 0
    saved = load_state(state)
    if saved is not None and scored_at(saved[1], looks):
        tensors, record = saved
        done = record["epochs"]
        rows = [row for row in record["rows"] if row[2] <= looks[-1]]
        trainer.load(tensors)
        on_epochs(min(done, looks[-1]) * len(stack.runs), True)
    for epoch in range(done, looks[-1]):
        clips = len(splits["train"].labels)
        columns = [loop.run(epoch_batches(clips, stack.batch_size, stack.seed, epoch))]
        if shown(epoch + 1, looks):
            columns += scores(trainer, splits["val"])
            if epoch + 1 in looks:
                columns += scores(trainer, splits["test"])
            rows += [
                [*run, epoch + 1, *map(float, values)]
                for run, *values in zip(stack.runs, *columns, strict=True)
            ]
        save_state(state, trainer.state(), {"rows": rows, "epochs": epoch + 1})
        on_epochs(len(stack.runs), False)
    return rows


def scored_at(record: dict, looks: list[int]) -> bool:
    """Tell whether an earlier training scored the test split at all `looks` it came to."""
    scored = {row[2] for row in record["rows"] if len(row) == len(HEADER)}
    return {look for look in looks if look <= record["epochs"]} <= scored


def shown(epoch: int, looks: list[int]) -> bool:
    """Tell whether runs are scored after an epoch: the first fifty, every tenth, and `looks`."""
    return epoch <= 50 or epoch % 10 == 0 or epoch in looks


# Set in a worker process: how it tells the parent of epochs done.
_queue: multiprocessing.Queue


def _begin_worker(queue: multiprocessing.Queue) -> None:
    global _queue
    _queue = queue
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers


def _work(stack: Stack, looks: list[int]) -> list[list]:
    return train_stack(stack, looks, _tell)


def _tell(epochs: int, before: bool) -> None:
    if not multiprocessing.parent_process().is_alive():
        os._exit(1)  # the pool would catch an exception, and wait for more work
    _queue.put((epochs, before))


@contextmanager
def worker_pool(*arguments: object) -> Iterator[ProcessPoolExecutor]:
    """A `ProcessPoolExecutor` that an error ends at once, together with its workers.

    Raises:
        UserError: if a worker was killed.
    """
    with ProcessPoolExecutor(*arguments) as pool:
        try:
            yield pool
        except BaseException as error:
            # On leaving, the pool waits for work under way: half an hour, if nobody ends it.
            for worker in multiprocessing.active_children():
                worker.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a training process was killed, perhaps because memory ran out; "
                    "dvc repro published/dvc.yaml goes on after the last epochs done"
                ) from None
            raise


def count(progress: Progress, epochs: int, before: bool) -> None:
    """Count epochs as done now or, at no speed, as done before."""
    (progress.skip if before else progress.advance)(epochs)


def train_stacks(stacks: list[Stack], looks: list[int], progress: Progress) -> list[list]:
    """Train stacks, one on each core at a time; return all their rows, in their order.

    Raises:
        UserError: if a worker was killed.
    """
    kernels()  # compiled here, once, not by every worker
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = min(len(stacks), os.cpu_count() or 1)
    with worker_pool(workers, context, _begin_worker, (queue,)) as pool:
        futures = [pool.submit(_work, stack, looks) for stack in stacks]
        while not all(future.done() for future in futures):
            with suppress(Empty):
                count(progress, *queue.get(timeout=1))
            for future in futures:
                if future.done():
                    future.result()  # raises what ended a worker
        return [row for future in futures for row in future.result()]


@entry_point
def main(head: str, seed: str) -> None:
    """Run the stage for one head and one seed."""
    settings = load(Published, "published")
    looks = sorted(settings.epochs)
    runs = list(product(settings.losses, settings.lrs))
    run = load(Run, "run")
    device = pick_device(run.device)
    # A GPU has room for all runs in one step. Any other device than CUDA: the cores do the work.
    on_cuda = device.type == "cuda"
    # Dealt out in turn, so that stacks are alike in what they cost.
    number = 1 if on_cuda else -(-len(runs) // RUNS_A_STACK)
    stacks = [
        Stack(runs[first::number], head, int(seed), settings.batch_size) for first in range(number)
    ]
    total = len(runs) * looks[-1]
    with Progress(f"grid {head} {seed}", total, "epoch", run.progress) as progress:
        if on_cuda:
            rows = train_stack(stacks[0], looks, partial(count, progress), device)
        else:
            rows = train_stacks(stacks, looks, progress)
    path = RESULTS / f"{head}-{seed}.csv"
    filled = [row + [""] * (len(HEADER) - len(row)) for row in rows]
    write_text(path, to_csv(HEADER, sorted(filled, key=lambda row: row[:3])))


if __name__ == "__main__":
    main(*sys.argv[1:])
