"""The model of the last commit beside the new one, both on corrected labels.

Scores on labels before and after a correction do not compare. Here the labels are the same.
"""

import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from dvc.repo import Repo

from tagging.data.clips import Index, read_index
from tagging.data.scores import Scores, read_scores
from tagging.data.task import Task
from tagging.learning.metric import Metric
from tagging.scoring.bootstrap import Evaluate, confidence_interval
from tagging.scoring.evaluation import resample_metric, scores_by_run, summarize_runs


class Comparison(NamedTuple):
    """A metric of two models on the same labels, and the 95% interval of its difference."""

    clips: int
    before: float
    after: float
    interval: tuple[float, float]


def find_committed(lock: Path, paths: list[Path]) -> list[Path] | None:
    """Return the cached files of outputs as of the last commit, or None if there are not all.

    Args:
        lock: the dvc.lock of their pipeline.
        paths: of the outputs.
    """
    shown = subprocess.run(["git", "show", f"HEAD:./{lock}"], capture_output=True, text=True)
    if shown.returncode:  # no commit, or no lock in it
        return None
    stages = yaml.safe_load(shown.stdout)["stages"].values()
    hashes = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", [])}
    with Repo() as repo:
        files = [
            Path(repo.cache.local.oid_to_path(hashes[path.as_posix()]))
            for path in paths
            if hashes.get(path.as_posix())
        ]
    return files if len(files) == len(paths) and all(file.exists() for file in files) else None


def compare_with_committed(
    committed: list[Path],
    scores: Scores,
    windows: Index,
    task: Task,
    metric: Metric,
    settings: Evaluate,
) -> Comparison | None:
    """Compare an entry's scores with those of the last commit; None if its labels are the same.

    Args:
        committed: the files of the index and of the scores.
        scores: of the entry now.
        windows: the task's clips, with corrected labels.
        task: the section `task`.
        metric: the selection metric.
        settings: of the interval.
    """
    old_index, old_scores = read_index(committed[0]), read_scores(committed[1])
    is_comparable = (
        np.array_equal(old_index.ids, windows.ids)
        and len(old_index.folds) == len(windows.folds)
        and all(
            np.isin(new.test, old.test).all()
            for new, old in zip(windows.folds, old_index.folds, strict=True)
        )
    )
    is_same = np.array_equal(old_index.labels, windows.labels) and all(
        len(new.test) == len(old.test)
        for new, old in zip(windows.folds, old_index.folds, strict=False)
    )
    if not is_comparable or is_same:
        return None
    outputs = {}
    for run, fold in old_scores.runs.items():
        kept = np.isin(old_index.folds[fold].test, windows.folds[fold].test)
        outputs[f"{run}/test"] = old_scores.outputs[f"{run}/test"][kept]
    old_scores = old_scores._replace(outputs=outputs)
    runs = [scores_by_run(each, windows, "test", task) for each in (old_scores, scores)]
    before, after = (summarize_runs(each, {"": metric})["mean"][""] for each in runs)
    if before is None or after is None:
        return None
    resampled = [resample_metric(each, metric, settings) for each in runs]
    clips = sum({run.fold: len(run.labels) for run in runs[1]}.values())
    interval = confidence_interval(after - before, resampled[1] - resampled[0])
    return Comparison(clips, before, after, interval)
