"""Stage `evaluate@<name>`: scores of a trained model for validation and test, and metrics.

Test clips are read here for the first time. Training clips are scored if `score_train` asks for it.
"""

import sys
from pathlib import Path

from tagging.base.errors import entry_point
from tagging.data.clips import Index, read_features, read_index
from tagging.data.parameters import Params
from tagging.data.scores import Scores
from tagging.data.splits import list_runs
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder
from tagging.learning.dataset import ClipDataset
from tagging.learning.device import pick_device
from tagging.learning.inference import calibrate, predict_logits
from tagging.learning.model import read_model
from tagging.learning.model_file import Decision, load_network
from tagging.scoring.bootstrap import Evaluate
from tagging.scoring.confident import RunConfidence, RunThresholds
from tagging.scoring.evaluation import aggregate_index, scores_by_run
from tagging.scoring.results import write_evaluation


@entry_point
def main(folder: str, name: str) -> None:
    """Run the stage for the entry `name` of the task in `folder`."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    settings, task = params.section(Evaluate, "evaluate"), params.section(Task, "task")
    model = read_model(params, name)
    device = pick_device(params.runtime().device)
    index = read_index(task_folder.index)
    features = read_features(task_folder.feature(model.features or task.features))
    runs = list_runs(len(index.folds), model.seeds, model.folds)
    # Thresholds and calibration are those of what the task scores: clips, or their recordings.
    are_windows = aggregate_index(index, task) is not index
    outputs = {}
    decisions: dict[str, Decision | None] = {}
    for run in runs:
        trained = load_network(task_folder.model(name, run.name), device)
        decisions[run.name] = trained.recordings if are_windows else trained.clips
        datasets = {
            split: ClipDataset.select(features, index.labels, clips, device)
            for split, clips in index.folds[run.fold]._asdict().items()
            if len(clips) and (split != "train" or model.score_train)
        }
        for split, dataset in datasets.items():
            outputs[f"{run.name}/{split}"] = predict_logits(trained, dataset)
        for epoch, weights in trained.saved_epochs.items():
            trained.network.load_state_dict(weights)
            for split, dataset in datasets.items():
                outputs[f"{run.name}/{split}@{epoch}"] = predict_logits(trained, dataset)
    parameters = sum(parameter.numel() for parameter in trained.network.parameters())
    scores = Scores(outputs, {run.name: run.fold for run in runs}, parameters)
    confidence = read_confidence(scores, index, task, trained.target_precision, decisions)
    write_evaluation(
        task_folder, model.scores_section, name, scores, index, task, settings, confidence
    )


def read_confidence(
    scores: Scores,
    index: Index,
    task: Task,
    target_precision: float | None,
    decisions: dict[str, Decision | None],
) -> RunConfidence | None:
    """Return the runs' thresholds and calibrated scores; None if their models have neither."""
    known = {run: decision for run, decision in decisions.items() if decision is not None}
    if target_precision is None or len(known) < len(decisions):
        return None
    calibrated = {
        split: [
            run._replace(scores=calibrate(run.scores, known[run.run].calibration))
            for run in scores_by_run(scores, index, split, task)
        ]
        for split in ("val", "test")
    }
    thresholds = {run: decision.thresholds for run, decision in known.items()}
    return RunConfidence(
        RunThresholds(target_precision, thresholds),
        **calibrated,
        is_calibrated=any(decision.calibration for decision in known.values()),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
