"""A wrong parameter ends with one sentence: which key, what it got, what it takes."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.compare import Compare, published_rows
from stages.convert import Convert
from stages.download import Download
from stages.evaluate import Evaluate
from stages.prepare import Prepare
from stages.train import load_settings
from tagging.errors import UserError
from tagging.labels import Label
from tagging.models import Shape, build, load_model
from tagging.parameters import Run, load, read_models, read_params
from tests.project import ROOT, Project

SHAPE = Shape(10, [Label(0, "/m/09x0r", "Speech"), Label(1, "/m/04rlf", "Music")])


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The project's parameters, to be changed and written."""
    monkeypatch.chdir(tmp_path)
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def check_all() -> None:
    """Read all of params.yaml, as the stages do."""
    kinds = {
        "download": Download, "convert": Convert, "prepare": Prepare, "evaluate": Evaluate,
        "compare": Compare, "run": Run,
    }  # fmt: skip
    for name, kind in kinds.items():
        load(kind, name)
    published_rows(load(Compare, "compare"), {"source": "", "clips": {"with_a_top_label": 0}})
    for name in read_models():
        load_settings(name)
        build(load_model(name), SHAPE, name)


def set_key(params: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *path, last = key.split(".")
    for part in path:
        params = params.setdefault(part, {})
    params[last] = value


def problem(params: Any) -> str:
    """Return the sentence with which the parameters are refused."""
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        check_all()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_the_projects_own_are_taken(params: dict[str, Any]) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    check_all()


@pytest.mark.parametrize(
    ("key", "value", "got", "takes"),
    [
        ("train.lr", "fast", "'fast'", "a learning rate above 0"),
        ("train.lr", True, "True", "a learning rate above 0"),
        ("train.lr", 0, "0", "a learning rate above 0"),
        ("train.lr", math.nan, "nan", "a learning rate above 0"),
        ("train.lr", math.inf, "inf", "a learning rate above 0"),
        ("train.lr", "nan", "'nan'", "a learning rate above 0"),
        ("train.lr", None, "None", "a learning rate above 0"),
        ("train.lr", [0.1], "[0.1]", "a learning rate above 0"),
        ("train.weight_decay", -1, "-1", "a number of 0 or more"),
        ("train.epochs", "1e-05", "'1e-05'", "a whole number of 1 or more"),
        ("train.epochs", 1e-5, "1e-05", "a whole number of 1 or more"),
        ("train.epochs", 2.0, "2.0", "a whole number of 1 or more"),
        ("train.epochs", True, "True", "a whole number of 1 or more"),
        ("train.epochs", 0, "0", "a whole number of 1 or more"),
        ("train.batch_size", 1, "1", "a whole number of clips, 2 or more"),
        ("train.seed", -1, "-1", "a whole number of 0 or more"),
        ("train.seed", 2**64, str(2**64), "a whole number of 0 or more"),
        ("train.loss", "bce2", "'bce2'", "msml or ce"),
        ("train.loss", ["msml"], "['msml']", "msml or ce"),
        ("train.optimizer", "sgd", "'sgd'", "adam or adamw"),
        ("train.schedule", "linear", "'linear'", "constant, one_cycle"),
        ("train.keep", "worst", "'worst'", "best"),
        ("models.attention.train.lr", "fast", "'fast'", "a learning rate above 0"),
        ("models.yac.train", 3, "3", "a mapping of what replaces entries of train"),
        ("models.yac", None, "None", "a mapping of architecture, network, train"),
        ("models.yac", "yac", "'yac'", "a mapping of architecture, network, train"),
        ("models.yac.architecture", "vgg", "'vgg'", "ast, attention, "),
        ("models.yac.architecture", "../yac", "'../yac'", "ast, attention, "),
        ("models.yac.network.head", "tanh", "'tanh'", "logits (raw outputs) or softmax"),
        ("models.attention.network.hidden", 0, "0", "a whole number of channels"),
        ("models.attention.network.dropout", 1, "1", "a number from 0 to below 1"),
        ("prepare.split", [0, 0, 0], "[0, 0, 0]", "three whole numbers of 1 or more"),
        ("prepare.split", [8, 1, 0], "[8, 1, 0]", "three whole numbers of 1 or more"),
        ("prepare.split", [8, 2], "[8, 2]", "three whole numbers of 1 or more"),
        ("prepare.split", [8, 1, 1, 1], "[8, 1, 1, 1]", "three whole numbers of 1 or more"),
        ("prepare.split", [0.8, 0.1, 0.1], "[0.8, 0.1, 0.1]", "three whole numbers of 1 or more"),
        ("prepare.split", [8, True, 1], "[8, True, 1]", "three whole numbers of 1 or more"),
        ("prepare.split", "8:1:1", "'8:1:1'", "three whole numbers of 1 or more"),
        # What YAML makes of 8:1:1 without quotes: hours, minutes and seconds.
        ("prepare.split", 28861, "28861", "three whole numbers of 1 or more"),
        ("prepare.top_labels", 528, "528", "a whole number from 1 to 527"),
        ("prepare.top_labels", 0, "0", "a whole number from 1 to 527"),
        ("prepare.seconds", 11, "11", "a whole number of seconds from 1 to 10"),
        ("prepare.subsets", [], "[]", "a list of one or more"),
        ("prepare.subsets", "eval", "'eval'", "a list of one or more"),
        ("convert.subsets", "eval", "'eval'", "a list of one or more"),
        ("convert.subsets", [], "[]", "a list of one or more"),
        ("download.source", "mars", "'mars'", "us, eu, asia, sample"),
        ("download.sha256", "cd95", "'cd95'", "64 hexadecimal digits"),
        ("evaluate.resamples", 99, "99", "100 or more"),
        ("compare.plotted", [], "[]", "a list of one name or more"),
        ("compare.plotted", "yac", "'yac'", "a list of one name or more"),
        ("compare.published", {"x": 1}, "1", "a mapping of ndcg, precision_at_1"),
        ("run.device", "tpu", "'tpu'", "auto, cpu, cuda or mps"),
        ("run.progress", True, "True", "auto (bars on a terminal"),
    ],
)  # fmt: skip
def test_value(params: dict[str, Any], key: str, value: Any, got: str, takes: str) -> None:
    set_key(params, key, value)
    sentence = problem(params)
    assert sentence.startswith(f"params.yaml: {key}")
    assert f" is {got}; it takes " in sentence
    assert takes in sentence


@pytest.mark.parametrize(
    ("key", "takes"),
    [
        ("train.lrr", "train takes loss, focal_gamma, focal_alpha, "),
        ("prepare.top_label", "prepare takes subsets, seconds, "),
        ("convert.subset", "convert takes subsets"),
        ("download.from", "download takes source, sha256"),
        ("evaluate.resample", "evaluate takes resamples, seed"),
        ("compare.publish", "compare takes published, published_clips"),
        ("run.workers", "run takes device, progress"),
        ("models.yac.archi", "models.yac takes architecture, network, train"),
        ("models.yac.network.hidden", "models.yac.network takes head"),
        ("models.yac.train.lrr", "models.yac.train takes loss, focal_gamma, focal_alpha, "),
        ("trian", "the sections are download, convert, prepare, train, "),
    ],
)
def test_unknown_key(params: dict[str, Any], key: str, takes: str) -> None:
    set_key(params, key, 1)
    assert problem(params).startswith(f"params.yaml: {key} is unknown; {takes}")


@pytest.mark.parametrize(
    "key",
    ["train", "train.lr", "models.yac.architecture", "models.attention.network.layers",
     "prepare.split", "convert.subsets", "download.sha256", "evaluate.seed", "compare.published",
     "run.device"],
)  # fmt: skip
def test_missing_key(params: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    inner = params
    for part in path:
        inner = inner[part]
    del inner[last]
    sentence = problem(params)
    assert f"{key} is missing" in sentence


def test_a_number_as_text_is_the_number(params: dict[str, Any]) -> None:
    params["train"]["lr"] = "1e-05"  # what `dvc exp run -S train.lr=0.00001` writes
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert load_settings("yac")[1].lr == 1e-5


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "two words", "a.b", "-x", "", "é", 1])
def test_name_that_is_none_for_a_file(params: dict[str, Any], name: Any) -> None:
    params["models"][name] = params["models"]["yac"]
    assert problem(params).startswith(
        f"params.yaml: models has the name {name!r}; it takes letters"
    )


