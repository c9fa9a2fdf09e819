"""Which change makes which stages run: all of them, and only what is affected.

The expectations are written by hand from what a parameter or module means. What follows a training
is told by its inputs: `ensemble` runs again when a model's answers have other bytes, `student` when
its teacher's have, `compare` when a metric or plot has, and seconds of training have.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import ROOT, Project
from tools.demo import MODELS as SMALL

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
MODELS = {name: PARAMS["models"][name] for name in SMALL}
CONVERT = {f"convert@{subset}" for subset in PARAMS["convert"]["subsets"]}
TRAIN = {f"train@{name}" for name in MODELS}
EVALUATE = {f"evaluate@{name}" for name in MODELS}
ENSEMBLE, STUDENT = {"ensemble@of_models"}, {"student@yac_distilled"}
SCORED = EVALUATE | ENSEMBLE | STUDENT
TRAINED = TRAIN | STUDENT
FOLLOWING = ENSEMBLE | STUDENT | {"compare"}  # told by the bytes of their inputs
ONWARDS = {"prepare"} | TRAIN | EVALUATE | ENSEMBLE | STUDENT | {"compare"}


def users(architecture: str) -> set[str]:
    """Return the models of an architecture."""
    return {name for name, model in MODELS.items() if model["architecture"] == architecture}


YAC, ATTENTION = users("yac"), users("attention")


def of(names: set[str], *stages: str) -> set[str]:
    """Return the stages of these models."""
    return {f"{stage}@{name}" for stage in stages for name in names}


def shared(setting: str) -> set[str]:
    """Return what a setting of `train` makes run: all trainings, and evaluations of new weights.

    A model with its own value is trained again, as `train` is its dep, but to the same weights.
    """
    return TRAIN | STUDENT | of(
        {name for name in MODELS if setting not in MODELS[name].get("train", {})}, "evaluate"
    )  # fmt: skip


def one(name: str) -> set[str]:
    """Return what a setting of one model makes run."""
    return of({name}, "train", "evaluate")


# Leaf of params.yaml: what is changed (the leaf, and what else must change with it), the stages
# that run, and those that run if their inputs' bytes turn out to be others.
Row = tuple[dict[str, Any], set[str], set[str]]
PARAMETERS: dict[str, Row] = {
    "download/source": ({"download/source": "eu"}, {"download"}, set()),
    "download/sha256": ({"download/sha256": "0" * 64}, {"download"}, set()),
    # `prepare` has the folder of all subsets for its dep; that it reads others only is seen when
    # its result is the same.
    "convert/subsets": (
        {"convert/subsets": ["bal_train", "eval", "unbal_train"]},
        {"convert@unbal_train", "prepare"},
        set(),
    ),
    "prepare/subsets": ({"prepare/subsets": ["bal_train"]}, ONWARDS, set()),
    # `yac` takes clips of ten seconds only and is left out.
    "prepare/seconds": (
        {
            "prepare/seconds": 9,
            **{f"models/{name}": None for name in YAC},
            "ensembles/of_models/members": [*ATTENTION, *ATTENTION],
            "compare/plotted": [*ATTENTION],
            "students/yac_distilled/architecture": "attention",
            "students/yac_distilled/network": MODELS["attention"]["network"]
            | {"hidden": 8, "layers": 1},
        },
        {"prepare"} | of(ATTENTION, "train", "evaluate") | FOLLOWING,
        set(),
    ),
    "prepare/top_labels": ({"prepare/top_labels": 4}, ONWARDS, set()),
    "prepare/split": ({"prepare/split": [6, 2, 2]}, ONWARDS, set()),
    "prepare/seed": ({"prepare/seed": 1}, ONWARDS, set()),
    "train/loss": ({"train/loss": "ce"}, shared("loss"), set()),
    # What the other settings leave unused changes no weights.
    **{
        f"train/{name}": ({f"train/{name}": value}, TRAIN | STUDENT, set())
        for name, value in {
            "focal_gamma": 3,
            "focal_alpha": 0.5,
            "warmup": 0.1,
            "mixup_alpha": 1,
            "ema_decay": 0.9,
            "average_epochs": 2,
        }.items()
    },
    "train/sampling": ({"train/sampling": "balanced"}, shared("sampling"), set()),
    "train/mixup_rate": ({"train/mixup_rate": 0.5}, shared("mixup_rate"), set()),
    "train/average": ({"train/average": "ema"}, shared("average"), set()),
    # Without weight decay AdamW is Adam.
    "train/optimizer": ({"train/optimizer": "adamw"}, TRAIN | STUDENT, EVALUATE),
    "train/lr": ({"train/lr": 0.02}, shared("lr"), set()),
    "train/weight_decay": ({"train/weight_decay": 0.1}, shared("weight_decay"), set()),
    "train/schedule": ({"train/schedule": "constant"}, shared("schedule"), set()),
    "train/epochs": ({"train/epochs": 3}, TRAIN | STUDENT, EVALUATE),
    "train/batch_size": ({"train/batch_size": 16}, shared("batch_size"), set()),
    # The best epoch may be the last.
    "train/keep": ({"train/keep": "last"}, TRAIN | STUDENT, EVALUATE),
    # Weights that are kept beside the others: new files, the same answers.
    "train/checkpoints": ({"train/checkpoints": 1}, TRAIN | EVALUATE | STUDENT, set()),
    "train/seed": ({"train/seed": 1}, shared("seed"), set()),
    "models/yac/architecture": (
        {
            "models/yac/architecture": "attention",
            "models/yac/network": MODELS["attention"]["network"] | {"hidden": 8, "layers": 1},
        },
        one("yac"),
        set(),
    ),
    "models/yac/network/head": ({"models/yac/network/head": "softmax"}, one("yac"), set()),
    "models/yac_published/architecture": (
        {
            "models/yac_published/architecture": "attention",
            "models/yac_published/network": MODELS["attention"]["network"]
            | {"hidden": 8, "layers": 1},
        },
        one("yac_published"),
        set(),
    ),
    "models/yac_published/network/head": (
        {"models/yac_published/network/head": "logits"},
        one("yac_published"),
        set(),
    ),
    "models/yac_published/train/lr": (
        {"models/yac_published/train/lr": 0.02},
        one("yac_published"),
        set(),
    ),
    "models/yac_published/train/schedule": (
        {"models/yac_published/train/schedule": "one_cycle"},
        one("yac_published"),
        set(),
    ),
    "models/yac_published/train/epochs": (
        {"models/yac_published/train/epochs": 3},
        {"train@yac_published"},
        {"evaluate@yac_published"},
    ),
    "models/yac_published/train/batch_size": (
        {"models/yac_published/train/batch_size": 16},
        one("yac_published"),
        set(),
    ),
    "models/attention/architecture": (
        {"models/attention/architecture": "yac", "models/attention/network": {"head": "logits"}},
        one("attention"),
        set(),
    ),
    "models/attention/network/hidden": (
        {"models/attention/network/hidden": 16},
        one("attention"),
        set(),
    ),
    "models/attention/network/layers": (
        {"models/attention/network/layers": 2},
        one("attention"),
        set(),
    ),
    "models/attention/network/dropout": (
        {"models/attention/network/dropout": 0.5},
        one("attention"),
        set(),
    ),
    "models/attention/network/pooling": (
        {"models/attention/network/pooling": "feature"},
        one("attention"),
        set(),
    ),
    "models/attention/train/lr": ({"models/attention/train/lr": 0.02}, one("attention"), set()),
    "models/attention/train/epochs": (
        {"models/attention/train/epochs": 3},
        {"train@attention"},
        {"evaluate@attention"},
    ),
    "ensembles/of_models/members": (
        {"ensembles/of_models/members": ["yac_published", "attention"]},
        ENSEMBLE,
        set(),
    ),
    "students/yac_distilled/architecture": (
        {
            "students/yac_distilled/architecture": "attention",
            "students/yac_distilled/network": MODELS["attention"]["network"]
            | {"hidden": 8, "layers": 1},
        },
        STUDENT,
        set(),
    ),
    "students/yac_distilled/network/head": (
        {"students/yac_distilled/network/head": "softmax"},
        STUDENT,
        set(),
    ),
    "students/yac_distilled/train/epochs": (
        {"students/yac_distilled/train/epochs": 3},
        STUDENT,
        set(),
    ),
    "students/yac_distilled/teacher": (
        {
            "students/yac_distilled/teacher": "other",
            "ensembles/other": {"members": ["yac_published", "attention"]},
        },
        {"ensemble@other"} | STUDENT,
        set(),
    ),
    "students/yac_distilled/label_weight": (
        {"students/yac_distilled/label_weight": 0.5},
        STUDENT,
        set(),
    ),
    "evaluate/resamples": ({"evaluate/resamples": 200}, SCORED, set()),
    "evaluate/seed": ({"evaluate/seed": 1}, SCORED, set()),
    **{
        f"compare/published/{row}/{metric}": (
            {f"compare/published/{row}/{metric}": 0.5},
            {"compare"},
            set(),
        )
        for row in ("YoutubeAudioClassifier, lr 0.001", "YoutubeAudioClassifier, lr 0.01")
        for metric in ("ndcg", "precision_at_1")
    },
    "compare/plotted": ({"compare/plotted": ["attention"]}, {"compare"}, set()),
    "compare/published_clips": ({"compare/published_clips": 100}, {"compare"}, set()),
    # A pipeline of its own.
    "published/lrs": ({"published/lrs": [1]}, set(), set()),
    "published/losses": ({"published/losses": ["ce"]}, set(), set()),
    "published/heads": ({"published/heads": ["logits"]}, set(), set()),
    "published/epochs": ({"published/epochs": [1]}, set(), set()),
    "published/seeds": ({"published/seeds": [7]}, set(), set()),
    "published/batch_size": ({"published/batch_size": 32}, set(), set()),
    # .. and another.
    "ablation/models": ({"ablation/models": ["yac"]}, set(), set()),
    "ablation/seeds": ({"ablation/seeds": [7]}, set(), set()),
    "ablation/epochs": ({"ablation/epochs": 1}, set(), set()),
    **{
        f"ablation/methods/{name}": ({f"ablation/methods/{name}": value}, set(), set())
        for name, value in {
            "focal/train/loss": "bce",
            "ce/train/loss": "bce",
            "mixup/train/mixup_rate": 0.1,
            "mixup/train/mixup_alpha": 2,
            "balanced/train/sampling": "uniform",
            "inverse_frequency/train/sampling": "uniform",
            "cosine/train/schedule": "one_cycle",
            "constant/train/schedule": "one_cycle",
            "constant/train/lr": 0.1,
            "ema/train/average": "none",
            "ema/train/ema_decay": 0.9,
            "average_epochs/train/average": "none",
            "average_epochs/train/average_epochs": 2,
            "weight_decay/train/optimizer": "adam",
            "weight_decay/train/weight_decay": 0.1,
            "more_dropout/network/dropout": 0.6,
        }.items()
    },
    # Another one.
    "official/prepare/subsets": ({"official/prepare/subsets": ["eval"]}, set(), set()),
    "official/prepare/seconds": ({"official/prepare/seconds": 10}, set(), set()),
    "official/prepare/top_labels": ({"official/prepare/top_labels": 10}, set(), set()),
    "official/prepare/split": ({"official/prepare/split": [8, 1, 1]}, set(), set()),
    "official/prepare/seed": ({"official/prepare/seed": 1}, set(), set()),
    **{
        f"official/train/{name}": ({f"official/train/{name}": value}, set(), set())
        for name, value in {
            "loss": "focal",
            "optimizer": "adam",
            "weight_decay": 0.5,
            "average": "none",
            "ema_decay": 0.5,
            "keep": "best",
        }.items()
    },
    "official/enhance/teacher": ({"official/enhance/teacher": "another"}, set(), set()),
    "official/enhance/threshold": ({"official/enhance/threshold": 99}, set(), set()),
    "official/evaluate/resamples": ({"official/evaluate/resamples": 111}, set(), set()),
    "official/evaluate/seed": ({"official/evaluate/seed": 1}, set(), set()),
    "run/device": ({"run/device": "cpu"}, set(), set()),
    "run/progress": ({"run/progress": "none"}, set(), set()),
}

EVERYTHING = CONVERT | ONWARDS  # but download
# What has the module's code in it: a comment there runs these and, as it changes no result, no
# other.
MODULES: dict[str, set[str]] = {
    "stages/download.py": set(),
    "stages/convert.py": CONVERT,
    "stages/prepare.py": {"prepare"},
    "stages/train.py": TRAINED,
    "stages/evaluate.py": EVALUATE | STUDENT,
    "stages/ensemble.py": ENSEMBLE,
    "stages/compare.py": {"compare"},
    "tagging/archive.py": CONVERT,
    **{
        f"tagging/architectures/{file.name}": of(users(file.stem), "train", "evaluate")
        | (STUDENT if file.stem == "yac" else set())
        for file in ROOT.glob("tagging/architectures/*.py")
    },
    "tagging/batches.py": TRAINED | EVALUATE,
    "tagging/conv_block.py": set(),
    "tagging/dataset.py": ONWARDS,
    "tagging/device.py": TRAINED | EVALUATE,
    "tagging/errors.py": EVERYTHING,
    "tagging/files.py": EVERYTHING,
    "tagging/labels.py": EVERYTHING,
    "tagging/losses.py": TRAINED,
    "tagging/evaluation.py": SCORED,
    "tagging/metrics.py": SCORED,
    "tagging/models.py": TRAINED | EVALUATE,
    "tagging/padding.py": TRAINED | EVALUATE,
    "tagging/parameters.py": EVERYTHING,
    "tagging/picture.py": {"compare"},
    "tagging/progress.py": CONVERT | TRAINED,
    "tagging/ranking.py": TRAIN | SCORED | {"compare"},
    "tagging/records.py": CONVERT | {"prepare"},
    "tagging/replay.py": set(),
    "tagging/resume.py": TRAINED,
    "tagging/sample.py": set(),
    "tagging/scores.py": TRAIN | SCORED,
    "tagging/tables.py": SCORED | {"compare"},
    "tagging/training.py": TRAINED,
    "tagging/transfer.py": set(),
    "tagging/yac_stack.py": set(),
}


def leaves(params: dict[str, Any], above: str = "") -> Iterator[str]:
    """Yield the names of all parameters that hold no others."""
    for name, value in params.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}/")
        else:
            yield f"{above}{name}"


def set_leaf(params: dict[str, Any], leaf: str, value: Any) -> None:
    """Set or add a parameter; None removes it."""
    *path, last = leaf.split("/")
    for part in path:
        params = params[part]
    if value is None:
        del params[last]
    else:
        assert params.get(last) != value, f"{leaf} is {value!r} already"
        params[last] = value


class Watch:
    """Tells which stages' inputs have other bytes than before."""

    def __init__(self, project: Project) -> None:
        self.root = project.root
        self.before = self._read()

    def _read(self) -> dict[str, bytes]:
        files = [
            *self.root.glob("models/*.safetensors"),
            *self.root.glob("data/prepared/*.safetensors"),
            *self.root.glob("data/scores/*/*.safetensors"),
            *(file for file in self.root.glob("metrics/**/*.json")),
            *(file for file in self.root.glob("plots/*/*/**/*.*") if file.is_file()),
        ]
        return {str(file.relative_to(self.root)): file.read_bytes() for file in files}

    def affected(self) -> set[str]:
        """Return the stages, of those that depend on bytes, that have to run."""
        after = self._read()
        changed = {
            name for name in self.before.keys() | after if self.before.get(name) != after.get(name)
        }
        stages = {f"evaluate@{Path(name).stem}" for name in changed if name.startswith("models/")}
        if any(name.startswith("data/scores/models/") for name in changed):
            stages |= {"ensemble@of_models"}
        if any(name.startswith("data/scores/ensembles/") for name in changed):
            stages |= {"student@yac_distilled"}
        of_compare = ("metrics/", "plots/train/", "plots/evaluate/", "data/prepared/")
        if any(name.startswith(of_compare) for name in changed):
            stages.add("compare")
        return stages


