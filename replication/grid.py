"""Stage `grid@<head>-<seed>`: the study's runs with one head and one seed, trained side by side.

All clips of ten seconds, batches of 16 and Adam at a constant rate, as in the study. Five runs are
one stack (see replication/yac_stack.py), and the stacks are distributed over the cores. On a CUDA
GPU all runs are one stack. The result of a run does not depend on the others in its stack.
"""

import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from replication.conv_block import SOURCE, conv_block, kernels
from replication.study import CLIPS, RESULTS, Scores, epoch_batches, load_grid, score
from replication.yac_stack import CLIP, ConvBlock, EpochLoop, StackTrainer, features
from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.base.processes import ProgressProxy, run_parallel
from tagging.base.progress import Progress
from tagging.data.clips import read_features, read_index
from tagging.data.parameters import Params
from tagging.data.spec import InputSpec
from tagging.data.task_folder import TaskFolder
from tagging.learning.checkpoint import Checkpoint, checkpoint_path, file_digest
from tagging.learning.device import pick_device
from tagging.networks.yac import Network, Settings
from tagging.scoring.tables import to_csv

CHECKPOINTS = Path(".resume")
FEATURE = "vggish"
RUNS_PER_STACK = 5
SCORING_BATCH = 256
SCORED_SPLITS = ("val", "test")
HEADER = (
    *("loss", "lr", "epoch", "train_loss"),
    *(f"{split}_{metric}" for split in SCORED_SPLITS for metric in Scores._fields),
)


class Stack(NamedTuple):
    """Runs that are trained together: pairs of a loss and a learning rate, with one head and seed.

    `test_epochs`, in ascending order, are the epochs after which the test split is scored too; the
    last one ends the training. `number` distinguishes the stacks of a head and seed.
    """

    runs: list[tuple[str, float]]
    head: str
    seed: int
    batch_size: int
    test_epochs: list[int]
    device: str = "cpu"
    number: int = 0


class Split(NamedTuple):
    """A split on the device: `features` uint8 (clips, 1526) and labels uint8 (clips, classes)."""

    x: torch.Tensor
    labels: torch.Tensor


def read_splits(
    device: torch.device, pool_width: int = 8, folder: TaskFolder = CLIPS
) -> tuple[dict[str, Split], InputSpec]:
    """Return the splits on the device, and the scaling of bytes to a network's input.

    Args:
        device: where the splits are to be.
        pool_width: the kernel of the network's max pooling, in bins.
        folder: the task whose clips are read.

    Raises:
        UserError: if the clips have another shape than the study's.
    """
    index, (values, _, spec, *_) = read_index(folder.index), read_features(folder.feature(FEATURE))
    if spec[:3] != (1, *CLIP) or spec.any_length:
        raise UserError(
            f"{folder.feature(FEATURE)}: the grid needs clips of 10 frames x 128 bins, got "
            f"{spec.frames} x {spec.bins}{' or fewer' if spec.any_length else ''}; set "
            "prepare.clip_seconds to 10 in params.yaml"
        )
    splits = {}
    for name, clips in index.folds[0]._asdict().items():
        x = features(torch.from_numpy(values[clips, 0]), pool_width)
        splits[name] = Split(x.to(device), torch.from_numpy(index.labels[clips]).to(device))
    return splits, spec


def build_trainer(
    stack: Stack,
    spec: InputSpec,
    classes: int,
    device: torch.device,
    block: ConvBlock = conv_block,
) -> StackTrainer:
    """Return a trainer of new networks: all runs of a seed begin with the same weights."""
    networks = []
    for _ in stack.runs:
        torch.manual_seed(stack.seed)
        networks.append(Network(Settings(head=stack.head), spec, classes).to(device))
    losses, lrs = zip(*stack.runs, strict=True)
    return StackTrainer(networks, losses, lrs, block)


@torch.no_grad()
def score_runs(trainer: StackTrainer, split: Split, spec: InputSpec) -> list[Scores]:
    """Return the scores of each run on a split."""
    outputs = [
        trainer.stack.forward(spec.as_input(batch), training=False)
        for batch in split.x.split(SCORING_BATCH)
    ]
    labels = split.labels.cpu().numpy()
    return [score(labels, run_outputs) for run_outputs in torch.cat(outputs, dim=1).cpu().numpy()]