def test_name_of_another_stages_file(params: dict[str, Any]) -> None:
    params["models"]["data"] = params["models"]["yac"]
    assert "models has the name 'data', but metrics/data.json is a file of" in problem(params)


@pytest.mark.parametrize("models", [[], None, 5, "yac", [{"yac": 1}]])
def test_models_that_are_no_mapping(params: dict[str, Any], models: Any) -> None:
    params["models"] = models
    assert f"models is {models!r}; it takes a mapping of names" in problem(params)


def test_no_models(params: dict[str, Any]) -> None:
    params["models"] = {}
    assert "models is {}; it takes one name or more" in problem(params)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "params.yaml is not in "),
        (b"train: [1", "params.yaml is no YAML: "),
        (b"\xff\xfe", "params.yaml is no YAML: "),
        (b"", "params.yaml holds None; it takes the sections download, "),
        (b"- 1", "params.yaml holds [1]; it takes the sections download, "),
    ],
)
def test_file(params: dict[str, Any], content: bytes | None, sentence: str) -> None:
    if content is not None:
        Path("params.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_params()
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def error_of(project: Project, *settings: str) -> str:
    """Return what `dvc exp run -S ..` says when it must fail."""
    return project.fails("dvc", "exp", "run", *(word for s in settings for word in ("-S", s)))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("+train.lrr=1", "error: params.yaml: train.lrr is unknown; train takes "),
        ("train.lr=fast", "error: params.yaml: train.lr is 'fast'; it takes a learning rate"),
        ("train.epochs=0.00001", "train.epochs is '1e-05'; it takes a whole number"),
        ("prepare.split=[0,0,0]", "prepare.split is [0, 0, 0]; it takes three whole numbers"),
        ("prepare.split='8:1:1'", "; it takes three whole numbers of 1 or more"),
        ("prepare.top_labels=528", "prepare.top_labels is 528; it takes a whole number from 1"),
        ("+models.yac.network.hidden=3", "models.yac.network.hidden is unknown; "),
        ("models.yac.architecture=vgg", "tagging/architectures/vgg.py"),
        ("trian.lr=1", "trian"),
    ],
)  # fmt: skip
def test_through_dvc(project: Project, setting: str, sentence: str) -> None:
    before = project.run("git", "status", "--porcelain").stdout
    assert before == ""
    assert sentence in error_of(project, setting)


def test_small_number_through_dvc(project: Project) -> None:
    project.dvc("exp", "run", "-S", "train.lr=0.00001", "train@yac")
    assert "lr: 1e-05" in (project.root / "params.yaml").read_text()


@pytest.mark.parametrize("name", ["data", "two words", "a/b"])
def test_name_through_dvc(project: Project, name: str) -> None:
    params = project.params()
    params["models"][name] = params["models"]["yac"]
    project.write_params(params)
    assert name in project.fails("dvc", "repro")


def test_unknown_section_with_another_change(project: Project) -> None:
    # Alone, it changes what no stage depends on, and nothing runs.
    assert "trian is unknown; the sections are" in error_of(project, "+trian.lr=1", "train.lr=0.02")
