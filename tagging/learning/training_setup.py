"""What an entry's training starts from and learns: chance and labels, or those of another model."""

from pathlib import Path

import numpy as np

from tagging.data.clips import Features, Index
from tagging.data.scores import read_train_scores
from tagging.data.splits import Run
from tagging.data.task_folder import TaskFolder
from tagging.layers.base import TaggingNetwork
from tagging.learning.dataset import ClipDataset
from tagging.learning.device import pick_device
from tagging.learning.distillation import blend_targets, relabel
from tagging.learning.factory import load_pretrained
from tagging.learning.model import FinetunedModel, Model, Student
from tagging.learning.similarity import predict_tags


class TrainingSetup:
    """The setup of a model: random weights are trained on the labels."""

    def data_files(self) -> list[Path]:
        """Return the files that decide the result, beside the clips."""
        return []

    def initialize(self, network: TaggingNetwork) -> None:
        """Replace the random weights of a network, if the training starts from others."""

    def read_targets(self, features: Features, index: Index) -> np.ndarray | None:
        """Return what is learned instead of the labels of the training split, or None.

        Targets are float32 (clips, classes), 0 to 1.
        """
        return None


class Finetuning(TrainingSetup):
    """The setup of a fine-tuned model: it starts from weights, published or of the same run."""

    def __init__(self, model: FinetunedModel, folder: TaskFolder, run: Run) -> None:
        path = folder.path / model.weights
        self._weights = path / f"{run.name}.safetensors" if path.is_dir() else path
        self._model = model
        self._run = run

    def data_files(self) -> list[Path]:
        """Return the file of weights."""
        return [self._weights]

    def initialize(self, network: TaggingNetwork) -> None:
        """Load the weights, except for the classifier layers, unless `finetune` is none."""
        if self._model.finetune != "none":
            load_pretrained(network, self._weights, freeze=self._model.finetune == "head")

    def read_targets(self, features: Features, index: Index) -> np.ndarray | None:
        """Return the labels blended with the probabilities of the model, if they are wanted."""
        if self._model.hard_label_weight is None:
            return None
        rows = index.folds[self._run.fold].train
        dataset = ClipDataset.select(features, index.labels, rows, pick_device("cpu"))
        teacher = predict_tags(self._weights, dataset)
        return blend_targets(dataset.labels, teacher, self._model.hard_label_weight)


class Distillation(TrainingSetup):
    """The setup of a student: it learns from the scores of an ensemble."""

    def __init__(self, student: Student, folder: TaskFolder, run: Run) -> None:
        self._student = student
        self._scores = folder.scores("ensembles", student.teacher)
        self._run = run

    def data_files(self) -> list[Path]:
        """Return the teacher's scores, and the ontology if it is used."""
        ontology = self._student.ontology
        return [self._scores, *([Path(ontology)] if ontology else [])]

    def read_targets(self, features: Features, index: Index) -> np.ndarray | None:
        """Return the labels blended with the teacher's probabilities, or with labels it adds."""
        student, fold = self._student, self._run.fold
        labels = index.labels[index.folds[fold].train]
        teacher = read_train_scores(self._scores, fold)
        if student.hard_label_weight is not None:
            return blend_targets(labels, teacher, student.hard_label_weight)
        assert student.relabel_threshold is not None and student.ontology is not None
        return relabel(
            labels, teacher, student.relabel_threshold, Path(student.ontology), index.classes
        )


def make_setup(model: Model, folder: TaskFolder, run: Run) -> TrainingSetup:
    """Return the setup of an entry's run."""
    if isinstance(model, FinetunedModel):
        return Finetuning(model, folder, run)
    if isinstance(model, Student):
        return Distillation(model, folder, run)
    return TrainingSetup()
