"""Stage `train@<model>`: train one configured model, or student: each of its runs.

A run is a fold and a seed. Clips that test a fold are never read for it. A training that is killed
goes on at its last epoch, and runs that are finished are kept: a new seed trains that seed alone.

`torchrun --nproc-per-node=N -m stages.train <model>` trains each run in N processes, one run after
the other; `dvc commit train@<model>` then records it.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from dvclive import Live
from scmrepo.exceptions import SCMError

from tagging.base.errors import UserError, entry_point
from tagging.base.processes import ProgressProxy, run_parallel
from tagging.base.progress import Progress
from tagging.data.batches import Clips, count_batches, to_clips
from tagging.data.classes import Class
from tagging.data.clips import (
    FEATURES,
    INDEX,
    Features,
    Index,
    read_features,
    read_index,
    write_json,
)
from tagging.data.splits import Run, list_runs
from tagging.data.task import Task, load_task
from tagging.learning import distributed
from tagging.learning.device import pick_device
from tagging.learning.loop import Epoch, Train, Validation, train
from tagging.learning.metric_losses import TripletLoss
from tagging.learning.model import (
    Model,
    ModelSpec,
    Student,
    load_pretrained,
    build,
    load_model,
    log_odds,
    save_network,
    score,
)
from tagging.learning.resume import state_path
from tagging.learning.similarity import (
    triplet_statistics,
    resolve_activation,
    predict_tags,
    teacher_path,
)
from tagging.learning.targets import student_targets
from tagging.learning.thresholds import choose_thresholds
from tagging.parameters import Machine, load, parse, read_params
from tagging.scoring.metric import load_metric
from tagging.scoring.scores import read_scores

WEIGHTS = Path("data/weights")


class Training(NamedTuple):
    """One run of a model, with all that it takes."""

    name: str
    model: Model
    settings: Train
    task: Task
    run: Run
    device: str


def load_settings(name: str) -> tuple[Model, Train]:
    """Return the model's entry and its training settings: `train` with its own on top.

    Raises:
        UserError: naming the key that is wrong, where it stands.
    """
    model = load_model(name)
    load(Train, "train")
    section = "students" if isinstance(model, Student) else "models"
    own = parse(Train, {**read_params()["train"], **model.train}, f"{section}.{name}.train")
    return model, own


def start_log(training: Training) -> AbstractContextManager[Live | None]:
    """Start the log that DVC and its VS Code extension show while a model trains.

    Of several processes that train it, one has the log.

    Raises:
        UserError: if the git repository has no commit yet, which DVCLive takes.
    """
    if distributed.rank() > 0:
        return nullcontext()
    try:
        # Not the root's dvc.yaml, and no experiment of its own: this is a stage of a pipeline.
        folder = f"plots/train/{training.name}/{training.run.name}"
        return Live(folder, dvcyaml=None, save_dvc_exp=False)
    except SCMError as error:
        raise UserError(f"DVCLive finds no commit in this git repository ({error})") from None


def read_clips(
    training: Training, features: Features, device: torch.device
) -> tuple[Clips, Clips, list[Class]]:
    """Return the clips to train on, those to validate on, and the classes.

    Nothing else of the index stays in memory: labels of two million clips, twice, are more than
    their features.
    """
    index = read_index()
    fold = index.folds[training.run.fold]
    targets = read_targets(training, index, features)
    return (
        to_clips(features, index.labels, fold.train, device, targets),
        to_clips(features, index.labels, fold.val, device),
        index.classes,
    )


def read_copies(training: Training, feature: str, clips: Clips) -> list[Clips]:
    """Return the clips to train on as each changed copy of their feature has them.

    Raises:
        UserError: if training takes clips of copies, and there are none.
    """
    if not (share := training.settings.augment.changed):
        return []
    names = sorted(f"{feature}/{path.name}" for path in (FEATURES / feature).glob("changed*"))
    if not names:
        raise UserError(
            f"params.yaml: augment.changed of {training.name} is {share:g}, but its feature "
            f"{feature} has no copies; it takes 0, or features.{feature}.changed"
        )
    return [clips._replace(values=np.asarray(read_features(name).values)) for name in names]


def read_targets(training: Training, index: Index, features: Features) -> np.ndarray | None:
    """Return what a student learns for the clips that train a fold; None for other models."""
    model, run, task = training.model, training.run, training.task
    if not isinstance(model, Student) or (model.backbone and model.label_weight is None):
        return None
    path, places = teacher_path(task, model.teacher, run.name), index.folds[run.fold].train
    if task.embeds:
        teacher = predict_tags(path, to_clips(features, index.labels, places, pick_device("cpu")))
    else:
        teacher = read_scores(path).of_fold(run.fold, "train")[0]
    return student_targets(model, index.labels[places], teacher, index.classes)


def train_run(training: Training, progress: Progress | ProgressProxy) -> float:
    """Train one run and write its weights; return its seconds."""
    name, model, settings, task, run, device_name = training
    device = pick_device(device_name)
    feature = model.features or task.features
    features = read_features(feature)
    clips, val, classes = read_clips(training, features, device)
    copies = read_copies(training, feature, clips)

    torch.manual_seed(run.seed)
    network = build(model, features.spec, len(classes), name).to(device)
    files = [INDEX, *sorted(file for file in (FEATURES / feature).rglob("*") if file.is_file())]
    if model.weights is not None:
        files.append(weights := WEIGHTS / f"{model.weights}.safetensors")
        load_pretrained(network, weights)
    if isinstance(model, Student):
        files.append(teacher := teacher_path(task, model.teacher, run.name))
        files += [Path(model.ontology)] if model.ontology else []
        if model.backbone is not None:
            load_pretrained(network, teacher, frozen=model.backbone == "frozen")
    activation = resolve_activation(task, network, settings.loss, model, name)
    validate = Validation(val, load_metric(task.chooses), activation)
    # Its own settings of the training are among `settings`.
    without_seeds = model.model_dump(exclude={"seeds", "train"})
    # Of the task, what is shown decides nothing here: a new metric trains nothing.
    decides = settings.model_dump(exclude={"sure"})
    description = [without_seeds, decides, task.kind, task.chooses, run, device.type]
    if distributed.size() > 1:
        description.append(distributed.size())
    with distributed.first_alone():  # it removes states of trainings before
        state = state_path(f"{name}-{run.name}", description, files)
    with start_log(training) as live:
        if live is not None and isinstance(settings.loss, TripletLoss):
            for key, value in triplet_statistics(settings.loss, clips, settings.batch_size).items():
                live.log_metric(f"triplets/{key}", value)

        def log(epoch: Epoch) -> None:
            if live is None:
                return
            live.log_metric("train/loss", epoch.train_loss)
            line = f"{name} {run.name}: epoch {live.step + 1}/{settings.epochs}"
            line += f"  train loss {epoch.train_loss:.4f}"
            if epoch.val is not None:
                live.log_metric(f"val/{task.chooses}", epoch.val)
                line += f"  val {validate.metric.title} {epoch.val:.4f}"
            live.next_step()
            progress.say(line)

        trained = train(network, settings, run.seed, clips, validate, state, progress, log, copies)
    if distributed.rank() == 0:
        thresholds = None
        if len(val.places) and not task.embeds:
            network.load_state_dict(trained.weights)
            answers = log_odds(score(network, val), activation)
            thresholds = choose_thresholds(val.labels, answers, settings.sure)
        shape = ModelSpec(features.spec, classes, activation, features.settings)
        path = Path(f"models/{name}/{run.name}.safetensors")
        save_network(
            path, trained.weights, model, shape, trained.checkpoints, thresholds=thresholds
        )
    # The state stays: DVC has not recorded the outputs yet, and may be killed before it does.
    return trained.seconds


@entry_point
def main(name: str) -> None:
    """Run the stage for the model `name`."""
    machine, task = load(Machine, "run"), load_task()
    model, settings = load_settings(name)
    sizes = [len(fold.train) for fold in read_index().folds]
    trainings = [
        Training(name, model, settings, task, run, machine.device)
        for run in list_runs(len(sizes), model.seeds)
    ]
    distributed.join(machine.device)
    together = distributed.size() > 1
    steps = sum(count_batches(sizes[of.run.fold], settings.batch_size) for of in trainings)
    style = "none" if distributed.rank() > 0 else machine.progress
    with Progress(f"train {name}", steps * settings.epochs, "step", style) as progress:
        seconds = run_parallel(train_run, trainings, progress, processes=1 if together else None)
    if distributed.rank() == 0:
        write_json(
            Path(f"metrics/timing/{name}.json"),
            {"train_seconds": round(sum(seconds), 1), "epochs": settings.epochs},
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
