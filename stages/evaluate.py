"""Stage `evaluate@<model>`: score one trained model, or student, on all splits.

Each clip and each label is scored on its own; the test split is read here for the first time.
"""

import sys
from pathlib import Path

from tagging.batches import to_clips
from tagging.dataset import SPLITS, read_split, split_path
from tagging.device import pick_device
from tagging.errors import entry_point
from tagging.evaluation import Evaluate, write_evaluation
from tagging.models import Student, answers, load_model, load_network
from tagging.parameters import Run, load
from tagging.scores import Scores, scores_path, write_scores


@entry_point
def main(name: str) -> None:
    """Run the stage for the model or student `name`."""
    settings = load(Evaluate, "evaluate")
    device = pick_device(load(Run, "run").device)
    kind = "students" if isinstance(load_model(name), Student) else "models"
    trained = load_network(Path(f"models/{name}.safetensors"), device)
    splits = {part: read_split(split_path(part)) for part in SPLITS}
    clips = {part: to_clips(split, device) for part, split in splits.items()}

    outputs = {part: answers(trained.network, clips[part]) for part in SPLITS}
    for epoch, weights in trained.checkpoints.items():
        trained.network.load_state_dict(weights)
        outputs |= {f"{part}@{epoch}": answers(trained.network, clips[part]) for part in SPLITS}
    parameters = sum(p.numel() for p in trained.network.parameters())
    scores = Scores(outputs, parameters)
    write_scores(scores_path(kind, name), scores)
    write_evaluation(name, scores, splits, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
