"""Stage `train@<name>`: train all runs of a model, a fine-tuned model or a student.

A run is a fold and a seed. Test clips of its fold are never read. An interrupted run resumes from
the last completed epoch. A finished run keeps its checkpoint, which ends after the last epoch:
where a seed is added, finished runs are not trained again.

The setup of an entry (`training_setup.py`) says what differs between the kinds: a fine-tuned model
loads weights, which may stay frozen, and a student learns from a teacher's probabilities.

`torchrun --nproc-per-node=N -m stages.train <folder> <name>` trains each run in N processes, one
run after the other; `dvc commit train@<name>` then records it.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch

from tagging.base.errors import entry_point
from tagging.base.processes import ProgressProxy, run_parallel
from tagging.base.progress import Progress
from tagging.data.clips import read_index, write_json
from tagging.data.parameters import Params
from tagging.data.splits import Run, list_runs
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning import distributed
from tagging.learning.checkpoint import Checkpoint, checkpoint_path, file_digest
from tagging.learning.confidence import fit_confidence
from tagging.learning.dataset import list_copies
from tagging.learning.device import pick_device
from tagging.learning.factory import build_network
from tagging.learning.loader import BatchLoader, count_epoch_batches
from tagging.learning.metric import load_metric
from tagging.learning.model import Model, ModelSpec, read_model
from tagging.learning.model_file import save_network
from tagging.learning.settings import Train, read_train_settings
from tagging.learning.similarity import resolve_activation, triplet_statistics
from tagging.learning.trainer import Validation, train
from tagging.learning.training_data import read_training_data
from tagging.learning.training_log import TrainingLog, open_live
from tagging.learning.training_setup import TrainingSetup, make_setup


class Training(NamedTuple):
    """One run of a model of params.yaml; `digests` has the SHA-256 of data files by path."""

    folder: TaskFolder
    name: str
    model: Model
    settings: Train
    task: Task
    run: Run
    device: str
    digests: dict[Path, str]

    @property
    def feature(self) -> Path:
        """The folder of the feature that is trained on."""
        return self.folder.feature(self.model.features or self.task.features)


def train_run(training: Training, progress: Progress | ProgressProxy) -> float:
    """Train one run and write its model; return the seconds of training."""
    folder, name, model, settings, task, run = training[:6]
    device = pick_device(training.device)
    setup = make_setup(model, folder, run)
    data = read_training_data(folder.index, training.feature, run.fold, setup, device)

    torch.manual_seed(run.seed)  # The initial weights; the loader and the trainer seed the rest.
    network = build_network(model, data.spec, len(data.classes), name, folder.params).to(device)
    setup.initialize(network)  # a fine-tuned model replaces its random weights
    activation = resolve_activation(task, network, settings.loss, model, name)
    validation = Validation(data.val, load_metric(task.selection_metric), activation)
    loader = BatchLoader(data.train, settings, run.seed, data.copies)
    checkpoint = open_checkpoint(training, setup, device)
    log_folder = folder.training_log(name) / run.name
    with open_live(log_folder, writes=distributed.is_first()) as live:
        metric = (task.selection_metric.key, validation.metric.title)
        log = TrainingLog(
            live, progress, f"{name} {run.name}", settings.epochs, len(loader), metric
        )
        statistics = triplet_statistics(
            settings.loss, network, data.train, settings.batch_size, activation
        )
        log.log({f"triplets/{key}": value for key, value in statistics.items()})
        result = train(network, settings, run.seed, loader, validation, checkpoint, log.hooks)
    if distributed.is_first():
        network.load_state_dict(result.weights)
        save_network(
            folder.model(name, run.name),
            result.weights,
            model,
            ModelSpec(data.spec, data.classes, activation, data.feature_settings),
            result.saved_epochs,
            confidence=fit_confidence(
                network, data.val, data.recordings, activation, settings.target_precision
            ),
        )
    return result.seconds


def data_files(training: Training, setup: TrainingSetup) -> list[Path]:
    """Return the files whose content decides the result of a run."""
    feature = (file for file in training.feature.rglob("*") if file.is_file())
    return [training.folder.index, *sorted(feature), *setup.data_files()]


def open_checkpoint(training: Training, setup: TrainingSetup, device: torch.device) -> Checkpoint:
    """Return the checkpoint of a run. Its name has a hash of settings, data and code."""
    folder, name, model, settings, task, run = training[:6]
    description = [
        # What is left out does not change a run, or is described below: `train` by the settings,
        # and the seed and the fold by the run.
        model.model_dump(exclude={"seeds", "folds", "train"}),
        settings.model_dump(exclude={"target_precision"}),
        task.type,
        task.selection_metric.model_dump(),
        run,
        device.type,
        distributed.world_size(),
    ]
    digests = [training.digests[path] for path in data_files(training, setup)]
    with distributed.first_before_others():  # It removes outdated checkpoints.
        path = checkpoint_path(folder.checkpoints, f"{name}-{run.name}", description, digests)
    return Checkpoint(path, read_only=not distributed.is_first())


@entry_point
def main(folder: str, name: str) -> None:
    """Run the stage for the entry `name` of the task in `folder`."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    runtime, task = params.runtime(), params.section(Task, "task")
    model = read_model(params, name)
    settings = read_train_settings(params, model, name)
    sizes = [len(fold.train) for fold in read_index(task_folder.index).folds]
    trainings = [
        Training(task_folder, name, model, settings, task, run, runtime.device, {})
        for run in list_runs(len(sizes), model.seeds, model.folds)
    ]
    files = {
        path
        for training in trainings
        for path in data_files(training, make_setup(model, task_folder, training.run))
    }
    digests = {path: file_digest(path) for path in files}
    trainings = [training._replace(digests=digests) for training in trainings]

    distributed.join(runtime.device)
    steps = sum(
        count_epoch_batches(sizes[training.run.fold], len(list_copies(training.feature)), settings)
        for training in trainings
    )
    style = runtime.progress if distributed.is_first() else "none"
    processes = 1 if distributed.world_size() > 1 else None
    with Progress(f"train {name}", steps * settings.epochs, "step", style) as progress:
        seconds = run_parallel(train_run, trainings, progress, processes)
    if distributed.is_first():
        timing = {"train_seconds": round(sum(seconds), 1), "epochs": settings.epochs}
        write_json(task_folder.timing(name), timing)


if __name__ == "__main__":
    main(*sys.argv[1:])
