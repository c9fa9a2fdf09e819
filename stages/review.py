"""Stage `review`: a page of a task's mistakes, likely label errors and near-copies, to mend labels.

Its predictions are those of the entry that validation selects or, where nothing validates, of
`compare.reference`. Where folds test every clip once, all clips are on it; else the test clips are.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tagging.base.errors import entry_point
from tagging.data.clips import Index, read_features, read_index
from tagging.data.parameters import Params
from tagging.data.scores import read_scores
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder, require_outputs
from tagging.learning.metric import load_metrics
from tagging.reports.context import Row, find_entry, read_json, select_entry
from tagging.reports.label_errors import rank_label_errors
from tagging.reports.near_copies import (
    MAX_CLIPS,
    find_embedding,
    find_near_copies,
    mean_embeddings,
)
from tagging.reports.review import (
    Recordings,
    ReviewPage,
    describe_correction,
    read_starts,
    write_page,
)
from tagging.reports.review_history import compare_with_committed, find_committed
from tagging.reports.review_predictions import predict_out_of_fold
from tagging.reports.settings import Compare
from tagging.scoring.bootstrap import Evaluate
from tagging.scoring.evaluation import aggregate_index, class_rows, scores_by_run
from tagging.sources.corrections import CORRECTIONS, read_corrections

REVIEW = "review"  # the page's folder, in that of the task


def find_reference(folder: TaskFolder, params: Params, task: Task) -> Row:
    """Return the entry whose predictions are shown."""
    settings = params.section(Compare, "compare")
    configs = {"model": params.models() | params.entries("finetuned")}
    configs |= {kind: params.entries(f"{kind}s") for kind in ("student", "ensemble")}
    names = [(kind, name) for kind, entries in configs.items() for name in entries]
    require_outputs(
        path
        for kind, name in names
        for path in (folder.evaluation(name), folder.scores(f"{kind}s", name))
    )
    entries = []
    for kind, name in names:
        evaluation = read_json(folder.evaluation(name))
        entries.append(Row(name, kind, evaluation["test"], evaluation.get("val", {})))
    selection = task.selection_metric.key
    if (selected := select_entry(entries, selection, load_metrics(task)[selection])) is not None:
        return selected
    key = "plot" if settings.reference is None else "reference"
    return find_entry(entries, settings.reference or settings.plot[0], key)


def describe_hours(
    index: Index, seconds: np.ndarray, groups: dict[str, dict[str, float]]
) -> dict[str, list[list[Any]]]:
    """Return rows of a name, clips and hours: of folds or splits, of classes, and of groups.

    Args:
        index: the task's clips.
        seconds: of each clip.
        groups: of the summary.
    """
    fold = index.folds[0]
    parts = {name: clips for name, clips in fold._asdict().items() if len(clips)}
    if len(index.folds) > 1:
        parts = {f"fold {number}": fold.test for number, fold in enumerate(index.folds)}
    used = np.concatenate(fold)
    labels, used_seconds = index.labels[used], seconds[used]
    return {
        "parts": [
            [name, len(clips), float(seconds[clips].sum()) / 3600] for name, clips in parts.items()
        ],
        "classes": [
            [label.name, int(column.sum()), float(used_seconds[column > 0].sum()) / 3600]
            for label, column in zip(index.classes, labels.T, strict=True)
        ],
        "groups": [
            [name, group["clips"], group["seconds"] / 3600] for name, group in groups.items()
        ],
    }


@entry_point
def main(folder: str) -> None:
    """Write the review page of the task in `folder`."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    task = params.section(Task, "task")
    reference = find_reference(task_folder, params, task)
    windows = read_index(task_folder.index)
    index = aggregate_index(windows, task)
    names = [label.name for label in index.classes]
    corrections = read_corrections(task_folder.path / CORRECTIONS)

    waveforms = None
    feature: str | None = task.features
    starts: dict[str, float] = {}
    groups: dict[str, dict[str, float]] = {}
    if "decode" in params.content:
        waveforms = read_features(task_folder.feature("waveform"))
        feature = find_embedding(task_folder.data / "features")
        groups = read_json(task_folder.summary)["groups"]
        seconds = waveforms.frames / waveforms.settings["sample_rate"]
    else:
        data_folder = Path(params.content["prepare"]["data_folder"] or task_folder.data)
        starts = read_starts(data_folder / "parquet", index)
        seconds = read_features(task_folder.feature(task.features)).frames.astype(float)
    pairs = None
    if feature is not None and len(windows.ids) <= MAX_CLIPS:
        embeddings = mean_embeddings(read_features(task_folder.feature(feature)))
        pairs = find_near_copies(embeddings, windows.folds)

    predictions, errors, comparison = None, None, None
    classes: list[list[Any]] = []
    if not task.is_similarity:
        scores = read_scores(task_folder.scores(reference.section, reference.name))
        predictions = predict_out_of_fold(scores, windows, task)
        errors = rank_label_errors(
            predictions.labels, predictions.probabilities, task.type == "single_label"
        )
        test = scores_by_run(scores, windows, "test", task)
        classes = [[row[0], row[1], row[5]] for row in class_rows(test, names)]
        files = [task_folder.index, task_folder.scores(reference.section, reference.name)]
        committed = find_committed(task_folder.path / "dvc.lock", files) if corrections else None
        if committed is not None:
            metric = load_metrics(task)[task.selection_metric.key]
            settings = params.section(Evaluate, "evaluate")
            comparison = compare_with_committed(committed, scores, windows, task, metric, settings)

    page = ReviewPage(windows, index, task, Recordings(waveforms, starts), predictions)
    output = task_folder.path / REVIEW
    used = len(np.unique(np.concatenate(index.folds[0])))
    data = {
        "folder": folder,
        "classes": names,
        "single_label": task.type == "single_label",
        "allow_none": not page.index.labels.any(axis=1).all(),
        "corrections": {row.clip: describe_correction(row, names) for row in corrections},
        "class_rows": classes,
        "hours": describe_hours(windows, seconds, groups),
        **page.describe(errors, pairs, output),
    }
    write_page(
        output / "index.html",
        data=data,
        title="" if folder == "." else f": {Path(folder).name}",
        entry=reference.name,
        tested=0 if predictions is None else len(predictions.clips),
        used=used,
        folds=len(index.folds),
        calibrated_on="" if predictions is None else predictions.calibrated_on,
        unit="clips" if index is windows else "recordings",
        is_selected=bool(reference.val),
        feature=feature,
        comparison=comparison,
        metric=task.selection_metric.key,
        corrections_path=(task_folder.path / CORRECTIONS).as_posix(),
        pipeline=(task_folder.path / "dvc.yaml").as_posix(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
