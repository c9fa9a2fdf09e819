"""Metrics: each is a file of `tagging/scoring/metrics`, and params.yaml refers to it by its name.

The file defines one function, `metric`, which returns a `Metric`. If the metric has a parameter
(`k`), the function has it as an argument: `{name: recall, k: 8}` calls `recall.metric(k=8)`. JSON
files, tables and plots include the metric as soon as a task names it.
"""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagging.base.errors import UserError
from tagging.data.task import MetricSettings, Task

FOLDER = Path(__file__).parents[1] / "scoring/metrics"

# Of labels, 0 or 1, (clips, classes), and scores, (clips, classes), higher is more likely.
Values = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Metric(NamedTuple):
    """A metric has one of the functions `per_clip`, `per_class` and `overall`.

    Each takes labels, 0 or 1, (clips, classes), and scores, (clips, classes), higher is more
    likely; of embeddings, scores are the embeddings, (clips, width).

    `per_clip` returns a value for each clip, (clips,), and `per_class` for each class, (classes,);
    NaN means no value, and the metric is the mean of the others. `overall` returns the metric
    itself, None if it is undefined. `resampled(labels, scores, counts)`, optional, returns the
    metric on each bootstrap resample, float64 (resamples,), with counts as `draw_resamples` returns
    them: a short cut for metrics without `per_clip`.
    """

    title: str  # in tables and plots
    decimals: int = 4
    higher_is_better: bool = True
    per_clip: Values | None = None
    per_class: Values | None = None
    overall: Callable[[np.ndarray, np.ndarray], float | None] | None = None
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None

    def value(self, labels: np.ndarray, scores: np.ndarray) -> float | None:
        """Return the metric, None where no clip or class has a value."""
        if self.overall is not None:
            return self.overall(labels, scores)
        average_over = self.per_clip or self.per_class
        assert average_over is not None
        values = average_over(labels, scores)
        return None if np.isnan(values).all() else float(np.nanmean(values))

    def is_better(self, value: float, other: float) -> bool:
        """Return whether one value is better than another."""
        return value > other if self.higher_is_better else value < other


def load_metric(settings: MetricSettings, key: str = "task.metrics") -> Metric:
    """Return the metric that the settings name.

    Args:
        settings: name and parameters.
        key: the dotted key of params.yaml that has them, for errors.

    Raises:
        UserError: if there is no such metric, or it has other parameters.
    """
    name = settings.name
    names = sorted(file.stem for file in FOLDER.glob("*.py"))
    if name not in names:
        raise UserError(
            f"params.yaml: {key} has the unknown metric {name!r}; the metrics are "
            f"{', '.join(names)}"
        )
    build = importlib.import_module(f"tagging.scoring.metrics.{name}").metric
    parameters = settings.model_dump(exclude={"name"}, exclude_none=True)
    expected = set(inspect.signature(build).parameters)
    if parameters.keys() != expected:
        rule = f"must have {', '.join(sorted(expected))}" if expected else "has no parameters"
        raise UserError(f"params.yaml: {key}: the metric {name} {rule}, got {parameters}")
    try:
        return build(**parameters)
    except ValueError as error:
        raise UserError(f"params.yaml: {key}: the metric {name}: {error}") from None


def load_metrics(task: Task) -> dict[str, Metric]:
    """Return all metrics of a task by their keys, the headline metrics first.

    Raises:
        UserError: as `load_metric` does.
    """
    sections = {"task.metrics": task.metrics, "task.report_metrics": task.report_metrics}
    return {
        settings.key: load_metric(settings, key)
        for key, metrics in sections.items()
        for settings in metrics
    }
