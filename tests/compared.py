"""A task as the stages before `compare` leave it, written by hand: its answers are made up."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tagging.data.classes import Class
from tagging.data.clips import Fold, Index, write_index, write_json
from tagging.data.splits import list_runs
from tagging.data.task import Task
from tagging.scoring.evaluation import Evaluate, write_evaluation
from tagging.scoring.scores import Scores
from tagging.scoring.sure import Sure
from tagging.scoring.tables import to_csv

TRAIN, VAL, TEST = 60, 40, 80


def multi_label() -> Index:
    """Return clips of several labels, in one fold with all splits; the first class is frequent."""
    rng = np.random.default_rng(0)
    share = 0.6 / np.arange(1, 7)
    labels = (rng.random((TRAIN + VAL + TEST, len(share))) < share).astype(np.uint8)
    labels[~labels.any(axis=1), 0] = 1
    places = np.split(np.arange(len(labels)), [TRAIN, TRAIN + VAL])
    return index_of(labels, [Fold(*places)])


def single_label() -> Index:
    """Return clips of one label each, in folds without validation."""
    rng = np.random.default_rng(0)
    labels = np.eye(4, dtype=np.uint8)[rng.integers(4, size=90)]
    of_fold = np.arange(90) % 3
    nothing = np.array([], int)
    places = [(np.flatnonzero(of_fold != k), np.flatnonzero(of_fold == k)) for k in range(3)]
    return index_of(labels, [Fold(train, nothing, test) for train, test in places])


def index_of(labels: np.ndarray, folds: list[Fold]) -> Index:
    """Return an index of clips with these labels."""
    ids = np.array([f"clip{number:05}".encode() for number in range(len(labels))])
    classes = [Class(f"/m/{number}", f"class {number}") for number in range(labels.shape[1])]
    return Index(ids, labels, classes, folds)


def in_windows(index: Index) -> Index:
    """Return an index of two windows of each of these clips, one after the other."""
    labels = np.repeat(index.labels, 2, axis=0)
    folds = [Fold(*((2 * of[:, None] + [0, 1]).ravel() for of in fold)) for fold in index.folds]
    recordings = np.repeat(np.arange(len(index.ids), dtype=np.int32), 2)
    return index_of(labels, folds)._replace(recordings=recordings)


def answers(index: Index, quality: float, names: Mapping[str, int]) -> Scores:
    """Return made-up log odds: the labels times `quality`, and the same noise for all entries."""
    outputs = {}
    for number, (run, fold) in enumerate(names.items()):
        rng = np.random.default_rng(number)
        for split, places in index.folds[fold]._asdict().items():
            labels = index.labels[places]
            if len(places):
                noisy = quality * labels + rng.normal(size=labels.shape)
                outputs[f"{run}/{split}"] = noisy.astype(np.float32)
    return Scores(outputs, dict(names), 1234)


def write_task(
    params: dict[str, Any], index: Index, qualities: Mapping[str, float], source: str = "AudioSet"
) -> None:
    """Write into this folder what the stages before `compare` write for these parameters.

    Args:
        params: with the sections task, models, students, ensembles and compare.
        index: the task's clips.
        qualities: how well each entry tells the labels; a model of quality 0 answers at random.
        source: of the clips.
    """
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    write_index(index)
    write_json(Path("metrics/data.json"), {"source": source, "records": {"eval": 9_999}})
    task, settings = Task(**params["task"]), Evaluate(resamples=100, seed=0)
    for section in ("models", "students", "ensembles"):
        for name, entry in params[section].items():
            found = {run.name: run.fold for run in list_runs(len(index.folds), entry.get("seeds", [0]))}
            if section == "ensembles":
                folds = len(index.folds)
                found = {f"fold{k}" if folds > 1 else "mean": k for k in range(folds)}
            scores = answers(index, qualities[name], found)
            # Any will do: of the first two classes a threshold that keeps something.
            limits = np.array([0.5, 0.9] + [np.nan] * (len(index.classes) - 2), np.float32)
            judged = section != "ensembles" and len(index.folds[0].val)
            sure = Sure(0.8, dict.fromkeys(found, limits)) if judged else None
            write_evaluation(section, name, scores, index, task, settings, sure)
            if section != "ensembles":
                write_training(name, list(found), task.chooses if len(index.folds[0].val) else None)


def write_training(name: str, found: list[str], metric: str | None) -> None:
    """Write the curves and seconds of a training with three epochs a run."""
    for number, run in enumerate(found):
        folder = Path(f"plots/train/{name}/{run}/plots/metrics")
        columns = {"train/loss": "loss"} | ({f"val/{metric}": metric} if metric else {})
        for file, column in columns.items():
            rows = [[step, f"{0.5 + 0.1 * step - 0.01 * number}"] for step in range(3)]
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            text = to_csv(["step", column], rows).replace(",", "\t")
            (folder / f"{file}.tsv").write_text(text)
    timing = Path(f"metrics/timing/{name}.json")
    timing.parent.mkdir(parents=True, exist_ok=True)
    timing.write_text(json.dumps({"train_seconds": 2.5 * len(found), "epochs": 3}))
