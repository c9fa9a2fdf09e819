"""What training differs in where a task wants embeddings (task.type similarity)."""

from pathlib import Path

import numpy as np
import torch

from tagging.base.errors import UserError
from tagging.data.task import Task
from tagging.layers.base import Activation, TaggingNetwork
from tagging.learning.dataset import ClipDataset
from tagging.learning.inference import compute_outputs, log_odds, score
from tagging.learning.losses import Loss
from tagging.learning.metric_losses import TripletLoss
from tagging.learning.model import Model
from tagging.learning.model_file import load_network
from tagging.learning.sampling import sample_order, split_batches


def resolve_activation(
    task: Task, network: TaggingNetwork, loss: Loss, model: Model, name: str
) -> Activation:
    """Return what turns outputs into probabilities or, of embeddings, their distance.

    Args:
        task: that the network is trained for.
        network: of the model.
        loss: that it is trained with.
        model: the entry.
        name: of the entry, for errors.

    Raises:
        UserError: if the task wants embeddings and the network has none, or the loss compares
            embeddings and the task wants none.
    """
    key = f"params.yaml: {model.section}.{name}"
    if task.is_similarity and network.has_embedding:
        return model.distance
    if task.is_similarity:
        raise UserError(
            f"{key}.architecture must have an embedding, got {model.architecture}; choose another, "
            "or set embedding_size"
        )
    if loss.compares_embeddings:
        raise UserError(
            f"{key}.train.loss must be a loss of classes unless task.type is similarity, got "
            f"{loss.name}"
        )
    return network.activation or loss.activation


@torch.inference_mode()
def triplet_statistics(
    loss: Loss,
    network: TaggingNetwork,
    dataset: ClipDataset,
    batch_size: int,
    activation: Activation,
) -> dict[str, float]:
    """Return the quality of a loss's triplets in one epoch of random batches; {} for other losses.

    anchors: the fraction of the clips that have triplets; positives: the fraction of the positives
    that share a label with their anchor; negatives: of the negatives that share none; clips: the
    fraction of all clips that makes up half of the negatives.

    Args:
        loss: that selects triplets, some by the distances of embeddings.
        network: that computes the embeddings, before it is trained; is left in evaluation mode.
        dataset: the clips to train on.
        batch_size: that the loss is trained with.
        activation: the distance of the embeddings.
    """
    if not isinstance(loss, TripletLoss):
        return {}
    triplets: list[torch.Tensor] = []
    network.eval()
    torch.manual_seed(0)
    for rows in split_batches(sample_order(dataset.labels, "uniform", 0, 0), batch_size):
        batch = dataset.read(rows)
        embeddings = compute_outputs(network, batch, activation)
        batch_triplets = torch.stack(loss.triplets(embeddings, batch.targets)).cpu()
        triplets.append(torch.from_numpy(rows)[batch_triplets])
    anchors, positives, negatives = torch.cat(triplets, 1).numpy()
    labels = dataset.labels > 0
    uses = np.sort(np.unique(negatives, return_counts=True)[1])[::-1].cumsum()
    return {
        "anchors": len(np.unique(anchors)) / len(labels),
        "positives": float((labels[anchors] & labels[positives]).any(axis=1).mean()),
        "negatives": float(1 - (labels[anchors] & labels[negatives]).any(axis=1).mean()),
        "clips": float((np.searchsorted(uses, uses[-1] / 2) + 1) / len(labels)),
    }


def predict_tags(path: Path, dataset: ClipDataset) -> np.ndarray:
    """Return the log odds of a classifier that was trained for any task: float32 (clips, classes).

    Args:
        path: of the trained model.
        dataset: clips on the CPU.

    Raises:
        UserError: if the file is missing, or its outputs are no classes.
    """
    trained = load_network(path, torch.device("cpu"))
    outputs = score(trained.network, dataset)
    if outputs.shape[1] != len(trained.model_spec.classes):
        raise UserError(
            f"{path} must be a classifier to be the teacher of tags, but has embedding_size"
        )
    return log_odds(outputs, trained.network.activation or "sigmoid")
