"""A wrong parameter ends with one sentence: which key, what must hold, what was found."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.convert import Convert
from stages.download import Download
from stages.ensemble import Ensemble
from stages.prepare import Prepare
from tagging.base.errors import UserError
from tagging.data.parameters import Params
from tagging.data.splits import SplitSettings
from tagging.data.task import Task
from tagging.learning.factory import build_network
from tagging.learning.losses import Focal
from tagging.learning.metric import load_metrics
from tagging.learning.model import read_model
from tagging.learning.settings import Train, read_train_settings
from tagging.reports.settings import Compare
from tagging.scoring.bootstrap import Evaluate
from tests.archives import ROOT
from tests.generated import SPEC

PARAMS = Path("params.yaml")
SECTIONS = {
    "task": Task, "download": Download, "convert": Convert, "prepare": Prepare,
    "split": SplitSettings, "train": Train, "evaluate": Evaluate, "compare": Compare,
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
    params = Params.read(PARAMS)
    for name, section_type in SECTIONS.items():
        params.section(section_type, name)
    params.runtime()
    load_metrics(params.section(Task, "task"))
    for name in params.models() | params.entries("students"):
        model = read_model(params, name)
        read_train_settings(params, model, name)
        build_network(model, SPEC, 10, name)
    for name, entry in params.entries("ensembles").items():
        params.parse(Ensemble, entry, f"ensembles.{name}")


def train_settings(name: str) -> Train:
    params = Params.read(PARAMS)
    return read_train_settings(params, read_model(params, name), name)


def write(params: Any) -> None:
    PARAMS.write_text(yaml.safe_dump(params), encoding="utf-8")


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


def test_the_projects_own_are_valid(params: dict[str, Any]) -> None:
    write(params)
    check_all()


NUMBER = "must be a valid number"
INTEGER = "must be a valid integer"
FINITE = "must be a finite number"
LOSSES = "must be one of msml, bce, ce, focal, triplet, "


@pytest.mark.parametrize(
    ("key", "cases"),
    [
        ("train.lr",
         [("fast", NUMBER), (True, "must be a number"), (0, "must be greater than 0"),
          (math.nan, "must be greater than 0"), (math.inf, FINITE), (None, NUMBER),
          ([0.1], NUMBER)]),
        ("train.lr", [("nan", "must be greater than 0"), ("inf", FINITE)]),
        ("train.weight_decay", [(-1, "must be greater than or equal to 0")]),
        ("train.epochs",
         [("1e-05", INTEGER), (1e-5, INTEGER), (2.0, INTEGER), (True, INTEGER),
          (0, "must be greater than or equal to 1")]),
        ("train.batch_size", [(1, "must be greater than or equal to 2")]),
        ("train.loss", [("bce2", LOSSES), (["msml"], LOSSES), (None, LOSSES)]),
        ("train.optimizer", [("sgd", "must be 'adam' or 'adamw'")]),
        ("train.schedule",
         [("linear", "must be 'constant', 'one_cycle', 'cosine' or 'exponential'")]),
        ("train.decay", [(0, "must be greater than 0"), (1.1, "must be less than or equal to 1")]),
        ("train.restore", [("worst", "must be 'best' or 'last'")]),
        ("train.target_precision",
         [(0, "must be greater than 0"), (1, "must be less than 1"), ("x", NUMBER)]),
        ("models.attention.train.lr", [("fast", NUMBER)]),
        ("models.attention.train.loss", [("bce2", LOSSES)]),
        ("models.yac.train", [(3, "must be a valid dictionary")]),
        ("models.yac",
         [(value, "must be a mapping of architecture, network, features, ")
          for value in (None, "yac")]),
        ("models.yac.architecture",
         [(value, "must be one of ast, attention, ")
          for value in ("vgg", "../yac", "../parameters")]),
        ("models.yac.network.head", [("tanh", "must be 'logits' or 'softmax'")]),
        ("models.yac.seeds",
         [([], "must have at least 1 item"), ([0, 0], "must not repeat a number"),
          (3, "must be a valid list")]),
        ("models.yac.folds",
         [([], "must have at least 1 item"), ([0, 0], "must not repeat a number")]),
        ("models.yac.seeds[0]",
         [(-1, "must be greater than or equal to 0"), (2**64, "must be less than 9223372036"),
          (True, INTEGER)]),
        ("models.attention.network.hidden", [(0, "must be greater than or equal to 1")]),
        ("students.yac_distilled.hard_label_weight",
         [(2, "must be less than or equal to 1"), (-1, "must be greater than or equal to 0"),
          ("x", NUMBER)]),
        ("students.yac_distilled.relabel_threshold",
         [(101, "must be 'mean' or less than or equal to 100"),
          ("median", "must be 'mean' or a valid number")]),
        ("ensembles.three_architectures.members",
         [([], "must have at least 1 item"), ("yac", "must be a valid list")]),
        ("task.type", [("two_labels", "must be 'multi_label', 'single_label' or 'similarity'")]),
        ("task.metrics", [([], "must have at least 1 item")]),
        ("split.ratios",
         [([8, 1, 1, 1], "must have at most 3 items"),
          # What YAML makes of 8:1:1 without quotes: hours, minutes and seconds.
          ("8:1:1", "must be a valid tuple"), (28861, "must be a valid tuple")]),
        ("split.ratios[2]", [(0, "must be greater than or equal to 1"), (0.1, INTEGER)]),
        ("split.ratios[1]", [(True, INTEGER)]),
        ("split.method", [("stratified", "must be 'random', 'official', 'predefined', ")]),
        ("prepare.top_k_labels",
         [(528, "must be less than or equal to 527"), (0, "must be greater than or equal to 1")]),
        ("prepare.clip_seconds",
         [(11, "must be less than or equal to 10"), (0, "must be greater than or equal to 1"),
          ("all", INTEGER)]),
        ("prepare.subsets", [([], "must have at least 1 item"), ("eval", "must be a valid list")]),
        ("convert.subsets", [("eval", "must be a valid list"), ([], "must have at least 1 item")]),
        ("download.source", [("mars", "must be us, eu, asia, sample, or a URL or folder")]),
        ("download.sha256", [("cd95", "must be a SHA-256 of 64 hexadecimal digits")]),
        ("evaluate.resamples", [(99, "must be greater than or equal to 100")]),
        ("compare.plot", [("yac", "must be a valid list")]),
        ("runtime.device", [("tpu", "must be 'auto', 'cpu', 'cuda' or 'mps'")]),
        ("runtime.progress", [(True, "must be 'auto', 'bar', 'lines' or 'none'")]),
    ],
)  # fmt: skip
def test_a_wrong_value(params: dict[str, Any], key: str, cases: list[tuple[Any, str]]) -> None:
    """An item of a list is set at its place, of a list that is valid otherwise."""
    name, _, position = key.removesuffix("]").partition("[")
    for value, rule in cases:
        written = value
        if position:
            written = {"models.yac.seeds": [0], "split.ratios": [8, 1, 1]}[name].copy()
            written[int(position)] = value
        set_key(params, name, written)
        sentence = problem(params)
        assert sentence.startswith(f"params.yaml: {key} {rule}")
        assert sentence.endswith(f", got {value!r}")


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("train.lrr", "train has loss, lr, epochs, "),
        ("train.seed", "train has loss, "),
        ("prepare.top_label", "prepare has data_folder, subsets, clip_seconds, "),
        ("split.fold", "split has method, ratios, folds, "),
        ("convert.subset", "convert has subsets"),
        ("download.from", "download has source, sha256"),
        ("evaluate.resample", "evaluate has resamples, seed"),
        ("compare.publish", "compare has "),
        ("runtime.workers", "runtime has device, progress"),
        ("task.metric", "task has type, metrics, report_metrics, features"),
        ("models.yac.archi", "models.yac has architecture, network, "),
        ("models.yac.network.hidden", "models.yac.network has head"),
        ("models.yac.train.lrr", "models.yac.train has loss, lr, epochs, "),
        ("students.yac_distilled.teachers", "students.yac_distilled has architecture, "),
    ],
)
def test_an_unknown_key(params: dict[str, Any], key: str, known: str) -> None:
    set_key(params, key, 1)
    assert problem(params).startswith(f"params.yaml: {key} is unknown; {known}")


def test_a_missing_ratio(params: dict[str, Any]) -> None:
    params["split"]["ratios"] = [8, 2]
    assert problem(params) == "params.yaml: split.ratios[2] is missing"


def test_an_unknown_section(params: dict[str, Any]) -> None:
    params["trian"] = 1
    known = "the sections are root, folder, in, task, download, convert, prepare, "
    assert problem(params).startswith(f"params.yaml: section trian is unknown; {known}")


@pytest.mark.parametrize(
    "key",
    ["train.lr", "train.loss", "train.epochs", "train.batch_size", "models.yac.architecture",
     "models.attention.network.layers", "task.type", "task.metrics", "split.method",
     "convert.subsets", "compare.plot", "evaluate.seed", "students.yac_distilled.teacher",
     "ensembles.three_architectures.members"],
)  # fmt: skip
def test_a_missing_key(params: dict[str, Any], key: str) -> None:
    *path, last = key.split(".")
    inner = params
    for part in path:
        inner = inner[part]
    del inner[last]
    assert problem(params) == f"params.yaml: {key} is missing"


@pytest.mark.parametrize("section", ["task", "train"])
def test_a_missing_section(params: dict[str, Any], section: str) -> None:
    del params[section]
    assert problem(params) == f"params.yaml: section {section} is missing"


def test_runtime_and_other_settings_of_a_training_have_defaults(params: dict[str, Any]) -> None:
    params.pop("runtime", None)
    stated = ("loss", "lr", "epochs", "batch_size")
    params["train"] = {key: params["train"][key] for key in stated}
    write(params)
    runtime = Params.read(PARAMS).runtime()
    assert (runtime.device, runtime.progress) == ("auto", "auto")
    settings = train_settings("yac")
    assert settings.model_dump(exclude={*stated, "augment"}) == {
        "optimizer": "adam", "weight_decay": 0, "schedule": "one_cycle", "warmup": 0.05,
        "decay": 0.85, "decay_after": 5, "first_phase": None, "sampling": "uniform",
        "mixup_prob": 0, "mixup_alpha": 1, "weight_averaging": "none", "ema_decay": 0.999,
        "swa_epochs": 3, "restore": "best", "save_last_epochs": 0, "precision": "float32",
        "target_precision": 0.8,
    }  # fmt: skip
    assert settings.loss.name == "msml"


def test_numbers_as_text_are_numbers(params: dict[str, Any]) -> None:
    # What `dvc exp run -S train.lr=0.00001` writes, and YAML 1.1 reads as text.
    params["train"] |= {"lr": "1e-05", "loss": {"name": "focal", "gamma": "1e-05"}}
    write(params)
    settings = train_settings("yac")
    assert (settings.lr, settings.loss) == (1e-5, Focal(gamma=1e-5))


def test_a_models_own_loss_replaces_the_shared_one(params: dict[str, Any]) -> None:
    params["models"]["yac"]["train"] = {"loss": {"name": "focal", "gamma": 1}}
    write(params)
    assert train_settings("yac").loss == Focal(gamma=1)
    assert train_settings("attention").loss.name == "msml"
    params["models"]["yac"]["train"] = {"loss": {"name": "focal", "gamma": -1}}
    assert problem(params) == (
        "params.yaml: models.yac.train.loss.gamma must be greater than or equal to 0, got -1"
    )


def test_unknown_metrics(params: dict[str, Any]) -> None:
    task = params["task"]
    ndcg, unknown = {"name": "ndcg"}, {"name": "ndgc"}
    for key, metrics in (("metrics", [unknown]), ("report_metrics", [ndcg, unknown])):
        others = {"metrics": [{"name": "precision", "k": 1}], "report_metrics": []}
        params["task"] = task | others | {key: metrics}
        sentence = problem(params)
        known = "the metrics are accuracy, any_label, "
        assert sentence.startswith(
            f"params.yaml: task.{key} has the unknown metric 'ndgc'; {known}"
        )


def test_repeated_metrics(params: dict[str, Any]) -> None:
    params["task"]["report_metrics"] = [{"name": "ndcg"}]
    assert "task must name each metric once: ndcg is repeated" in problem(params)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "two words", "a.b", "-x", "", "é", 1])
def test_a_name_that_is_not_valid_for_a_file(params: dict[str, Any], name: Any) -> None:
    params["models"][name] = params["models"]["yac"]
    sentence = problem(params)
    assert sentence.startswith("params.yaml: names in models must be text of letters, digits, ")
    assert sentence.endswith(f", got {name!r}")


def test_names_that_are_taken(params: dict[str, Any]) -> None:
    params["ensembles"]["yac"] = {"members": ["yac", "attention"]}
    assert "the name 'yac' is in both models and ensembles; rename" in problem(params)
    del params["ensembles"]["yac"]
    # No file of metrics/ or evaluation/ is in the way of an entry's name.
    params["models"]["data"] = params["models"]["timing"] = params["models"]["yac"]
    write(params)
    check_all()


@pytest.mark.parametrize("models", [[], None, 5, "yac", [{"yac": 1}], {}])
def test_models_that_are_not_valid(params: dict[str, Any], models: Any) -> None:
    params["models"] = models
    rule = "at least one entry" if models == {} else f"a mapping of names, got {models!r}"
    assert problem(params) == f"params.yaml: models must {'have' if models == {} else 'be'} {rule}"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "params.yaml does not exist in "),
        (b"train: [1", "params.yaml is not valid YAML: "),
        (b"\xff\xfe", "params.yaml is not valid YAML: "),
        (b"", "params.yaml must be a mapping of sections, got None"),
        (b"- 1", "params.yaml must be a mapping of sections, got [1]"),
    ],
)
def test_a_file_that_is_not_valid(
    params: dict[str, Any], content: bytes | None, sentence: str
) -> None:
    if content is not None:
        PARAMS.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Params.read(PARAMS)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
