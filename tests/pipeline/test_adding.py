"""A network, a metric, a loss, a task: each is added in the one place that docs/adding.md names."""

import json
import shutil
from pathlib import Path

from tests.project import ROOT, Project, make_small

RESULTS = ("dvc.lock", "leaderboard/", "metrics/", "evaluation/", "plots/", "models/", "data/")
NETWORK = '''
"""The mean of the frames, and one layer."""

from torch import nn

from tagging.layers.base import TaggingNetwork
from tagging.data.parameters import Section


class Settings(Section):
    """The network has no settings."""


class Network(TaggingNetwork):
    """Clips, float32 (batch, channels, frames, bins), to scores (batch, labels)."""

    def __init__(self, settings, spec, labels):
        super().__init__()
        self.classify = nn.Linear(spec.channels * spec.bins, labels)

    def forward(self, x, frames=None):
        return self.classify(x.mean(2).flatten(1))
'''
METRIC = '''
"""The share of clips whose class of the highest score is one that few clips have."""

from tagging.learning.metric import Metric

def metric():
    return Metric("Rare first", per_clip=lambda labels, scores: scores.argmax(1) > 3)
'''
LOSS = '''
class Power(Loss):
    """A power of the errors of the probabilities."""

    name: Literal["power"] = "power"
    exponent: Float = Field(2.0, gt=0)

    def __call__(self, outputs, labels):
        return ((outputs.sigmoid() - labels).abs() ** self.exponent).mean()


'''
MODELS = ("yac", "yac_published", "attention")  # of the small project


def edited(project: Project) -> set[str]:
    """Return new and changed files, without outputs of stages."""
    listed = project.git("status", "--porcelain", "--untracked-files=all").splitlines()
    return {line[3:] for line in listed if not line[3:].startswith(RESULTS)}


def test_an_architecture_is_a_file_and_an_entry(project: Project) -> None:
    project.append("tagging/networks/plain.py", NETWORK)
    project.change("models.new", {"architecture": "plain"})
    # The scores of all models are deps of the ensemble, whose own stay the same.
    assert project.repro() == {
        "train@new", "evaluate@new", "ensemble@three_architectures", "compare", "review@page",
    }  # fmt: skip
    board = json.loads((project.root / "leaderboard/leaderboard.json").read_text())
    assert board["rows"]["new"]["parameters"] == (128 + 1) * 8
    assert edited(project) == {"tagging/networks/plain.py", "params.yaml"}


def test_a_metric_is_a_file_and_its_name_and_trains_nothing(project: Project) -> None:
    project.append("tagging/scoring/metrics/rare_first.py", METRIC)
    report_metrics = project.params()["task"]["report_metrics"]
    project.change("task.report_metrics", [*report_metrics, {"name": "rare_first"}])
    assert project.repro() == {
        *(f"evaluate@{name}" for name in MODELS), "ensemble@three_architectures",
        "evaluate_distilled@yac_distilled", "compare", "review@page",
    }  # fmt: skip
    for name in (*MODELS, "three_architectures", "yac_distilled"):
        scores = json.loads((project.root / f"evaluation/{name}.json").read_text())
        assert 0 <= scores["test"]["rare_first"] <= 1
    assert "Rare first" in (project.root / "leaderboard/README.md").read_text()
    assert edited(project) == {"tagging/scoring/metrics/rare_first.py", "params.yaml"}


def test_a_loss_is_a_class_and_its_entry_in_the_table_below(project: Project) -> None:
    file = project.root / "tagging/learning/losses.py"
    before, table, after = file.read_text().partition("CLASSIFICATION_LOSSES: ")
    entries = after.replace('"focal": Focal,', '"focal": Focal, "power": Power,')
    file.write_text(before + LOSS.lstrip() + table + entries)
    project.change("models.yac_published.train.loss", {"name": "power", "exponent": 3})
    target = "evaluate@yac_published"
    assert project.repro(target) == {"train@yac_published", target}
    assert edited(project) == {"tagging/learning/losses.py", "params.yaml"}


def test_a_task_is_a_folder_of_three_files(project: Project) -> None:
    folder = Path("tasks/new")
    (project.root / folder).mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "corrections.csv"):
        shutil.copy(ROOT / "tasks/ablation" / name, project.root / folder / name)
    make_small(project, folder)
    params = project.params(folder)
    params |= {"folder": str(folder), "in": f"{folder}/"}
    params["task"] |= {
        "metrics": [{"name": "map"}], "report_metrics": [{"name": "lwlrap"}],
    }  # fmt: skip
    params["split"]["seed"] = 7
    one, other, *_ = params["models"].values()
    params |= {"models": {"one": one, "other": other}, "ensembles": {}, "students": {}}
    params["compare"] = {"plot": ["one"], "differences": {"one": ["other"]}}
    project.write_params(params, folder)
    of_task = f"{folder}/dvc.yaml:{{}}".format
    ran = project.repro(f"{folder}/dvc.yaml")
    assert ran == {
        of_task(stage)
        for stage in (
            "prepare", "train@one", "train@other", "evaluate@one", "evaluate@other", "compare",
        )
    }  # fmt: skip
    scores = json.loads((project.root / folder / "evaluation/one.json").read_text())
    assert {"map", "lwlrap"} <= set(scores["test"])
    assert {name for name in edited(project) if not name.startswith("tasks/new/")} == set()
    assert project.repro() == set()
