"""Stage `evaluate@<model>`: what each run of a trained model, or student, answers, and its metrics.

The clips that test are read here for the first time.
"""

import sys
from pathlib import Path

from tagging.base.errors import entry_point
from tagging.data.batches import to_clips
from tagging.data.clips import read_features, read_index
from tagging.data.splits import list_runs
from tagging.data.task import load_task
from tagging.learning.device import pick_device
from tagging.learning.model import Student, answer, load_model, load_network
from tagging.parameters import Machine, load
from tagging.scoring.evaluation import Evaluate, write_evaluation
from tagging.scoring.scores import Scores
from tagging.scoring.sure import Sure


@entry_point
def main(name: str) -> None:
    """Run the stage for the model or student `name`."""
    settings, task = load(Evaluate, "evaluate"), load_task()
    device = pick_device(load(Machine, "run").device)
    model = load_model(name)
    index = read_index()
    features = read_features(model.features or task.features)
    outputs, thresholds = {}, {}
    found = list_runs(len(index.folds), model.seeds)
    for run in found:
        trained = load_network(Path(f"models/{name}/{run.name}.safetensors"), device)
        thresholds[run.name] = trained.thresholds
        parts = index.folds[run.fold]._asdict()
        clips = {
            part: to_clips(features, index.labels, places, device)
            for part, places in parts.items()
            if len(places)
        }
        outputs |= {f"{run.name}/{part}": answer(trained, clips[part]) for part in clips}
        for epoch, weights in trained.checkpoints.items():
            trained.network.load_state_dict(weights)
            outputs |= {
                f"{run.name}/{part}@{epoch}": answer(trained, clips[part]) for part in clips
            }
    parameters = sum(p.numel() for p in trained.network.parameters())
    scores = Scores(outputs, {run.name: run.fold for run in found}, parameters)
    kind = "students" if isinstance(model, Student) else "models"
    sure = Sure(trained.promised, thresholds) if trained.promised else None
    write_evaluation(kind, name, scores, index, task, settings, sure)


if __name__ == "__main__":
    main(*sys.argv[1:])
