"""Stage `grid@<head>-<seed>`: the study's runs with one head and one seed, trained side by side.

Ten seconds of every clip, batches of 16, Adam at a constant rate, as in the study. Runs are put
together five to a stack (see replication/yac_stack.py), stacks are spread over the cores. On a CUDA
GPU all runs are one stack. What a run computes does not depend on what else is in its stack.
"""

import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from replication.conv_block import SOURCE, kernels
from replication.scoring import Scored, score
from replication.settings import RESULTS, load_grid
from replication.yac_stack import CLIP, EpochLoop, StackTrainer, features
from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.base.processes import ProgressProxy, run_parallel
from tagging.base.progress import Progress
from tagging.data.batches import epoch_batches
from tagging.data.clips import FEATURES, INDEX, read_features, read_index
from tagging.data.spec import InputSpec
from tagging.learning.device import pick_device
from tagging.learning.resume import load_state, save_state, state_path
from tagging.networks.yac import Network, Settings
from tagging.parameters import Machine, load
from tagging.scoring.tables import to_csv

FEATURE = "vggish"
RUNS_A_STACK = 5
SCORED_CLIPS = 256  # at a time
SPLITS = ("val", "test")  # that are scored
HEADER = (
    *("loss", "lr", "epoch", "train_loss"),
    *(f"{split}_{metric}" for split in SPLITS for metric in Scored._fields),
)


class Stack(NamedTuple):
    """Runs that share their steps: pairs of a loss and a learning rate, with one head and seed.

    `looks` are the epochs at which the test split is scored too, in their order; the last one ends
    the training. `number` tells the stacks of a head and seed apart.
    """

    runs: list[tuple[str, float]]
    head: str
    seed: int
    batch_size: int
    looks: list[int]
    device: str = "cpu"
    number: int = 0


class Clips(NamedTuple):
    """A split on the device: `features` uint8 (clips, 1526) and labels uint8 (clips, classes)."""

    x: torch.Tensor
    labels: torch.Tensor


def read_clips(device: torch.device) -> tuple[dict[str, Clips], InputSpec]:
    """Return the splits on the device, and how bytes become a network's input.

    Raises:
        UserError: if clips are not what the study's network takes.
    """
    index, (values, _, spec, _) = read_index(), read_features(FEATURE)
    if spec[:3] != (1, *CLIP) or spec.any_length:
        raise UserError(
            f"{FEATURES / FEATURE} has clips of {spec.frames} frames x {spec.bins} bins"
            f"{' or fewer' if spec.any_length else ''}; the grid takes clips of 10 x 128: "
            "params.yaml: prepare.seconds 10"
        )
    splits = {}
    for name, places in index.folds[0]._asdict().items():
        x = features(torch.from_numpy(values[places, 0]))
        splits[name] = Clips(x.to(device), torch.from_numpy(index.labels[places]).to(device))
    return splits, spec


def build(stack: Stack, spec: InputSpec, classes: int, device: torch.device) -> StackTrainer:
    """Return freshly initialized networks: every run of a seed begins with the same weights."""
    networks = []
    for _ in stack.runs:
        torch.manual_seed(stack.seed)
        networks.append(Network(Settings(head=stack.head), spec, classes).to(device))
    losses, lrs = zip(*stack.runs, strict=True)
    return StackTrainer(networks, losses, lrs)


@torch.no_grad()
def scores(trainer: StackTrainer, clips: Clips, spec: InputSpec) -> list[Scored]:
    """Return each run's scores."""
    outputs = [
        trainer.stack.forward(spec.as_input(batch), training=False)
        for batch in clips.x.split(SCORED_CLIPS)
    ]
    labels = clips.labels.cpu().numpy()
    return [score(labels, run) for run in torch.cat(outputs, dim=1).cpu().numpy()]


def train_stack(stack: Stack, progress: Progress | ProgressProxy) -> list[list]:
    """Train a stack; return rows as in `HEADER`, one a run and epoch shown.

    The state is kept after every epoch, and at the end: a later call with more epochs goes on.
    """
    device = pick_device(stack.device)
    splits, spec = read_clips(device)
    train = splits["train"]
    trainer = build(stack, spec, train.labels.shape[1], device)
    loop = EpochLoop(trainer, *train, spec)
    state = state_path(
        f"grid-{stack.head}-{stack.seed}-{stack.number}",
        [stack.runs, stack.batch_size, device.type, kernels() is not None],
        [SOURCE, INDEX, *sorted((FEATURES / FEATURE).iterdir())],
    )
    rows: list[list] = []
    done, last = 0, stack.looks[-1]
    saved = load_state(state)
    if saved is not None and scored_at(saved[1], stack.looks):
        tensors, record = saved
        done = record["epochs"]
        rows = [row for row in record["rows"] if row[2] <= last]
        trainer.load(tensors)
        progress.skip(min(done, last) * len(stack.runs))
    for epoch in range(done + 1, last + 1):
        batches = epoch_batches(len(train.x), stack.batch_size, stack.seed, epoch - 1)
        losses = loop.run(batches)
        if shown(epoch, stack.looks):
            scored = SPLITS if epoch in stack.looks else SPLITS[:1]
            of_splits = [scores(trainer, splits[split], spec) for split in scored]
            rows += [
                [*run, epoch, float(loss), *np.concatenate(values).tolist()]
                for run, loss, *values in zip(stack.runs, losses, *of_splits, strict=True)
            ]
        save_state(state, trainer.state(), {"rows": rows, "epochs": epoch})
        progress.advance(len(stack.runs))
    return rows


def scored_at(record: dict, looks: list[int]) -> bool:
    """Tell whether an earlier training scored the test split at all `looks` it came to."""
    scored = {row[2] for row in record["rows"] if len(row) == len(HEADER)}
    return {look for look in looks if look <= record["epochs"]} <= scored


def shown(epoch: int, looks: list[int]) -> bool:
    """Tell whether runs are scored after an epoch: the first fifty, every tenth, and `looks`."""
    return epoch <= 50 or epoch % 10 == 0 or epoch in looks


def result_path(head: str, seed: int) -> Path:
    """Return the file of all rows of a head and seed."""
    return RESULTS / f"{head}-{seed}.csv"


@entry_point
def main(head: str, seed: str) -> None:
    """Run the stage for one head and one seed."""
    settings, machine = load_grid(), load(Machine, "run")
    looks = sorted(settings.epochs[int(seed)])
    runs = list(product(settings.losses, settings.lrs))
    # A GPU has room for all runs in one step. Any other device than CUDA: the cores do the work.
    device = "cuda" if pick_device(machine.device).type == "cuda" else "cpu"
    number = 1 if device == "cuda" else -(-len(runs) // RUNS_A_STACK)
    stacks = [
        # Dealt out in turn, so that stacks are alike in what they cost.
        Stack(runs[k::number], head, int(seed), settings.batch_size, looks, device, k)
        for k in range(number)
    ]
    kernels()  # compiled here, once, not by every process
    total = len(runs) * looks[-1]
    with Progress(f"grid {head} {seed}", total, "epoch", machine.progress) as progress:
        rows = [row for of_stack in run_parallel(train_stack, stacks, progress) for row in of_stack]
    filled = [row + [""] * (len(HEADER) - len(row)) for row in rows]
    text = to_csv(HEADER, sorted(filled, key=lambda row: row[:3]))
    write_text(result_path(head, int(seed)), text)


if __name__ == "__main__":
    main(*sys.argv[1:])
