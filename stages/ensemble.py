"""Stage `ensemble@<name>`: the mean answer of several trained models, scored as one.

PSLA (Gong et al., 2021, arXiv 2102.01243) has three kinds: the last epochs' weights of one training
(members `model@epoch`), trainings that differ in their seed, and different models. Members are read
from their scores: adding one trains nothing.
"""

import sys

import numpy as np
from pydantic import Field

from tagging.dataset import SPLITS, read_split, split_path
from tagging.errors import UserError, entry_point
from tagging.evaluation import Evaluate, write_evaluation
from tagging.parameters import Section, load, parse, read_entries, read_models
from tagging.scores import Scores, mean_answer, read_scores, scores_path, write_scores


class Ensemble(Section):
    """One entry of `ensembles`."""

    members: list[str] = Field(
        description="a list of two models or more, each a name of models, or name@epoch for the "
        "weights after one of its last train.checkpoints epochs",
        min_length=2,
    )


def average(members: list[str], name: str) -> Scores:
    """Return the ensemble's scores.

    Raises:
        UserError: if a member is none.
    """
    answers: dict[str, list[np.ndarray]] = {part: [] for part in SPLITS}
    parameters = 0
    models = read_models()
    for member in members:
        model, at, epoch = member.partition("@")
        if model not in models:
            raise UserError(
                f"params.yaml: ensembles.{name}.members has {member!r}; models has "
                f"{', '.join(models)}"
            )
        scores = read_scores(scores_path("models", model))
        if f"val{at}{epoch}" not in scores.outputs:
            kept = [key.removeprefix("val@") for key in scores.outputs if key.startswith("val@")]
            raise UserError(
                f"params.yaml: ensembles.{name}.members has {member!r}; {model} has weights after "
                f"the epochs {', '.join(kept) or 'kept alone'} (train.checkpoints)"
            )
        for part in SPLITS:
            answers[part].append(scores.outputs[f"{part}{at}{epoch}"])
        parameters += scores.parameters
    return Scores({part: mean_answer(outputs) for part, outputs in answers.items()}, parameters)


@entry_point
def main(name: str) -> None:
    """Run the stage for the ensemble `name`."""
    settings = load(Evaluate, "evaluate")
    ensembles = read_entries("ensembles")
    if name not in ensembles:
        raise UserError(
            f"params.yaml: ensembles.{name} is missing; the ensembles there: {', '.join(ensembles)}"
        )
    members = parse(Ensemble, ensembles[name], f"ensembles.{name}").members
    scores = average(members, name)
    write_scores(scores_path("ensembles", name), scores)
    splits = {part: read_split(split_path(part)) for part in ("val", "test")}
    write_evaluation(name, scores, splits, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
