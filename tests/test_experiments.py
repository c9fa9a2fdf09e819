"""`dvc exp` as the README shows it: in the workspace, queued, and in a copy."""

import json

from tests.project import Project, stages_run

TRAIN = {"train@yac", "train@yac_published", "train@attention"}


def experiments(project: Project) -> dict[str, dict]:
    """Return the parameters and metrics of all experiments on the current commit, by name."""
    found = {}
    for commit in json.loads(project.dvc("exp", "show", "--json")):
        for experiment in commit["experiments"] or []:
            for revision in experiment["revs"]:
                assert revision["error"] is None, revision
                found[experiment["name"]] = revision["data"]
    return found


def lr(data: dict) -> float:
    return data["params"]["params.yaml"]["data"]["train"]["lr"]


def results_only(project: Project) -> bool:
    """Tell whether nothing but parameters and results differ, and nothing is new."""
    results = ("leaderboard/", "metrics/", "plots/", "params.yaml", "dvc.lock")
    return all(
        line[:2].strip() == "M" and line[3:].startswith(results) for line in project.status()
    )


def test_run(project: Project) -> None:
    output = project.dvc("exp", "run", "--name", "faster", "-S", "train.lr=0.02")
    assert stages_run(output) >= TRAIN
    assert not {"prepare", "download"} & stages_run(output)
    assert project.params()["train"]["lr"] == 0.02
    assert results_only(project)
    data = experiments(project)["faster"]
    assert lr(data) == 0.02
    assert set(data["metrics"]) >= {"metrics/yac.json", "leaderboard/leaderboard.json"}
    assert project.repro() == set()


def test_added_model(project: Project) -> None:
    output = project.dvc(
        "exp", "run", "-S", "+models.new.architecture=yac", "-S", "+models.new.network.head=logits"
    )
    assert stages_run(output) == {"train@new", "evaluate@new", "ensemble@of_models", "compare"}
    new = {line[3:] for line in project.status() if line.startswith("??")}
    assert all("new" in name for name in new), new
    # dvc.yaml is the project's: nothing may write into it while a model trains.
    assert " M dvc.yaml" not in project.status()


def test_queue(project: Project) -> None:
    project.dvc("exp", "run", "--queue", "-S", "train.lr=0.03,0.001")
    assert project.status() == []
    project.dvc("exp", "run", "--run-all", "--jobs", "1")
    rates = sorted(lr(data) for data in experiments(project).values())
    assert rates == [0.001, 0.03]
    scores = {
        json.dumps(data["metrics"]["metrics/yac.json"]["data"])
        for data in experiments(project).values()
    }
    assert len(scores) == 2
    assert project.status() == []
    assert project.repro() == set()


def test_in_a_copy(project: Project) -> None:
    project.dvc("exp", "run", "--temp", "--name", "apart", "-S", "train.lr=0.02")
    assert project.status() == []
    assert lr(experiments(project)["apart"]) == 0.02
    project.dvc("exp", "apply", "apart")
    assert project.params()["train"]["lr"] == 0.02
    assert project.repro() == set()
