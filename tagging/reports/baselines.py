"""Answers that cost nothing: every clip ranked by how frequent classes are, or at random."""

from collections.abc import Iterator
from statistics import mean

import numpy as np

from tagging.data.clips import Index
from tagging.data.task import Task
from tagging.scoring.metric import Metric


def baselines(task: Task, metrics: dict[str, Metric], index: Index) -> dict[str, dict[str, float]]:
    """Return each baseline's metrics on test, the mean over folds.

    Of embeddings it is random neighbours, drawn. Of one label a clip, a ranking at random is called
    chance.

    The random ranking is the expectation over all orders: equal scores count as that, clip by clip
    or class by class. A metric of all clips at once says nothing of equal scores and is left out.

    Args:
        task: what is asked.
        metrics: those of the task.
        index: its clips.
    """
    if task.embeds:
        return {"random neighbours": _of_random_embeddings(metrics, index)}
    weights = (
        {"chance": 0.0}
        if task.kind == "single_label"
        else {"constant ranking": 1.0, "random ranking": 0.0}
    )
    return {
        name: {
            metric_name: mean(values)
            for metric_name, metric in metrics.items()
            if metric.of_all is None and (values := list(_values(metric, weight, index)))
        }
        for name, weight in weights.items()
    }


def _of_random_embeddings(metrics: dict[str, Metric], index: Index) -> dict[str, float]:
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in metrics}
    for fold in index.folds:
        labels = index.labels[fold.test]
        embeddings = rng.standard_normal((len(labels), 8), np.float32)
        for name, metric in metrics.items():
            found[name].append(metric.value(labels, embeddings))
    return {name: mean(values) for name, values in found.items()}


def _values(metric: Metric, weight: float, index: Index) -> Iterator[float]:
    for fold in index.folds:
        labels, trained = index.labels[fold.test], index.labels[fold.train]
        scores = np.tile(weight * trained.sum(axis=0, dtype=np.float64), (len(labels), 1))
        if (value := metric.value(labels, scores)) is not None:
            yield value