def test_tables_are_complete() -> None:
    # An entry that somebody adds needs no row: those of the small project stand for all, and those
    # of the official benchmark have tests of their own.
    known = tuple(f"models/{name}/" for name in SMALL)
    known += ("ensembles/of_models/", "students/yac_distilled/")
    entries = ("models/", "ensembles/", "students/")
    entries += tuple(
        f"official/{name}/" for name in ("models", "enhanced", "ensembles", "published")
    )
    wanted = {
        leaf for leaf in leaves(PARAMS) if not leaf.startswith(entries) or leaf.startswith(known)
    }
    assert set(PARAMETERS) == wanted
    files = [*ROOT.glob("stages/**/*.py"), *ROOT.glob("tagging/**/*.py")]
    assert set(MODULES) == {str(file.relative_to(ROOT)) for file in files}


@pytest.mark.parametrize("leaf", PARAMETERS)
def test_parameter(project: Project, leaf: str) -> None:
    changes, must, may = PARAMETERS[leaf]
    params = project.params()
    for name, value in changes.items():
        set_leaf(params, name, value)
    project.write_params(params)
    watch = Watch(project)
    ran = project.repro()
    assert ran == must | (watch.affected() & (may | FOLLOWING))


@pytest.mark.parametrize("module", MODULES)
def test_comment(project: Project, module: str) -> None:
    file = project.root / module
    file.write_text(f"{file.read_text(encoding='utf-8')}# A comment.\n", encoding="utf-8")
    watch = Watch(project)
    ran = project.repro()
    assert ran == MODULES[module] | (watch.affected() & FOLLOWING)
    # Nothing but seconds is another.
    changed = {line[3:] for line in project.status()} - {module, "dvc.lock"}
    allowed = ("metrics/timing/", "leaderboard/README.md", "plots/compare/cost.csv")
    assert not [name for name in changed if not name.startswith(allowed)]


