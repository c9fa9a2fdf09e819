"""Stage `variants`: what could explain the difference to the printed numbers, each tried alone.

The study's source leaves details of the network open. Each variant of one is trained as in the
grid, with the softmax head, for a few epochs, and scored with the running statistics of the batch
normalization and with those of the batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from replication.conv_block import Geometry, conv_block
from replication.grid import SCORING_BATCH, Split, Stack, build_trainer, read_splits
from replication.study import CLIPS, LOSSES, VARIANTS_CSV, epoch_batches, score
from replication.yac_stack import ConvBlock, EpochLoop, StackTrainer
from tagging.base.errors import entry_point
from tagging.base.files import write_text
from tagging.base.processes import ProgressProxy, run_parallel
from tagging.base.progress import Progress
from tagging.data.parameters import Params
from tagging.data.spec import InputSpec
from tagging.learning.device import pick_device
from tagging.scoring.tables import to_csv

RUNS = [("msml", 0.001), ("ce", 0.001)]
SEED, BATCH_SIZE, EPOCHS = 0, 16, 10
HEADER = (
    *("variant", "loss", "lr", "epochs", "train_loss", "train_loss_evaluated", "ndcg"),
    *("precision_at_1", "ndcg_batch_statistics", "precision_at_1_batch_statistics"),
)


class Variant(NamedTuple):
    """The details of a network: the width of its max pooling, and its convolution block."""

    pool_width: int = 8
    block: ConvBlock = conv_block


def relu_before_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    geometry: Geometry,
    statistics: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return batch_norm(relu(conv(x))); arguments and results are those of `conv_block`."""
    models, channels = weight.shape[:2]
    image = x.expand(models, *x.shape[1:]).permute(4, 0, 1, 2, 3).flatten(1, 2)
    z = functional.conv2d(
        image, weight.flatten(0, 1), bias.flatten(),
        geometry.stride, geometry.padding, geometry.dilation, groups=models,
    ).relu()  # fmt: skip
    if statistics is None:
        var, mean = torch.var_mean(z.detach(), dim=(0, 2, 3), correction=0)
        y = functional.batch_norm(z, None, None, gamma.flatten(), beta.flatten(), training=True)
    else:
        mean, var = (part.flatten() for part in statistics)
        y = functional.batch_norm(z, mean, var, gamma.flatten(), beta.flatten())
    y = y.unflatten(1, (models, channels)).permute(1, 2, 3, 4, 0)
    return y.contiguous(), mean.view(models, channels), var.view(models, channels)


VARIANTS = {
    "as in the grid": Variant(),
    "pooling of width 7": Variant(pool_width=7),
    "pooling of width 6": Variant(pool_width=6),
    "ReLU before normalization": Variant(block=relu_before_norm),
}


def train_variant(name: str, progress: Progress | ProgressProxy) -> list[list]:
    """Train the runs of one variant; return a row as in `HEADER` for each."""
    device, variant = pick_device("cpu"), VARIANTS[name]
    splits, spec = read_splits(device, variant.pool_width)
    train, val = splits["train"], splits["val"]
    stack = Stack(RUNS, "softmax", SEED, BATCH_SIZE, [EPOCHS])
    trainer = build_trainer(stack, spec, train.labels.shape[1], device, variant.block)
    loop = EpochLoop(trainer, *train, spec)
    train_losses = np.full(len(RUNS), np.nan)
    for epoch in range(EPOCHS):
        train_losses = loop.run(epoch_batches(len(train.x), BATCH_SIZE, SEED, epoch))
        progress.advance(len(RUNS))
    on_train = outputs(trainer, train, spec, SCORING_BATCH)
    on_val = outputs(trainer, val, spec, SCORING_BATCH).numpy()
    by_batch = outputs(trainer, val, spec, BATCH_SIZE, batch_statistics=True).numpy()
    # ce depends on which clips share a batch: these are the batches of the next epoch.
    batches = epoch_batches(len(train.x), BATCH_SIZE, SEED, EPOCHS)
    labels, targets = val.labels.numpy(), train.labels.float()
    rows = []
    for k, (loss, lr) in enumerate(RUNS):
        total = sum(
            float(LOSSES[loss](on_train[k][batch], targets[batch])) * len(batch)
            for batch in batches
        )
        evaluated = total / sum(len(batch) for batch in batches)
        running, batch_scores = score(labels, on_val[k]), score(labels, by_batch[k])
        rows.append(
            [
                name, loss, lr, EPOCHS, float(train_losses[k]), evaluated,
                running.ndcg_label_order, running.precision_at_1,
                batch_scores.ndcg_label_order, batch_scores.precision_at_1,
            ]
        )  # fmt: skip
    return rows


@torch.no_grad()
def outputs(
    trainer: StackTrainer,
    split: Split,
    spec: InputSpec,
    batch_size: int,
    batch_statistics: bool = False,
) -> torch.Tensor:
    """Return the outputs of each run on a split, float32 (K, clips, labels).

    Args:
        trainer: the trainer of the runs.
        split: the clips.
        spec: scales bytes to a network's input.
        batch_size: clips in a batch.
        batch_statistics: normalize by the batch, which also changes the running statistics.
    """
    batches = [
        trainer.stack.forward(spec.as_input(batch), training=batch_statistics)
        for batch in split.x.split(batch_size)
    ]
    return torch.cat(batches, dim=1)


@entry_point
def main() -> None:
    """Run the stage."""
    total = len(VARIANTS) * len(RUNS) * EPOCHS
    runtime = Params.read(CLIPS.params).runtime()
    with Progress("variants", total, "epoch", runtime.progress) as progress:
        variant_rows = run_parallel(train_variant, list(VARIANTS), progress)
    write_text(VARIANTS_CSV, to_csv(HEADER, [row for rows in variant_rows for row in rows]))


if __name__ == "__main__":
    main()
