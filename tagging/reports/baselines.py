"""Scores without a model: every clip ranked by the frequency of classes, or at random."""

from collections.abc import Iterator
from statistics import mean

import numpy as np

from tagging.data.clips import Index
from tagging.data.task import Task
from tagging.learning.metric import Metric


def baselines(task: Task, metrics: dict[str, Metric], index: Index) -> dict[str, dict[str, float]]:
    """Return each baseline's metrics on test, the mean over folds.

    For embeddings the baseline is random neighbours. With one label a clip, a random ranking is
    called chance.

    A random ranking is the expectation over all orders, which is how metrics of single clips or
    classes count equal scores. Other metrics may treat ties otherwise and are left out.

    Args:
        task: with the type of labels.
        metrics: of the task.
        index: the task's clips.
    """
    if task.is_similarity:
        return {"random neighbours": _random_neighbours(metrics, index)}
    weights = (
        {"chance": 0.0}
        if task.type == "single_label"
        else {"constant ranking": 1.0, "random ranking": 0.0}
    )
    return {
        name: {
            key: mean(values)
            for key, metric in metrics.items()
            if metric.overall is None and (values := list(_fold_values(metric, weight, index)))
        }
        for name, weight in weights.items()
    }


def _random_neighbours(metrics: dict[str, Metric], index: Index) -> dict[str, float]:
    rng = np.random.default_rng(0)
    values: dict[str, list[float]] = {key: [] for key in metrics}
    for fold in index.folds:
        labels = index.labels[fold.test]
        embeddings = rng.standard_normal((len(labels), 8), np.float32)
        for key, metric in metrics.items():
            if (value := metric.value(labels, embeddings)) is not None:
                values[key].append(value)
    return {key: mean(fold_values) for key, fold_values in values.items() if fold_values}


def _fold_values(metric: Metric, weight: float, index: Index) -> Iterator[float]:
    for fold in index.folds:
        labels, train_labels = index.labels[fold.test], index.labels[fold.train]
        scores = np.tile(weight * train_labels.sum(axis=0, dtype=np.float64), (len(labels), 1))
        if (value := metric.value(labels, scores)) is not None:
            yield value
