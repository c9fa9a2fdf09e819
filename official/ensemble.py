"""Stage `ensemble@<name>`: the mean answer of trained models. Adding a member trains nothing."""

import sys

from official.results import write_results
from official.settings import DATA, read_ensemble, read_official, scores_path
from tagging.dataset import read_split, split_path
from tagging.errors import entry_point
from tagging.scores import Scores, mean_answer, read_scores, write_scores

PARTS = ("val", "test")


@entry_point
def main(name: str) -> None:
    """Run the stage for the ensemble `name`."""
    official = read_official()
    members = read_ensemble(official, name)
    answers = [read_scores(scores_path("models", member)) for member in members]
    scores = Scores(
        {part: mean_answer([answer.outputs[part] for answer in answers]) for part in PARTS},
        sum(answer.parameters for answer in answers),
    )
    write_scores(scores_path("ensembles", name), scores)
    splits = {part: read_split(split_path(part, DATA)) for part in PARTS}
    write_results(name, scores, splits, official)


if __name__ == "__main__":
    main(*sys.argv[1:])
