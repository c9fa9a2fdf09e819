"""Stage `ensemble@<name>`: the mean answer of several trained networks, scored as one.

PSLA (Gong et al., 2021, arXiv 2102.01243) has three kinds: the last epochs' weights of one training
(members `model@epoch`), trainings that differ in their seed (a member is all runs of a model), and
different models. Members are read from their scores: adding one trains nothing.
"""

import sys

from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.data.clips import SPLITS, read_index
from tagging.data.task import load_task
from tagging.parameters import Section, load, parse, read_entries, read_models
from tagging.scoring.evaluation import Evaluate, write_evaluation
from tagging.scoring.scores import Scores, mean_answer, read_scores, scores_path


class Ensemble(Section):
    """One entry of `ensembles`."""

    members: list[str] = Field(
        description="a list of one or more, each a name of models, for all its runs, or "
        "name@epoch, for the weights after one of its last train.checkpoints epochs",
        min_length=1,
    )


def average(members: list[str], name: str, folds: int) -> Scores:
    """Return the ensemble's scores: one run a fold.

    Raises:
        UserError: if a member is none, or there is one network alone.
    """
    outputs: dict[tuple[int, str], list] = {}
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
        for fold in range(folds):
            if not (of_fold := scores.of_fold(fold, f"test{at}{epoch}")):
                kept = {key.split("@")[1] for key in scores.outputs if "@" in key}
                raise UserError(
                    f"params.yaml: ensembles.{name}.members has {member!r}; {model} has weights "
                    f"after the epochs {', '.join(sorted(kept, key=int)) or 'kept alone'} "
                    "(train.checkpoints)"
                )
            for part in SPLITS:
                outputs.setdefault((fold, part), []).extend(
                    scores.of_fold(fold, f"{part}{at}{epoch}")
                )
        parameters += scores.parameters * len(of_fold)
    if len(outputs[0, "test"]) < 2:
        raise UserError(
            f"params.yaml: ensembles.{name}.members stand for one network; it takes two or more, "
            "different models or seeds of one"
        )
    runs = {f"fold{fold}" if folds > 1 else "mean": fold for fold in range(folds)}
    means = {
        f"{run}/{part}": mean_answer(outputs[fold, part])
        for run, fold in runs.items()
        for part in SPLITS
        if outputs[fold, part]
    }
    return Scores(means, runs, parameters)


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
    index = read_index()
    scores = average(members, name, len(index.folds))
    write_evaluation("ensembles", name, scores, index, load_task(), settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