def test_second_time(project: Project) -> None:
    assert project.repro() == set()
    assert project.status() == []


def test_touch(project: Project) -> None:
    for file in project.root.rglob("*"):
        if file.is_file() and not {".git", ".dvc"} & set(file.parts):
            os.utime(file, (1e9, 1e9))
    assert project.repro() == set()


def test_what_python_and_editors_leave(project: Project) -> None:
    for folder in ("data/parquet", "metrics", "plots/train", "plots/evaluate", "stages"):
        for name in ("__pycache__/x.cpython-311.pyc", "x.json.partial"):
            (project.root / folder / name).parent.mkdir(exist_ok=True)
            (project.root / folder / name).write_text("left behind")
    (project.root / "tagging/architectures/new.py").write_text("# not yet used\n")
    assert project.repro() == set()


def test_new_model(project: Project) -> None:
    params = project.params()
    params["models"]["new"] = {"architecture": "yac", "network": {"head": "logits"}}
    project.write_params(params)
    # The ensemble has all models' answers for its dep, and its own stays the same.
    assert project.repro() == {"train@new", "evaluate@new", "compare"} | ENSEMBLE
    leaderboard = json.loads((project.root / "leaderboard/leaderboard.json").read_text())
    assert leaderboard["rows"]["new"]["kind"] == "model"


