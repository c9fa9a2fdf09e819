"""A wrong parameter ends with one sentence: which key, what it got, what it takes."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.convert import Convert
from stages.download import Download
from stages.ensemble import Ensemble
from stages.prepare import Prepare
from stages.train import load_settings
from tagging.base.errors import UserError
from tagging.data.splits import SplitSettings
from tagging.data.task import Task, load_task
from tagging.learning.losses import Focal
from tagging.learning.model import build, load_model
from tagging.parameters import Machine, load, parse, read_entries, read_models, read_params
from tagging.reports.settings import Compare
from tagging.scoring.evaluation import Evaluate, metrics_of
from tests.archives import ROOT
from tests.generated import SPEC

SECTIONS = {
    "task": Task, "download": Download, "convert": Convert, "prepare": Prepare,
    "protocol": SplitSettings, "evaluate": Evaluate, "compare": Compare, "run": Machine,
}  # fmt: skip


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The project's parameters, with few models, to be changed and written."""
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    models = params["models"]
    return params | {"models": {name: models[name] for name in ("yac", "attention")}}


def check_all() -> None:
    """Read all of params.yaml, as the stages do."""
    for name, kind in SECTIONS.items():
        load(kind, name)
    metrics_of(load_task())
    for name in read_models() | read_entries("students"):
        load_settings(name)
        build(load_model(name), SPEC, 10, name)
    for name, entry in read_entries("ensembles").items():
        parse(Ensemble, entry, f"ensembles.{name}")


