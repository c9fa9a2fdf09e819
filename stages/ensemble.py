"""Stage `ensemble@<name>`: the mean probability of several trained networks, evaluated as one.

PSLA (Gong et al., 2021, arXiv 2102.01243) has three kinds: the last epochs of one training
(members `model@epoch`), trainings with different seeds (a member is all runs of a model), and
different models. Members are read from their scores: adding one trains nothing.
"""

import sys
from pathlib import Path

import numpy as np
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.data.clips import SPLITS, read_index
from tagging.data.parameters import Params, Section
from tagging.data.scores import Scores, mean_probability, read_scores
from tagging.data.task import Task
from tagging.data.task_folder import TaskFolder, require_outputs
from tagging.scoring.bootstrap import Evaluate
from tagging.scoring.results import write_evaluation


class Ensemble(Section):
    """One entry of `ensembles`.

    A member is the name of a model, for all its runs, or `name@epoch`, for the weights after one of
    its last `train.save_last_epochs` epochs. With `per_run`, each run (fold and seed) has an
    ensemble of its own, so that averaged epochs compare with the training that they come from.
    """

    members: list[str] = Field(min_length=1)
    per_run: bool = False


def average_members(folder: TaskFolder, params: Params, name: str, folds: int) -> Scores:
    """Return the ensemble's scores: one run for each fold, or for each run of the members.

    Raises:
        UserError: if a member is unknown, its scores are missing, or there is one network alone
            (with `per_run`, a single saved epoch is allowed).
    """
    key = f"{params.path}: ensembles.{name}.members"
    entries = params.entries("ensembles")
    if name not in entries:
        raise UserError(
            f"{params.path}: ensembles.{name} is missing; the ensembles are {', '.join(entries)}"
        )
    settings = params.parse(Ensemble, entries[name], f"ensembles.{name}")
    members = settings.members
    models = params.models() | params.entries("finetuned")
    names = [member.partition("@")[0] for member in members]
    for model in names:
        if model not in models:
            raise UserError(f"{key} must name models ({', '.join(models)}), got {model!r}")
    require_outputs(folder.scores("models", model) for model in dict.fromkeys(names))
    runs = {f"fold{fold}" if folds > 1 else "mean": fold for fold in range(folds)}
    if settings.per_run:
        runs = read_scores(folder.scores("models", names[0])).runs
    outputs: dict[tuple[str, str], list[np.ndarray]] = {}
    parameters = 0
    for member in members:
        model, at, epoch = member.partition("@")
        scores = read_scores(folder.scores("models", model))
        if settings.per_run and scores.runs != runs:
            raise UserError(
                f"{key} must have the same seeds (per_run), got {', '.join(runs)} of {names[0]} "
                f"and {', '.join(scores.runs)} of {model}"
            )
        for run, fold in runs.items():
            run_scores = scores._replace(runs={run: fold}) if settings.per_run else scores
            if not (test_scores := run_scores.select(fold, f"test{at}{epoch}")):
                kept = {output.split("@")[1] for output in scores.outputs if "@" in output}
                raise UserError(
                    f"{key}: {model} must keep epoch {epoch} of {member!r} "
                    f"(train.save_last_epochs), got {', '.join(sorted(kept, key=int)) or 'none'}"
                )
            for split in SPLITS:
                outputs.setdefault((run, split), []).extend(
                    run_scores.select(fold, f"{split}{at}{epoch}")
                )
        parameters += scores.parameters * len(test_scores)
    is_saved_epoch = settings.per_run and "@" in members[0]
    if not is_saved_epoch and len(outputs[next(iter(runs)), "test"]) < 2:
        raise UserError(
            f"{key} must be two or more networks, different models or seeds of one, got {members}"
        )
    means = {
        f"{run}/{split}": mean_probability(outputs[run, split])
        for run in runs
        for split in SPLITS
        # Training clips are scored for some models: the mean is over all members, or is left out.
        if len(outputs[run, split]) == len(outputs[run, "test"])
    }
    return Scores(means, runs, parameters)


@entry_point
def main(folder: str, name: str) -> None:
    """Run the stage for the ensemble `name` of the task in `folder`."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    settings, task = params.section(Evaluate, "evaluate"), params.section(Task, "task")
    index = read_index(task_folder.index)
    scores = average_members(task_folder, params, name, len(index.folds))
    write_evaluation(task_folder, "ensembles", name, scores, index, task, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