def test_removed_model(project: Project) -> None:
    params = project.params()
    del params["models"]["yac_published"]
    project.write_params(params)
    assert project.repro() == {"compare"}
    assert (project.root / "metrics/yac_published.json").exists()
    for file in ("leaderboard/README.md", "plots/compare/learning_curves.csv"):
        text = (project.root / file).read_text()
        assert "yac" in text
        assert "yac_published" not in text


def test_renamed_model_in_another_order(project: Project) -> None:
    params = project.params()
    params["models"] = {
        "renamed" if name == "yac" else name: model
        for name, model in reversed(params["models"].items())
    }
    params["ensembles"]["of_models"]["members"] = ["renamed", "attention"]
    params["compare"]["plotted"] = ["renamed", "attention"]
    project.write_params(params)
    assert project.repro() == {"train@renamed", "evaluate@renamed", "compare"} | ENSEMBLE


def test_new_member(project: Project) -> None:
    """Adding a member to an ensemble trains no model; only its students learn again."""
    params = project.params()
    params["ensembles"]["of_models"]["members"].append("yac_published")
    project.write_params(params)
    assert project.repro() == FOLLOWING


def test_other_layout_of_parameters(project: Project) -> None:
    """Comments, order and quotes mean nothing."""
    params = project.params()
    text = yaml.safe_dump(params, default_flow_style=True, sort_keys=True)
    (project.root / "params.yaml").write_text(f"# The same.\n{text}")
    assert project.repro() == set()


def test_lost_output(project: Project) -> None:
    (project.root / "models/yac.safetensors").unlink()
    project.dvc("checkout")
    assert project.repro() == set()
