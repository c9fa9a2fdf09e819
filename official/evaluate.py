"""Stages `evaluate@<model>` and `evaluate_enhanced@<model>`: a trained model's answers and scores.

Answers are kept for all three splits: ensembles are made of those for val and test, the enhanced
labels of a teacher's for train. Scores are always against AudioSet's own labels.
"""

import sys

from official.results import write_results
from official.settings import DATA, MODELS, find_trained, read_official, scores_path
from tagging.batches import to_clips
from tagging.dataset import SPLITS, read_split, split_path
from tagging.device import pick_device
from tagging.errors import entry_point
from tagging.models import answers, load_network
from tagging.parameters import Run, load
from tagging.scores import Scores, write_scores


@entry_point
def main(name: str) -> None:
    """Run the stage for the model `name`."""
    official = read_official()
    find_trained(official, name)
    device = pick_device(load(Run, "run").device)
    network = load_network(MODELS / f"{name}.safetensors", device).network
    splits = {part: read_split(split_path(part, DATA)) for part in SPLITS}
    outputs = {part: answers(network, to_clips(split, device)) for part, split in splits.items()}
    scores = Scores(outputs, sum(p.numel() for p in network.parameters()))
    write_scores(scores_path("models", name), scores)
    write_results(name, scores, splits, official)


if __name__ == "__main__":
    main(*sys.argv[1:])
