"""Metrics: numbers about scores. Each is one file of `tagging/scoring/metrics`, found by its name.

Such a file defines `METRIC`, with a title, the digits to show and one of three functions of

    labels  0 or 1, (clips, classes)
    scores  (clips, classes), higher is more likely

The rest of the project asks METRIC alone: it is in every JSON file, table and plot from then on.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagging.base.errors import UserError

FOLDER = Path(__file__).parent / "metrics"


class Metric(NamedTuple):
    """What there is to know of a metric.

    `of_clips` returns a value a clip, (clips,), `of_classes` one a class, (classes,), NaN where it
    has none: the metric is their mean. `of_all` returns the metric itself, None where it has none.
    `resampled(labels, scores, counts)` returns the metric on each resample of the clips, float64
    (resamples,), for counts as `tagging.scoring.bootstrap.draw` gives them: for metrics that are
    slow to ask again for each resample; those with `of_clips` need none.
    """

    title: str
    decimals: int = 4
    higher_is_better: bool = True
    of_clips: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    of_classes: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    of_all: Callable[[np.ndarray, np.ndarray], float | None] | None = None
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None

    def value(self, labels: np.ndarray, scores: np.ndarray) -> float | None:
        """Return the metric, None where no clip or class has a value."""
        if self.of_all is not None:
            return self.of_all(labels, scores)
        values = (self.of_clips or self.of_classes)(labels, scores)
        return None if np.isnan(values).all() else float(np.nanmean(values))

    def better(self, value: float, than: float) -> bool:
        """Tell whether one value is better than another."""
        return value > than if self.higher_is_better else value < than


def load_metric(name: str, key: str = "task") -> Metric:
    """Return the metric of that name.

    Raises:
        UserError: naming the dotted `key` of params.yaml that has it, if there is none.
    """
    there = sorted(file.stem for file in FOLDER.glob("*.py"))
    if name not in there:
        raise UserError(f"params.yaml: {key} has {name!r}; the metrics are {', '.join(there)}")
    return importlib.import_module(f"tagging.scoring.metrics.{name}").METRIC
