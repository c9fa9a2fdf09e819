"""What is otherwise where a task asks for embeddings (task.kind similarity)."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tagging.base.errors import UserError
from tagging.data.batches import Clips, epoch_batches
from tagging.data.task import Task
from tagging.learning.losses import Loss
from tagging.learning.metric_losses import MetricLoss, TripletLoss
from tagging.learning.model import (
    Activation,
    Model,
    activation_of,
    load_network,
    log_odds,
    score,
)
from tagging.scoring.scores import scores_path


def resolve_activation(
    task: Task, network: nn.Module, loss: Loss, model: Model, name: str
) -> Activation:
    """Return what turns a network's outputs into probabilities or, of embeddings, their distance.

    Args:
        task: what it is trained for.
        network: of the model.
        loss: that it is trained with.
        model: the entry.
        name: of the entry, for errors.

    Raises:
        UserError: if the task asks for embeddings and the network has none, or the loss learns them
            and the task asks for none.
    """
    if task.embeds and hasattr(network, "embed"):
        return model.distance
    if task.embeds:
        raise UserError(
            f"params.yaml: {name}.architecture is {model.architecture}, which has no embedding of "
            "its own; it takes another, or the width of one as embedding"
        )
    if isinstance(loss, MetricLoss):
        raise UserError(
            f"params.yaml: {name} has the loss {loss.name}, which learns embeddings; it takes the "
            "task.kind similarity"
        )
    return activation_of(network, loss.activation)


def teacher_path(task: Task, teacher: str, run: str) -> Path:
    """Return the file of a student's teacher: an ensemble's scores or, of embeddings, a model.

    Args:
        task: the student's.
        teacher: the entry's name.
        run: the student's, which its teacher must have too.
    """
    if task.embeds:
        return Path(f"models/{teacher}/{run}.safetensors")
    return scores_path("ensembles", teacher)


def triplet_statistics(loss: TripletLoss, clips: Clips, batch_size: int) -> dict[str, float]:
    """Return what the triplets are worth that a loss chooses, of one epoch's random batches.

    anchors: the share of the clips that have triplets; positives: the share of the positives that
    share a label with their anchor; negatives: of the negatives that share none; clips: the share
    of all clips that half of the negatives are.
    """
    chosen: list[torch.Tensor] = []
    torch.manual_seed(0)
    for places in epoch_batches(len(clips.places), batch_size, 0, 0):
        targets = clips.batch(places).labels
        of_batch = loss.triplets(torch.zeros(len(places), 1), targets)
        chosen.append(torch.from_numpy(places)[torch.stack(of_batch)])
    anchors, positives, negatives = torch.cat(chosen, 1).numpy()
    labels = clips.labels > 0
    uses = np.sort(np.unique(negatives, return_counts=True)[1])[::-1].cumsum()
    return {
        "anchors": len(np.unique(anchors)) / len(labels),
        "positives": float((labels[anchors] & labels[positives]).any(axis=1).mean()),
        "negatives": float(1 - (labels[anchors] & labels[negatives]).any(axis=1).mean()),
        "clips": float((np.searchsorted(uses, uses[-1] / 2) + 1) / len(labels)),
    }


def predict_tags(path: Path, clips: Clips) -> np.ndarray:
    """Return the log odds of a classifier, whatever its task: float32 (clips, classes).

    Args:
        path: of its weights.
        clips: on the CPU.

    Raises:
        UserError: if there are no weights, or they tell no classes.
    """
    trained = load_network(path, torch.device("cpu"))
    network, shape = trained.network, trained.shape
    outputs = score(network, clips)
    if outputs.shape[1] != len(shape.classes):
        raise UserError(
            f"{path} tells no classes; the teacher of tags is a model without embedding"
        )
    return log_odds(outputs, activation_of(network, "sigmoid"))
