"""The content of a report: a task's entries with their evaluations, baselines, published results.

An entry is a model, a student or an ensemble. Names come from params.yaml, never from files: the
outputs of a removed entry stay on disk until somebody deletes them.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from tagging.base.errors import UserError
from tagging.data.clips import Index, read_index
from tagging.data.parameters import Params
from tagging.data.scores import RunScores, read_resampled, read_scores
from tagging.data.splits import list_runs
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder, require_outputs
from tagging.learning.metric import Metric, load_metrics
from tagging.reports.baselines import baselines
from tagging.reports.settings import Compare, read_published
from tagging.reports.significance import Difference, bootstrap_p_value, find_verdicts
from tagging.scoring.bootstrap import confidence_interval
from tagging.scoring.evaluation import aggregate_index, scores_by_run

SAMPLE = "generated sample"  # the data source of clips that are no recordings
EMPTY: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """One row of the leaderboard; missing values are None or empty."""

    name: str
    kind: str  # model, student, ensemble, published or baseline
    test: Mapping[str, Any]
    val: Mapping[str, Any] = EMPTY
    runs: Mapping[str, dict[str, dict[str, float]]] = EMPTY  # val and test of each run
    parameters: int | None = None
    seconds: float | None = None
    train_clips: int | None = None
    source: str = ""
    difference: tuple[float, float] | None = None  # 95% interval of the difference to the reference
    verdict: str = ""  # on this difference: of significance.find_verdicts

    @property
    def significantly_below(self) -> bool:
        """Whether the entry is worse than the reference, after Holm's correction."""
        return self.verdict == "loss"

    @property
    def section(self) -> str:
        """The section of data/scores and params.yaml that has the entry."""
        return f"{self.kind}s"


@dataclass(frozen=True)
class ReportContext:
    """Everything that the page and the plots are made of."""

    folder: TaskFolder
    task: Task
    metrics: dict[str, Metric]  # by key, the selection metric first
    settings: Compare
    summary: dict[str, Any]  # data/summary.json
    index: Index  # of the scored clips: recordings, where windows are aggregated
    windows: Index  # of the clips that networks see
    configs: dict[str, dict[str, dict[str, Any]]]  # params.yaml's entries by kind and name
    entries: list[Row]  # in the order of params.yaml
    rows: list[Row]  # entries, baselines and published results, best on test first
    reference: Row | None  # all entries are compared with it
    has_validation: bool  # which then selected the reference

    @property
    def key(self) -> str:
        """The key of the selection metric."""
        return self.task.selection_metric.key

    @property
    def metric(self) -> Metric:
        """The selection metric."""
        return self.metrics[self.key]

    @property
    def splits(self) -> list[str]:
        """The scored splits, the one that verdicts are based on first."""
        return ["val", "test"] if self.has_validation else ["test"]

    @property
    def subject(self) -> Row:
        """The entry that sections describe: the reference, or else the first of `compare.plot`."""
        return self.reference or find_entry(self.entries, self.settings.plot[0], "plot")

    def run_scores(self, row: Row, split: str) -> list[RunScores]:
        """Return the labels and scores of an entry's runs for a split."""
        scores = read_scores(self.folder.scores(row.section, row.name))
        return scores_by_run(scores, self.windows, split, self.task)

    def link(self, path: Path) -> str:
        """Return the relative path from the page to a file."""
        return os.path.relpath(path, self.folder.leaderboard)


class ReportSection(Protocol):
    """A part of the page: each module of a section has one such function, `section`."""

    def __call__(self, context: ReportContext) -> str:
        """Return Markdown, empty if the section does not apply; write its charts and tables."""


def find_entry(entries: list[Row], name: str, key: str) -> Row:
    """Return the entry of that name.

    Raises:
        UserError: naming the key of `compare` with the name, if there is no such entry.
    """
    by_name = {row.name: row for row in entries}
    if name not in by_name:
        raise UserError(
            f"params.yaml: compare.{key} must name models, students or ensembles "
            f"({', '.join(by_name)}), got {name!r}"
        )
    return by_name[name]


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_entry(
    folder: TaskFolder,
    kind: str,
    name: str,
    config: dict[str, Any],
    train_clips: int,
    num_folds: int,
) -> Row:
    """Return an entry's row, from the files of `train` and of `evaluate` or `ensemble`.

    The seconds of an ensemble are those of its members' trainings, each counted once: several
    epochs of one model are one training.
    """
    evaluation = read_json(folder.evaluation(name))
    members = config["members"] if kind == "ensemble" else [name]
    trained = sorted({member.partition("@")[0] for member in members})
    timings = [read_json(folder.timing(model)) for model in trained]
    single_run = list_runs(num_folds, config.get("seeds", [0]), config.get("folds"))[0].name
    if kind == "ensemble":  # its runs have names of their own, or its members' (per_run)
        single_run = next(iter(read_scores(folder.scores("ensembles", name)).runs))
    runs = evaluation.get("runs") or {
        single_run: {split: evaluation[split] for split in ("val", "test") if split in evaluation}
    }
    return Row(
        name, kind, evaluation["test"], evaluation.get("val", {}), runs, evaluation["parameters"],
        sum(timing["train_seconds"] for timing in timings), train_clips,
    )  # fmt: skip