def write(params: Any) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def problem(params: Any) -> str:
    """Return the sentence with which the parameters are refused."""
    write(params)
    with pytest.raises(UserError) as caught:
        check_all()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def set_key(params: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *path, last = key.split(".")
    for part in path:
        params = params.setdefault(part, {})
    params[last] = value


def test_the_projects_own_are_taken(params: dict[str, Any]) -> None:
    write(params)
    check_all()


@pytest.mark.parametrize(
    ("key", "values", "takes"),
    [
        ("train.lr", ["fast", True, 0, math.nan, math.inf, "nan", None, [0.1]],
         "a learning rate above 0"),
        ("train.weight_decay", [-1], "a number of 0 or more"),
        ("train.epochs", ["1e-05", 1e-5, 2.0, True, 0], "a whole number of 1 or more"),
        ("train.batch_size", [1], "a whole number of clips, 2 or more"),
        ("train.loss", ["bce2", ["msml"], None], "msml, bce, ce, focal, triplet, "),
        ("train.optimizer", ["sgd"], "adam or adamw"),
        ("train.schedule", ["linear"], "constant, one_cycle"),
        ("train.decay", [0, 1.1], "a number above 0, at most 1"),
        ("train.keep", ["worst"], "best"),
        ("train.sure", [0, 1, "x"], "a precision above 0 and below 1"),
        ("models.attention.train.lr", ["fast"], "a learning rate above 0"),
        ("models.attention.train.loss", ["bce2"], "msml, bce, ce, focal, triplet, "),
        ("models.yac.train", [3], "a mapping of what replaces entries of train"),
        ("models.yac", [None, "yac"], "a mapping of architecture, network, features, "),
        ("models.yac.architecture", ["vgg", "../yac", "../parameters"], "ast, attention, "),
        ("models.yac.network.head", ["tanh"], "logits (raw outputs) or softmax"),
        ("models.yac.seeds", [[], [0, 0], [-1], [2**64], 3, [True]], "a list of whole numbers"),
        ("models.attention.network.hidden", [0], "a whole number of channels"),
        ("students.yac_distilled.label_weight", [2, -1, "x"], "a number from 0 to 1"),
        ("students.yac_distilled.enhance", [101, "median"], "mean, or a percentile from 0 to 100"),
        ("ensembles.three_architectures.members", [[], "yac"], "a list of one or more"),
        ("task.kind", ["two_labels"], "multi_label (a clip has"),
        ("task.shown", [[]], "a list of such names"),
        # What YAML makes of 8:1:1 without quotes: hours, minutes and seconds.
        ("protocol.parts",
         [[8, 1, 0], [8, 2], [8, 1, 1, 1], [0.8, 0.1, 0.1], [8, True, 1], "8:1:1", 28861],
         "three whole numbers of 1 or more"),
        ("protocol.split", ["stratified"], "random (parts of all clips), official"),
        ("prepare.top_labels", [528, 0], "a whole number from 1 to 527"),
        ("prepare.seconds", [11, 0, "all"], "a whole number of seconds from 1 to 10, or any"),
        ("prepare.subsets", [[], "eval"], "a list of one or more"),
        ("convert.subsets", ["eval", []], "a list of one or more"),
        ("download.source", ["mars"], "us, eu, asia, sample"),
        ("download.sha256", ["cd95"], "64 hexadecimal digits"),
        ("evaluate.resamples", [99], "100 or more"),
        ("compare.plotted", ["yac"], "a list of "),
        ("run.device", ["tpu"], "auto, cpu, cuda or mps"),
        ("run.progress", [True], "auto (bars on a terminal"),
    ],
)  # fmt: skip
def test_a_wrong_value(params: dict[str, Any], key: str, values: list, takes: str) -> None:
    for value in values:
        set_key(params, key, value)
        sentence = problem(params)
        assert sentence.startswith(f"params.yaml: {key} is {value!r}; it takes ")
        assert takes in sentence


@pytest.mark.parametrize(
    ("key", "takes"),
    [
        ("train.lrr", "train takes loss, optimizer, lr, "),
        ("train.seed", "train takes loss, "),
        ("prepare.top_label", "prepare takes folder, subsets, seconds, "),
        ("protocol.fold", "protocol takes split, parts, folds, "),
        ("convert.subset", "convert takes subsets"),
        ("download.from", "download takes source, sha256"),
        ("evaluate.resample", "evaluate takes resamples, seed"),
        ("compare.publish", "compare takes "),
        ("run.workers", "run takes device, progress"),
        ("task.metric", "task takes kind, chooses, shown, features"),
        ("models.yac.archi", "models.yac takes architecture, network, "),
        ("models.yac.network.hidden", "models.yac.network takes head"),
        ("models.yac.train.lrr", "models.yac.train takes loss, optimizer, lr, "),
        ("students.yac_distilled.teachers", "students.yac_distilled takes architecture, "),
        ("trian", "the sections are task, download, convert, prepare, "),
    ],
)
def test_an_unknown_key(params: dict[str, Any], key: str, takes: str) -> None:
    set_key(params, key, 1)
    assert problem(params).startswith(f"params.yaml: {key} is unknown; {takes}")


@pytest.mark.parametrize(
    "key",
    ["train", "train.lr", "models.yac.architecture", "models.attention.network.layers", "task",
     "protocol.split", "convert.subsets", "compare.plotted", "evaluate.seed", "run.device",
     "students.yac_distilled.teacher", "ensembles.three_architectures.members"],
)  # fmt: skip
def test_a_missing_key(params: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    inner = params
    for part in path:
        inner = inner[part]
    del inner[last]
    assert f"{key} is missing" in problem(params)


def test_numbers_as_text_are_numbers(params: dict[str, Any]) -> None:
    # What `dvc exp run -S train.lr=0.00001` writes, and YAML 1.1 reads as text.
    params["train"] |= {"lr": "1e-05", "loss": {"name": "focal", "gamma": "1e-05"}}
    write(params)
    settings = load_settings("yac")[1]
    assert (settings.lr, settings.loss) == (1e-5, Focal(gamma=1e-5))


def test_a_models_own_loss_replaces_the_shared_one(params: dict[str, Any]) -> None:
    params["models"]["yac"]["train"] = {"loss": {"name": "focal", "gamma": 1}}
    write(params)
    assert load_settings("yac")[1].loss == Focal(gamma=1)
    assert load_settings("attention")[1].loss.name == "msml"
    params["models"]["yac"]["train"] = {"loss": {"name": "focal", "gamma": -1}}
    assert problem(params) == (
        "params.yaml: models.yac.train.loss.gamma is -1; it takes a number of 0 or more: how much "
        "less a right answer counts"
    )


def test_metrics_that_are_none(params: dict[str, Any]) -> None:
    for key, value in (("chooses", "ndgc"), ("shown", ["ndcg", "ndgc"])):
        params["task"] = params["task"] | {key: value}
        assert "task has 'ndgc'; the metrics are accuracy, any_label_at_1" in problem(params)
        params["task"]["chooses"] = "ndcg"


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "two words", "a.b", "-x", "", "é", 1])
def test_a_name_that_is_none_for_a_file(params: dict[str, Any], name: Any) -> None:
    params["models"][name] = params["models"]["yac"]
    assert problem(params).startswith(
        f"params.yaml: models has the name {name!r}; it takes letters"
    )


def test_names_that_are_taken(params: dict[str, Any]) -> None:
    params["ensembles"]["yac"] = {"members": ["yac", "attention"]}
    assert "models and ensembles both have the name 'yac'; one takes" in problem(params)
    del params["ensembles"]["yac"]
    params["models"]["data"] = params["models"]["yac"]
    assert "models has the name 'data', but metrics/data.json is a file of" in problem(params)


@pytest.mark.parametrize("models", [[], None, 5, "yac", [{"yac": 1}], {}])
def test_models_that_are_none(params: dict[str, Any], models: Any) -> None:
    params["models"] = models
    takes = "one name or more" if models == {} else "a mapping of names"
    assert f"models is {models!r}; it takes {takes}" in problem(params)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "params.yaml is not in "),
        (b"train: [1", "params.yaml is no YAML: "),
        (b"\xff\xfe", "params.yaml is no YAML: "),
        (b"", "params.yaml holds None; it takes the sections task, "),
        (b"- 1", "params.yaml holds [1]; it takes the sections task, "),
    ],
)
def test_a_file_that_is_none(params: dict[str, Any], content: bytes | None, sentence: str) -> None:
    if content is not None:
        Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_params()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
