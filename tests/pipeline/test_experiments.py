"""`dvc exp` as docs/dvc.md shows it: in the workspace, queued, and in a copy."""

import json
from pathlib import Path

from tests.project import OWN, RECORDINGS, Project, stages_run

ABLATION = Path("tasks/ablation")


def experiments(project: Project) -> dict[str, dict]:
    """Return the parameters and metrics of all experiments on the current commit, by name."""
    shown = {}
    for commit in json.loads(project.dvc("exp", "show", "--json")):
        for experiment in commit["experiments"] or []:
            for revision in experiment["revs"]:
                assert revision["error"] is None, revision
                shown[experiment["name"]] = revision["data"]
    return shown


def lr(data: dict, file: str = "params.yaml") -> float:
    return data["params"][file]["data"]["train"]["lr"]


def test_run_with_another_rate_and_an_added_model(project: Project) -> None:
    settings = (
        "++models.attention.train.lr=0.02",
        "+models.new.architecture=yac",
        "+models.new.network.head=logits",
    )
    options = [option for setting in settings for option in ("-S", setting)]
    output = project.dvc("exp", "run", "--name", "faster", *options)
    assert stages_run(output) == {
        "train@attention", "evaluate@attention", "train@new", "evaluate@new",
        "ensemble@three_architectures", "distill@yac_distilled",
        "evaluate_distilled@yac_distilled", "compare", "review@page",
    }  # fmt: skip
    assert project.params()["models"]["attention"]["train"]["lr"] == 0.02
    # Nothing but parameters and results differs; dvc.yaml is the project's, also in a training.
    results = ("evaluation/", "leaderboard/", "metrics/", "plots/", "params.yaml", "dvc.lock")
    for line in project.status():
        assert (line[:2].strip() == "M" and line[3:].startswith(results)) or "new" in line, line
    metrics = experiments(project)["faster"]["metrics"]
    assert set(metrics) >= {"metrics/new.json", "metrics/attention.json"}
    assert project.repro() == set()


def test_queue(project: Project) -> None:
    project.dvc("exp", "run", "--queue", "-S", "train.lr=0.03,0.001", "evaluate@yac")
    assert project.status() == []
    # The code that runs is that of the experiment's checkout, not the workspace's.
    project.append("tagging/learning/trainer.py", "\nraise SystemExit('of the workspace')\n")
    project.dvc("exp", "run", "--run-all", "--jobs", "1")
    assert project.status() == [" M tagging/learning/trainer.py"]
    project.git("checkout", "--quiet", "tagging")
    queued = experiments(project).values()
    assert sorted(lr(data) for data in queued) == [0.001, 0.03]
    assert len({json.dumps(data["metrics"]["metrics/yac.json"]["data"]) for data in queued}) == 2
    assert project.status() == []
    assert project.repro() == set()


def test_in_a_copy_of_a_task_with_the_copys_code(all_tasks: Project) -> None:
    """The code that runs is that of the checkout, not the workspace's."""
    all_tasks.append("tagging/learning/trainer.py", "\nprint('code of', __file__)\n")
    output = all_tasks.run(
        "dvc", "exp", "run", "--temp", "--name", "apart", "-S", "train.lr=0.02", "train@yac",
        folder=ABLATION,
    ).stdout  # fmt: skip
    assert f"code of {all_tasks.root}/.dvc/tmp/exps/" in output
    assert all_tasks.status() == [" M tagging/learning/trainer.py"]
    assert lr(experiments(all_tasks)["apart"], f"{ABLATION}/params.yaml") == 0.02
    all_tasks.git("checkout", "--quiet", "tagging")
    all_tasks.dvc("exp", "apply", "apart")
    assert all_tasks.params(ABLATION)["train"]["lr"] == 0.02
    assert all_tasks.repro(f"{ABLATION}/dvc.yaml:train@yac") == set()


def test_recordings_that_git_ignores(all_tasks: Project) -> None:
    """A copy of the project has them by --copy-paths, or because they are in DVC's cache."""
    decode = [f"{OWN}/dvc.yaml:decode"]

    def run(clip_seconds: float, *options: str) -> set[str]:
        setting = f"{OWN}/params.yaml:decode.clip_seconds={clip_seconds}"
        return stages_run(all_tasks.dvc("exp", "run", "--temp", "-S", setting, *options, *decode))

    all_tasks.git("rm", "-r", "--quiet", "--cached", RECORDINGS)
    all_tasks.append(".gitignore", "/recordings/\n")
    all_tasks.commit()
    assert "No such file or directory" in all_tasks.fails("dvc", "exp", "run", "--temp", *decode)
    assert run(0.9, "--copy-paths", RECORDINGS) == set(decode)
    all_tasks.git("checkout", "--quiet", "HEAD~", ".gitignore")
    all_tasks.dvc("add", RECORDINGS)
    all_tasks.commit()
    assert run(0.8) == set(decode)
    assert all_tasks.status() == []