def select_entry(entries: list[Row], key: str, metric: Metric) -> Row | None:
    """Return the best entry on validation, the first of equals; None if no clips validate."""
    best = None
    for row in entries:
        value = row.val.get(key)
        if value is not None and (best is None or metric.is_better(value, best.val[key])):
            best = row
    return best


def compare_with_reference(
    folder: TaskFolder, entries: list[Row], reference: Row, key: str, metric: Metric
) -> list[Row]:
    """Return all entries' rows with their differences to the reference on test: paired bootstraps.

    All entries are scored on the same resamples of the clips. Clips that are hard for all entries
    cancel in the differences, which vary less than the entries' own intervals suggest.
    """
    reference_resampled = read_resampled(folder.resampled(reference.section, reference.name))
    differences = {}
    for row in entries:
        if row.name != reference.name:
            resampled = read_resampled(folder.resampled(row.section, row.name))
            resampled = resampled - reference_resampled
            difference = row.test[key] - reference.test[key]
            differences[row.name] = Difference(
                difference,
                confidence_interval(difference, resampled),
                bootstrap_p_value(difference, resampled),
            )
    family = [[difference] for difference in differences.values()]
    verdicts = dict(zip(differences, find_verdicts(family, metric.higher_is_better), strict=True))
    return [
        row._replace(difference=differences[row.name].interval, verdict=verdicts[row.name])
        if row.name in differences
        else row
        for row in entries
    ]


def required_outputs(
    folder: TaskFolder, configs: dict[str, dict[str, dict[str, Any]]]
) -> list[Path]:
    """Return the outputs of earlier stages that a report reads."""
    paths = [folder.index, folder.summary]
    for kind, names in configs.items():
        for name in names:
            paths += [
                folder.evaluation(name), folder.scores(f"{kind}s", name),
                folder.resampled(f"{kind}s", name), folder.entry_plots(name),
            ]  # fmt: skip
            if kind != "ensemble":
                paths.append(folder.timing(name))  # beside the logs
    return paths


def read_context(folder: TaskFolder) -> ReportContext:
    """Read the content of a task's report.

    Raises:
        UserError: if a parameter is wrong or an output of an earlier stage is missing.
    """
    params = Params.read(folder.params)
    settings, task = params.section(Compare, "compare"), params.section(Task, "task")
    configs = {"model": params.models() | params.entries("finetuned")}
    configs |= {kind: params.entries(f"{kind}s") for kind in ("student", "ensemble")}
    require_outputs(required_outputs(folder, configs))
    windows = read_index(folder.index)
    index = aggregate_index(windows, task)
    metrics, summary = load_metrics(task), read_json(folder.summary)
    key = task.selection_metric.key
    metric = metrics[key]
    entries = [
        read_entry(folder, kind, name, config, len(index.folds[0].train), len(index.folds))
        for kind, names in configs.items()
        for name, config in names.items()
    ]
    for name in settings.plot:
        find_entry(entries, name, "plot")
    reference = select_entry(entries, key, metric)
    has_validation = reference is not None
    if reference is None and settings.reference is not None:
        reference = find_entry(entries, settings.reference, "reference")
    if reference is not None:
        entries = compare_with_reference(folder, entries, reference, key, metric)
    others = [Row(k, "baseline", test) for k, test in baselines(task, metrics, index).items()]
    published = read_published(settings, metrics)
    if taken := published.keys() & {row.name for row in entries + others}:
        raise UserError(
            f"{folder.params}: names in compare.published must differ from those of models, "
            f"students, ensembles and baselines, got {min(taken)!r}"
        )
    if summary["source"] != SAMPLE and settings.published_clips in (None, "other", len(index.ids)):
        others += [
            Row(name, "published", row, train_clips=row["train_clips"], source=row["source"])
            for name, row in published.items()
        ]
    sign = -1 if metric.higher_is_better else 1
    rows = sorted(
        entries + others,
        key=lambda row: float("inf") if row.test.get(key) is None else sign * row.test[key],
    )
    return ReportContext(
        folder, task, metrics, settings, summary, index, windows, configs, entries, rows,
        reference, has_validation,
    )  # fmt: skip
