"""What a report tells of: a task's entries as the stages left them, and rows to stand beside them.

An entry is a model, a student or an ensemble. Names come from params.yaml, never from the files
that lie there: those of an entry that was removed stay until somebody deletes them.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tagging.base.errors import UserError
from tagging.data.clips import Index, read_index
from tagging.data.splits import list_runs
from tagging.data.task import Task, load_task
from tagging.parameters import load, read_entries, read_models
from tagging.reports.baselines import baselines
from tagging.reports.settings import Compare, read_published
from tagging.scoring.bootstrap import interval
from tagging.scoring.evaluation import Answers, answers_for, by_recording, metrics_of
from tagging.scoring.metric import Metric
from tagging.scoring.scores import read_resampled, read_scores, resampled_path, scores_path

METRICS = Path("metrics")
LEADERBOARD = Path("leaderboard")  # where the report is written
PLOTS = Path("plots/compare")  # .. and the data of plots of all entries
SAMPLE = "generated sample"  # what data.json calls clips that are no recordings

NOTHING: Mapping[str, Any] = MappingProxyType({})


def linked(file: Path) -> str:
    """Return the way from the report to a file, for a link."""
    return os.path.relpath(file, LEADERBOARD)


class Row(NamedTuple):
    """One row of the leaderboard; what a row does not have is None or empty."""

    name: str
    kind: str  # model, student, ensemble, published or baseline
    test: Mapping[str, float | None]
    val: Mapping[str, float] = NOTHING
    runs: Mapping[str, dict[str, dict[str, float]]] = NOTHING  # val and test of each run
    parameters: int | None = None
    seconds: float | None = None
    train_clips: int | None = None
    source: str = ""
    behind: tuple[float, float] | None = None  # 95% interval of what the chosen one is better by

    @property
    def surely_behind(self) -> bool:
        """Whether all of the interval is on the chosen one's side."""
        return self.behind is not None and self.behind[0] > 0


class Facts(NamedTuple):
    """All that the page and the plots are made of."""

    task: Task
    metrics: dict[str, Metric]  # the one that chooses first
    settings: Compare
    data: dict[str, Any]  # as the first stage wrote
    index: Index  # of what is scored: of recordings, where windows of them answer together
    windows: Index  # of what networks take
    params: dict[str, dict[str, Any]]  # the entries of models, students and ensembles
    entries: list[Row]  # in the order of params.yaml
    rows: list[Row]  # entries and others, best on test first
    chosen: Row | None
    by_validation: bool

    @property
    def metric(self) -> Metric:
        """The metric that chooses."""
        return self.metrics[self.task.chooses]

    @property
    def splits(self) -> list[str]:
        """The splits that are scored, the one that decides first."""
        return ["val", "test"] if self.by_validation else ["test"]

    @property
    def subject(self) -> Row:
        """The entry that sections look at: the chosen one, or the first that is plotted."""
        return self.chosen or find(self.entries, self.settings.plotted[0], "plotted")

    def answers(self, row: Row, split: str) -> list[Answers]:
        """Return what an entry's runs answer for a split."""
        scores = read_scores(scores_path(f"{row.kind}s", row.name))
        return answers_for(scores, self.windows, split, self.task.pooled)


def find(entries: list[Row], name: str, key: str) -> Row:
    """Return the entry of that name.

    Raises:
        UserError: naming the setting of `compare` that has the name, if it is no entry's.
    """
    found = {row.name: row for row in entries}
    if name not in found:
        raise UserError(
            f"params.yaml: compare.{key} has {name!r}; the models, students and ensembles are "
            f"{', '.join(found)}"
        )
    return found[name]


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def entry_row(kind: str, name: str, entry: dict[str, Any], train_clips: int) -> Row:
    """Return an entry's row, from what `train`, `evaluate`, `ensemble` or `student` wrote.

    What an ensemble took is the training of its members, each counted once: several epochs of one
    model are one training.
    """
    metrics = read_json(METRICS / f"{name}.json")
    members = entry["members"] if kind == "ensemble" else [name]
    trained = sorted({member.partition("@")[0] for member in members})
    timings = [read_json(METRICS / "timing" / f"{model}.json") for model in trained]
    only = "mean" if kind == "ensemble" else list_runs(1, entry.get("seeds", [0]))[0].name
    of_runs = metrics.get("runs") or {
        only: {k: metrics[k] for k in ("val", "test") if k in metrics}
    }
    seconds = sum(timing["train_seconds"] for timing in timings)
    val, test, parameters = metrics.get("val", {}), metrics["test"], metrics["parameters"]
    return Row(name, kind, test, val, of_runs, parameters, seconds, train_clips)


def choose(entries: list[Row], name: str, metric: Metric) -> Row | None:
    """Return the best entry on validation, the first of equals; None where nothing validates."""
    best = None
    for row in entries:
        value = row.val.get(name)
        if value is not None and (best is None or metric.better(value, best.val[name])):
            best = row
    return best


def how_far_behind(row: Row, best: Row, name: str, metric: Metric) -> tuple[float, float] | None:
    """Return the 95% interval of what the best entry is better by on test: a paired bootstrap.

    All entries are scored on the same resamples of the clips. What is hard in one of them is hard
    for all, and leaves the differences: they spread less than the entries' own intervals say.
    """
    if row.name == best.name:
        return None
    theirs, its = (read_resampled(resampled_path(f"{of.kind}s", of.name)) for of in (best, row))
    sign = 1 if metric.higher_is_better else -1
    return interval(sign * (best.test[name] - row.test[name]), sign * (theirs - its))


def read_facts() -> Facts:
    """Read all that the report of the task in this folder tells of.

    Raises:
        UserError: if params.yaml or a file is not as it should be.
    """
    settings, task, windows = load(Compare, "compare"), load_task(), read_index()
    index = by_recording(windows) if task.pooled else windows
    metrics, name, data = metrics_of(task), task.chooses, read_json(METRICS / "data.json")
    metric = metrics[name]
    params = {"model": read_models()}
    params |= {kind: read_entries(f"{kind}s") for kind in ("student", "ensemble")}
    entries = [
        entry_row(kind, entry, content, len(index.folds[0].train))
        for kind, section in params.items()
        for entry, content in section.items()
    ]
    best = choose(entries, name, metric)
    by_validation = best is not None
    for plotted in settings.plotted:
        find(entries, plotted, "plotted")
    if not by_validation and settings.chosen is not None:
        best = find(entries, settings.chosen, "chosen")
    if best is not None:
        entries = [row._replace(behind=how_far_behind(row, best, name, metric)) for row in entries]

    others = [Row(k, "baseline", test) for k, test in baselines(task, metrics, index).items()]
    published = read_published(settings, metrics)
    if published.keys() & {row.name for row in entries + others}:
        raise UserError(
            "params.yaml: a row of compare.published has the name of a model, student, ensemble or "
            "baseline; it takes another"
        )
    # Others' results stand beside results on the same clips, or the page says that they are not.
    if data["source"] != SAMPLE and settings.published_clips in (None, "other", len(index.ids)):
        others += [
            Row(k, "published", row, train_clips=row["train_clips"], source=row["source"])
            for k, row in published.items()
        ]
    sign = -1 if metric.higher_is_better else 1
    rows = sorted(
        entries + others,
        key=lambda row: float("inf") if row.test.get(name) is None else sign * row.test[name],
    )
    return Facts(
        task, metrics, settings, data, index, windows, params, entries, rows, best, by_validation
    )
