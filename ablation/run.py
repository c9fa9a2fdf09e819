"""Stage `run@<model>-<method>`: one model trained with one method, once a seed.

Trainings go on where they were killed. What one gives does not depend on what else runs, nor on
the number of cores.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from ablation.methods import applies, change_network, find, train_settings
from ablation.processes import run_all
from ablation.settings import RESULTS, Ablation, load_ablation
from tagging.batches import to_clips
from tagging.dataset import SPLITS, read_split, split_path
from tagging.device import pick_device
from tagging.errors import UserError, entry_point
from tagging.evaluation import summarize
from tagging.files import write_text
from tagging.models import Model, answers, build, load_model, shape_of
from tagging.parameters import Run, load
from tagging.progress import Progress
from tagging.tables import to_csv
from tagging.training import Train, state_path, train

PIPELINE = Path("ablation/dvc.yaml")
SCORES = ("ndcg", "precision_at_1", "mean_average_precision")
HEADER = (
    "model", "method", "seed",
    *(f"{split}_{score}" for split in ("val", "test") for score in SCORES),
    "parameters",
)  # fmt: skip


class Training(NamedTuple):
    """What one process does."""

    model_name: str
    method_name: str
    model: Model
    train: Train
    device: str

    def __str__(self) -> str:
        return f"{self.model_name} with {self.method_name}, seed {self.train.seed}"


def train_one(training: Training, tell: Callable[[], None] = lambda: None) -> list:
    """Train and score one network; return a row as in `HEADER`.

    Args:
        training: what to do.
        tell: called after every epoch, also for those done before an interruption.

    Raises:
        UserError: if the network cannot be built, or diverges.
    """
    device = pick_device(training.device)
    splits = {name: read_split(split_path(name)) for name in SPLITS}
    clips = {name: to_clips(split, device) for name, split in splits.items()}
    name, settings = training.model_name, training.train
    try:
        torch.manual_seed(settings.seed)
        network = build(training.model, shape_of(splits["train"]), name).to(device)
        outcome = train(
            network,
            settings,
            clips["train"],
            clips["val"],
            state_of(training, device),
            Progress(name, None, "step", "none"),
            lambda epoch: tell(),
        )
    except UserError as error:
        raise UserError(f"{training}: {error}") from None
    network.load_state_dict(outcome.weights)
    row = [name, training.method_name, settings.seed]
    for split in ("val", "test"):
        scores = summarize(splits[split].labels, answers(network, clips[split]))
        row += [scores[column] for column in SCORES]
    return [*row, sum(parameter.numel() for parameter in network.parameters())]


def state_of(training: Training, device: torch.device) -> Path:
    """Return the file of a training's state; those of the same training as it was are removed."""
    return state_path(
        f"ablation-{training.model_name}-{training.method_name}-{training.train.seed}",
        [training.model.model_dump(), training.train.model_dump(), device.type],
        [split_path("train"), split_path("val")],
    )


def trainings(model_name: str, method_name: str, ablation: Ablation, device: str) -> list[Training]:
    """Return a model's trainings with a method, one a seed: none if it cannot take the method.

    Raises:
        UserError: if `ablation` has no such model or method, or a setting is wrong.
    """
    model, method = find(model_name, method_name, ablation)
    if not applies(method, model):
        return []
    return [
        Training(
            model_name,
            method_name,
            change_network(model, method),
            train_settings(model_name, method_name, ablation, seed),
            device,
        )
        for seed in ablation.seeds
    ]


def require_dep(architecture: str) -> None:
    """Refuse an architecture that the stage does not depend on: it would not run when that changes.

    Raises:
        UserError: saying where it is missing.
    """
    file = f"tagging/architectures/{architecture}.py"
    stage = yaml.safe_load(PIPELINE.read_text(encoding="utf-8"))["stages"]["run"]
    if Path(file).is_file() and file not in stage["deps"]:
        raise UserError(f"{PIPELINE}: the deps of the stage run lack {file}; add it there")


@entry_point
def main(model: str, method: str) -> None:
    """Run the stage for one model and one method."""
    run = load(Run, "run")
    ablation = load_ablation()
    todo = trainings(model, method, ablation, run.device)
    require_dep(load_model(model).architecture)
    total = len(todo) * ablation.epochs
    with Progress(f"ablation {model} {method}", total, "epoch", run.progress) as progress:
        rows = run_all(train_one, todo, os.cpu_count() or 1, progress.advance)
    # A model that cannot take the method has a table without rows: DVC takes no missing one.
    write_text(RESULTS / model / f"{method}.csv", to_csv(HEADER, rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
