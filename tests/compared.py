"""The outputs of the stages before `compare`, with made-up scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tagging.base.files import write_text
from tagging.data.classes import Class
from tagging.data.clips import Fold, Index, write_index, write_json
from tagging.data.scores import Scores
from tagging.data.splits import list_runs
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.scoring.bootstrap import Evaluate
from tagging.scoring.confident import RunConfidence, RunThresholds
from tagging.scoring.evaluation import scores_by_run
from tagging.scoring.results import write_evaluation
from tagging.scoring.tables import to_csv

TRAIN, VAL, TEST = 60, 40, 80


def multi_label() -> Index:
    """Return clips of several labels, in one fold with all splits; the first class is frequent."""
    rng = np.random.default_rng(0)
    share = 0.6 / np.arange(1, 7)
    labels = (rng.random((TRAIN + VAL + TEST, len(share))) < share).astype(np.uint8)
    labels[~labels.any(axis=1), 0] = 1
    splits = np.split(np.arange(len(labels)), [TRAIN, TRAIN + VAL])
    return make_index(labels, [Fold(*splits)])


def single_label() -> Index:
    """Return clips of one label each, in folds without validation."""
    rng = np.random.default_rng(0)
    labels = np.eye(4, dtype=np.uint8)[rng.integers(4, size=90)]
    fold_of_clip = np.arange(90) % 3
    no_clips = np.array([], int)
    folds = [
        Fold(np.flatnonzero(fold_of_clip != k), no_clips, np.flatnonzero(fold_of_clip == k))
        for k in range(3)
    ]
    return make_index(labels, folds)


def make_index(labels: np.ndarray, folds: list[Fold]) -> Index:
    """Return an index of clips with these labels."""
    ids = np.array([f"clip{number:05}".encode() for number in range(len(labels))])
    classes = [Class(f"/m/{number}", f"class {number}") for number in range(labels.shape[1])]
    return Index(ids, labels, classes, folds)


def in_windows(index: Index) -> Index:
    """Return an index of two windows of each of these clips, one after the other."""
    labels = np.repeat(index.labels, 2, axis=0)
    folds = [
        Fold(*((2 * clips[:, None] + [0, 1]).ravel() for clips in fold)) for fold in index.folds
    ]
    recordings = np.repeat(np.arange(len(index.ids), dtype=np.int32), 2)
    return make_index(labels, folds)._replace(recordings=recordings)


def made_up_scores(index: Index, quality: float, folds: Mapping[str, int]) -> Scores:
    """Return logits: the labels times `quality` plus noise, which is the same for all entries."""
    outputs = {}
    for number, (run, fold) in enumerate(folds.items()):
        rng = np.random.default_rng(number)
        for split, clips in index.folds[fold]._asdict().items():
            labels = index.labels[clips]
            if len(clips):
                noisy = quality * labels + rng.normal(size=labels.shape)
                outputs[f"{run}/{split}"] = noisy.astype(np.float32)
    return Scores(outputs, dict(folds), 1234)


def write_task(
    params: dict[str, Any],
    index: Index,
    qualities: Mapping[str, float],
    source: str = "AudioSet",
    path: Path = Path(),
) -> None:
    """Write the outputs of the stages before `compare` for these parameters.

    Args:
        params: with the sections task, models, students, ensembles and compare.
        index: the task's clips.
        qualities: of each entry's scores; those of quality 0 are random.
        source: of the clips.
        path: the task's folder.
    """
    folder = TaskFolder(path)
    folder.params.write_text(yaml.safe_dump(params, sort_keys=False))
    write_index(index, folder.index)
    write_json(folder.summary, {"source": source, "records": {"eval": 9_999}})
    task, settings = Task(**params["task"]), Evaluate(resamples=500, seed=0)
    num_folds, has_val = len(index.folds), len(index.folds[0].val) > 0
    for section in ("models", "students", "ensembles"):
        for name, entry in params[section].items():
            runs = list_runs(num_folds, entry.get("seeds", [0]), entry.get("folds"))
            folds = {run.name: run.fold for run in runs}
            if section == "ensembles" and not entry.get("per_run"):
                folds = {f"fold{k}" if num_folds > 1 else "mean": k for k in range(num_folds)}
            scores = made_up_scores(index, qualities[name], folds)
            # The first two classes have a threshold with labels above it.
            limits = np.array([0.5, 0.9] + [np.nan] * (len(index.classes) - 2), np.float32)
            thresholds = RunThresholds(0.8, dict.fromkeys(folds, limits))
            val, test = (scores_by_run(scores, index, split, task) for split in ("val", "test"))
            doubled = [run._replace(scores=run.scores * 2) for run in test]
            confidence = RunConfidence(thresholds, val, doubled, is_calibrated=True)
            write_evaluation(
                folder, section, name, scores, index, task, settings,
                confidence if section != "ensembles" and has_val else None,
            )  # fmt: skip
            if section != "ensembles":
                key = task.selection_metric.key if has_val else None
                write_training(folder, name, list(folds), key)


def write_training(folder: TaskFolder, name: str, runs: list[str], key: str | None) -> None:
    """Write the logs and seconds of a training with three epochs a run."""
    for number, run in enumerate(runs):
        log = folder.training_log(name) / run / "plots/metrics"
        columns = {"train/loss": "loss"} | ({f"val/{key}": key} if key else {})
        for file, column in columns.items():
            rows = [[step, f"{0.5 + 0.1 * step - 0.01 * number}"] for step in range(3)]
            text = to_csv(["step", column], rows).replace(",", "\t")
            write_text(log / f"{file}.tsv", text)
    write_json(folder.timing(name), {"train_seconds": 2.5 * len(runs), "epochs": 3})
