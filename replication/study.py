"""The published study: which runs are repeated, on which clips, and how they are scored."""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from tagging.data.parameters import Float, Int, Params, Section
from tagging.data.task_folder import TaskFolder
from tagging.learning.losses import Ce, Msml
from tagging.scoring.metrics.ndcg import ndcg
from tagging.scoring.metrics.precision import precision_at_k

FOLDER = Path("replication")
RESULTS = FOLDER / "results"
VARIANTS_CSV = RESULTS / "variants.csv"
CLIPS = TaskFolder(Path())  # the clips are those of the root's task
LOSSES = {"msml": Msml(), "ce": Ce()}

LearningRate = Annotated[Float, Field(gt=0)]
EpochNumber = Annotated[Int, Field(ge=1)]
Seed = Annotated[Int, Field(ge=0)]


class Grid(Section):
    """Every combination of a learning rate, loss, head and seed is one run."""

    lrs: list[LearningRate] = Field(min_length=1)
    losses: list[Literal["msml", "ce"]] = Field(min_length=1)
    heads: list[Literal["softmax", "logits"]] = Field(min_length=1)
    seeds: list[Seed] = Field(min_length=1)
    # For each seed: the epochs after which the test split is scored too. The last ends training.
    epochs: dict[Seed, Annotated[list[EpochNumber], Field(min_length=1)]]
    batch_size: Int = Field(ge=2)

    @field_validator("epochs")
    @classmethod
    def _check_seeds(
        cls, epochs: dict[int, list[int]], info: ValidationInfo
    ) -> dict[int, list[int]]:
        if not set(info.data.get("seeds", ())) <= set(epochs):
            raise ValueError("must have an entry for each of grid.seeds")
        return epochs


def load_grid() -> Grid:
    """Read the settings.

    Raises:
        UserError: naming the key that is wrong.
    """
    return Params.read(FOLDER / "params.yaml").section(Grid, "grid")


def epoch_batches(clips: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the clip positions of an epoch's batches, drawn from (seed, epoch) alone.

    A last batch of one clip is left out: batch normalization needs two.
    """
    order = np.random.default_rng([seed, epoch]).permutation(clips)
    batches = np.split(order, range(batch_size, clips, batch_size))
    return [batch for batch in batches if len(batch) > 1]


class Scores(NamedTuple):
    """Means over clips, in the order of the columns of the results."""

    ndcg: float
    ndcg_label_order: float
    precision_at_1: float


def score(labels: np.ndarray, outputs: np.ndarray) -> Scores:
    """Score `outputs`, (clips, classes), against `labels`, 0 or 1, (clips, classes)."""
    return Scores(
        float(ndcg(labels, outputs).mean()),
        float(ndcg(labels, break_ties(outputs)).mean()),
        float(precision_at_k(labels, outputs, 1).mean()),
    )


def break_ties(outputs: np.ndarray) -> np.ndarray:
    """Return scores without ties that rank tied classes by column, as a stable sort does.

    The NDCG that the study prints for lr = 1 needs this. Columns are ordered by class frequency, so
    this is the most favourable way to break a tie.
    """
    ranks = np.argsort(np.argsort(-outputs, axis=1, kind="stable"), axis=1)
    return -ranks.astype(float)
