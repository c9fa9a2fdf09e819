"""Failed trainings: runs that are no better than an answer that ignores the clip.

Test scores show it, or the training loss: of a dead network it stays at that of constant outputs.
"""

import math
import re
from collections.abc import Iterator

import numpy as np

from tagging.data.parameters import Params
from tagging.reports.context import ReportContext, Row
from tagging.reports.page import render
from tagging.scoring.tables import read_rows

DIVERGED = 10  # times the loss of constant outputs
LINEAR_LOSSES = {"ce", "bce", "msml"}  # mixup leaves their value for constant outputs unchanged

FAILURES = """\
{% if failures %}\
**Failed**, no better on test than {{ constant }}\
{% if has_losses %}, or with a training loss of the last epoch that is not below that of the best \
constant outputs{% endif %}: {{ failures }}. Their training \
diverged, or what it learned is of no use on these clips: their scores say little about \
architectures and features.\
{% endif %}\
{% if diverged %}
{% if failures %}

{% endif %}
**Diverged**, with a training loss above {{ times }} times that of the best constant outputs in \
some epoch: {{ diverged }}.\
{% endif %}\
"""


def constant_metrics(context: ReportContext) -> list[float]:
    """Return the metric of the best constant scores on each fold's test clips, by fold.

    These are the frequencies of the classes among the test clips themselves. Embeddings are of no
    use where neighbours are random: that is their value.
    """
    if context.task.is_similarity:
        (baseline,) = (row for row in context.rows if row.kind == "baseline")
        return [baseline.test.get(context.key, math.nan)] * len(context.index.folds)
    values = []
    for fold in context.index.folds:
        labels = context.index.labels[fold.test]
        scores = np.tile(labels.sum(axis=0, dtype=np.float64), (len(labels), 1))
        value = context.metric.value(labels, scores)
        values.append(math.nan if value is None else value)
    return values


def constant_loss(labels: np.ndarray, is_single_label: bool) -> float:
    """Return the lowest cross-entropy of outputs that are the same for all clips, in nats.

    It is the entropy of the classes' frequencies, or the mean of the labels' binary entropies.

    Args:
        labels: of the training clips, 0 or 1, (clips, classes).
        is_single_label: whether a clip has one label.
    """
    p = labels.mean(axis=0, dtype=np.float64)
    parts = p if is_single_label else np.stack([p, 1 - p])
    entropies = -np.where(parts > 0, parts * np.log(np.where(parts > 0, parts, 1.0)), 0.0)
    return float(entropies.sum() if is_single_label else entropies.sum(axis=0).mean())


def training_losses(context: ReportContext, row: Row) -> Iterator[tuple[str, list[float], float]]:
    """Yield the name of each run, its loss after each epoch, and that of constant outputs.

    Entries whose losses do not compare are left out: ensembles, embeddings, whose classifier need
    not learn, entries that learn from other targets than labels, losses other than cross-entropies,
    and sampling that is not uniform.
    """
    config = context.configs.get(row.kind, {}).get(row.name, {})
    settings = Params.read(context.folder.params).content.get("train", {}) | config.get("train", {})
    loss = settings.get("loss")
    name = loss.get("name") if isinstance(loss, dict) else loss
    is_single_label = context.task.type == "single_label"
    if (
        row.kind != "model"
        or context.task.is_similarity
        or config.get("hard_label_weight") is not None
        or name not in LINEAR_LOSSES
        or (name == "ce") != is_single_label
        or settings.get("sampling", "uniform") != "uniform"
    ):
        return
    for run in row.runs:
        path = context.folder.training_log(row.name) / run / "plots/metrics/train/loss.tsv"
        if path.exists():  # a network without parameters is not trained
            losses = [float(line["loss"]) for line in read_rows(path)]
            labels = context.windows.labels[context.windows.folds[fold_number(run)].train]
            yield run, losses, constant_loss(labels, is_single_label)


def fold_number(run: str) -> int:
    """Return the fold in the name of a run, 0 where there is one fold."""
    fold = re.match(r"fold(\d+)", run)
    return int(fold[1]) if fold else 0


def find_failures(context: ReportContext) -> dict[str, list[str]]:
    """Return the failed runs by entry; entries without failed runs are left out.

    A run fails if it is not above the best constant scores on its test clips, or if its last
    training loss is not below that of constant outputs.
    """
    constants = constant_metrics(context)
    failures: dict[str, list[str]] = {}
    for row in context.entries:
        losses = training_losses(context, row)
        failed = {run for run, values, constant in losses if values[-1] >= constant}
        for run, splits in row.runs.items():
            constant, value = constants[fold_number(run)], splits["test"].get(context.key)
            if value is None or math.isnan(constant):
                continue
            if math.isclose(value, constant) or not context.metric.is_better(value, constant):
                failed.add(run)
        if failed:
            failures[row.name] = sorted(failed)
    return failures


def summarize_losses(context: ReportContext, row: Row) -> dict[str, float]:
    """Return the highest loss of an epoch, the highest of a last epoch, and the lowest constant's.

    They are over the entry's runs; empty if losses do not compare.
    """
    if not (runs := list(training_losses(context, row))):
        return {}
    return {
        "highest": max(max(losses) for _, losses, _ in runs),
        "last": max(losses[-1] for _, losses, _ in runs),
        "constant": min(constant for _, _, constant in runs),
    }


def is_diverged(losses: dict[str, float]) -> bool:
    """Return whether the highest loss is far above that of constant outputs.

    Trainings begin near equal probabilities, which lose ln 2 for each label: of rare labels, far
    more than the best constant outputs do.
    """
    return losses["highest"] > DIVERGED * max(losses["constant"], math.log(2))


def describe_failures(context: ReportContext) -> str:
    """Name the entries with failed or diverged runs; empty if there are none."""
    num_runs = {row.name: len(row.runs) for row in context.entries}
    names = [
        f"`{name}`" + (f" ({len(runs)} of {num_runs[name]} runs)" if num_runs[name] > 1 else "")
        for name, runs in find_failures(context).items()
    ]
    losses_by_entry = {row.name: summarize_losses(context, row) for row in context.entries}
    peaks = [
        f"`{name}` (up to {losses['highest']:,.1f}, in the last epoch {losses['last']:.3f})"
        for name, losses in losses_by_entry.items()
        if losses and is_diverged(losses)
    ]
    return render(
        FAILURES,
        failures=", ".join(names),
        diverged=", ".join(peaks),
        times=DIVERGED,
        has_losses=any(losses_by_entry.values()),
        constant="random neighbours"
        if context.task.is_similarity
        else "the best constant scores, those of the frequency of classes",
    )