def train_stack(stack: Stack, progress: Progress | ProgressProxy) -> list[list]:
    """Train a stack; return a row as in `HEADER` for each run and scored epoch.

    The state is saved after every epoch, and kept: a later call with more epochs continues.
    """
    device = pick_device(stack.device)
    splits, spec = read_splits(device)
    train = splits["train"]
    trainer = build_trainer(stack, spec, train.labels.shape[1], device)
    loop = EpochLoop(trainer, *train, spec)
    data_files = [SOURCE, CLIPS.index, *sorted(CLIPS.feature(FEATURE).iterdir())]
    checkpoint = Checkpoint(
        checkpoint_path(
            CHECKPOINTS,
            f"grid-{stack.head}-{stack.seed}-{stack.number}",
            [stack.runs, stack.batch_size, device.type, kernels() is not None],
            [file_digest(file) for file in data_files],
        )
    )
    rows: list[list] = []
    epochs_done, last = 0, stack.test_epochs[-1]
    saved = checkpoint.load()
    if saved is not None and has_test_scores(saved[1], stack.test_epochs):
        tensors, record, _ = saved
        epochs_done = record["epochs"]
        rows = [row for row in record["rows"] if row[2] <= last]
        trainer.load(tensors)
        progress.skip(min(epochs_done, last) * len(stack.runs))
    for epoch in range(epochs_done + 1, last + 1):
        losses = loop.run(epoch_batches(len(train.x), stack.batch_size, stack.seed, epoch - 1))
        if is_scored(epoch, stack.test_epochs):
            names = SCORED_SPLITS if epoch in stack.test_epochs else SCORED_SPLITS[:1]
            split_scores = [score_runs(trainer, splits[name], spec) for name in names]
            rows += [
                [*run, epoch, float(loss), *np.concatenate(run_scores).tolist()]
                for run, loss, *run_scores in zip(stack.runs, losses, *split_scores, strict=True)
            ]
        checkpoint.save(trainer.state(), {"rows": rows, "epochs": epoch}, {})
        progress.advance(len(stack.runs))
    return rows


def has_test_scores(record: dict, test_epochs: list[int]) -> bool:
    """Return whether an earlier training scored the test split at all `test_epochs` it reached."""
    scored = {row[2] for row in record["rows"] if len(row) == len(HEADER)}
    return {epoch for epoch in test_epochs if epoch <= record["epochs"]} <= scored


def is_scored(epoch: int, test_epochs: list[int]) -> bool:
    """Return whether runs are scored after an epoch: the first 50, every tenth, `test_epochs`."""
    return epoch <= 50 or epoch % 10 == 0 or epoch in test_epochs


def result_path(head: str, seed: int) -> Path:
    """Return the file with the rows of a head and seed."""
    return RESULTS / f"{head}-{seed}.csv"


@entry_point
def main(head: str, seed: str) -> None:
    """Run the stage for one head and one seed."""
    settings, runtime = load_grid(), Params.read(CLIPS.params).runtime()
    test_epochs = sorted(settings.epochs[int(seed)])
    runs = list(product(settings.losses, settings.lrs))
    # Only CUDA has room for all runs in one step; other devices leave the work to the cores.
    device = "cuda" if pick_device(runtime.device).type == "cuda" else "cpu"
    stack_count = 1 if device == "cuda" else -(-len(runs) // RUNS_PER_STACK)
    stacks = [
        # Every stack gets runs of each kind, so that all take about the same time.
        Stack(runs[k::stack_count], head, int(seed), settings.batch_size, test_epochs, device, k)
        for k in range(stack_count)
    ]
    kernels()  # compile once, not in every process
    total = len(runs) * test_epochs[-1]
    with Progress(f"grid {head} {seed}", total, "epoch", runtime.progress) as progress:
        stack_rows = run_parallel(train_stack, stacks, progress)
    # Epochs without test scores have shorter rows.
    padded = [row + [""] * (len(HEADER) - len(row)) for rows in stack_rows for row in rows]
    text = to_csv(HEADER, sorted(padded, key=lambda row: row[:3]))
    write_text(result_path(head, int(seed)), text)


if __name__ == "__main__":
    main(*sys.argv[1:])
