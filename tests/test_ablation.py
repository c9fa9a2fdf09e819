"""The ablation: what is trained, that it is the same however it runs, and what the page says."""

import copy
import functools
import math
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

from ablation import report, run
from ablation.differences import Difference, paired_difference
from ablation.methods import train_settings
from ablation.picture import differences_chart, draw
from ablation.processes import run_all
from ablation.settings import RESULTS, Ablation, Method, load_ablation
from tagging.dataset import Split, split_path, write_split
from tagging.errors import UserError
from tagging.files import write_text
from tagging.labels import Label
from tagging.resume import load_state
from tagging.tables import read_rows, to_csv
from tests import tasks
from tests.project import ROOT, Project

PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
MODELS = {
    "yac": {"architecture": "yac", "network": {"head": "logits"}},
    "attention": {
        "architecture": "attention",
        "network": {"hidden": 8, "layers": 1, "dropout": 0.3, "pooling": "decision"},
        "train": {"lr": 0.003, "epochs": 5, "loss": "bce", "batch_size": 4},
    },
}
METHODS = {
    "none": {},
    "focal": {"train": {"loss": "focal", "lr": 0.001}},
    "no_dropout": {"network": {"dropout": 0}},
}


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A folder with a small params.yaml; its content, and a function that writes it anew."""
    monkeypatch.chdir(tmp_path)
    content = copy.deepcopy(
        {name: PARAMS[name] for name in ("train", "run")}
        | {"models": MODELS, "students": {}}
        | {
            "ablation": {
                "models": ["yac", "attention"],
                "seeds": [0, 1],
                "epochs": 2,
                "methods": METHODS,
            }
        }
    )

    def write():
        Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    write()
    return content, write


@pytest.fixture
def prepared(params):
    """.. and prepared splits of random clips."""
    rng = np.random.default_rng(0)
    names = [Label(k, f"/m/{k}", f"label {k}") for k in range(5)]
    for split, clips in (("train", 34), ("val", 21), ("test", 18)):
        labels = (rng.random((clips, 5)) < 0.3).astype(np.uint8)
        labels[:, 0] |= ~labels.any(axis=1)
        embeddings = rng.integers(0, 256, (clips, 10, 128), np.uint8)
        ids = rng.integers(65, 90, (clips, 11), np.uint8)
        frames = np.full(clips, 10, np.uint8)
        write_split(split_path(split), Split(embeddings, frames, labels, ids, names))
    return params


def trainings(model: str, method: str) -> list[run.Training]:
    return run.trainings(model, method, load_ablation(), "cpu")


# What is trained


def test_settings_are_merged_from_the_general_to_the_special(params):
    settings = train_settings("attention", "focal", load_ablation(), seed=7)
    shared = PARAMS["train"]
    expected = {
        "batch_size": 4,  # the model's own, over 64 of `train`
        "epochs": 2,  # the ablation's, over the model's 5
        "loss": "focal",  # the method's, over the model's `bce`
        "lr": 0.001,  # the method's, over the model's 0.003
        "seed": 7,
        "optimizer": shared["optimizer"],
    }
    assert settings.model_dump() == {**shared, **expected}
    assert train_settings("attention", "none", load_ablation(), seed=0).lr == 0.003
    assert train_settings("yac", "none", load_ablation(), seed=0).lr == shared["lr"]


def test_one_training_a_seed(params):
    assert [one.train.seed for one in trainings("yac", "focal")] == [0, 1]
    assert [one.model.network for one in trainings("attention", "no_dropout")] == [
        {"hidden": 8, "layers": 1, "dropout": 0, "pooling": "decision"}
    ] * 2


def test_a_method_is_left_out_where_the_model_has_no_such_setting(params):
    assert trainings("yac", "no_dropout") == []
    assert len(trainings("attention", "no_dropout")) == 2


def test_the_section_of_this_project_is_taken(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(yaml, "safe_load", functools.cache(yaml.safe_load))  # it is read often
    ablation = load_ablation()
    assert len({*ablation.methods}) == len(ablation.methods) > 10
    for model in ablation.models:
        for method in ablation.methods:
            wanted = 0 if model == "yac" and "dropout" in method else len(ablation.seeds)
            assert len(run.trainings(model, method, ablation, "cpu")) == wanted


def section(**values):
    return lambda content: content["ablation"].update(values)


def methods(**values):
    return lambda content: content["ablation"]["methods"].update(values)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (section(models=["yac", "yak"]), "ablation.models has 'yak'; the models are yac, attent"),
        (section(models=["yac", "yac"]), "it takes a list of names of models, each once"),
        (section(seeds=[0, 0]), "it takes a list of whole numbers of 0 or more, each once"),
        (section(seeds=[]), "it takes a list of whole numbers of 0 or more"),
        (section(epochs=0), "ablation.epochs is 0; it takes a whole number of 1 or more"),
        (section(methods={"focal": {}}), "ablation.methods lacks none: {}"),
        (section(repeats=3), "ablation.repeats is unknown; ablation takes models, seeds, epochs"),
        (methods(none={"train": {"lr": 1}}), "ablation.methods lacks none: {}"),
        (methods(focal={"lr": 1}), "ablation.methods.focal.lr is unknown; ablation.methods.focal"),
        (methods(focal=["ce"]), "ablation.methods.focal is ['ce']; it takes a mapping of train"),
        (methods(**{"a/b": {}}), "ablation.methods has the name 'a/b'"),
        (methods(focal={"train": {"lsos": "ce"}}), "ablation.methods.focal.train.lsos is unknown"),
        (methods(focal={"train": {"loss": "x"}}), "ablation.methods.focal.train.loss is 'x'"),
        (methods(focal={"train": {"epochs": 9}}), "focal.train.epochs is not for a method to set"),
        (methods(focal={"train": {"seed": 9}}), "focal.train.seed is not for a method to set"),
        (
            methods(focal={"network": {"dropuot": 0}}),
            "ablation.methods.focal.network has settings that no model of ablation.models has",
        ),
    ],
)
def test_a_wrong_section_is_refused_in_one_sentence(params, change, sentence):
    content, write = params
    change(content)
    write()
    with pytest.raises(UserError) as refused:
        trainings("yac", "focal")
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("lstm", "none"), "ablation.models has no 'lstm'; it has yac, attention"),
        (("yac", "mixup"), "ablation.methods has no 'mixup'; it has none, focal, no_dropout"),
    ],
)
def test_an_unknown_model_or_method_is_refused(params, names, sentence):
    with pytest.raises(UserError, match=sentence):
        trainings(*names)


def test_a_value_that_the_network_refuses_is_named_with_its_method(prepared):
    content, write = prepared
    content["ablation"]["methods"]["no_dropout"]["network"]["dropout"] = 2
    write()
    with pytest.raises(UserError, match=r"attention with no_dropout, seed 0: .*dropout is 2; it"):
        run.train_one(trainings("attention", "no_dropout")[0])


def test_an_architecture_that_is_no_dep_is_refused(monkeypatch):
    monkeypatch.chdir(ROOT)
    run.require_dep("yac")
    with pytest.raises(UserError, match=r"ablation/dvc.yaml: the deps .*architectures/lstm.py"):
        run.require_dep("lstm")


# .. and that it is the same however it runs


def test_a_row_has_the_scores_of_the_weights_kept(prepared):
    training = trainings("attention", "focal")[1]
    row = dict(zip(run.HEADER, run.train_one(training), strict=True))
    assert (row["model"], row["method"], row["seed"]) == ("attention", "focal", 1)
    # 128 x 2 and 8 x 2 of batch norm; 128 x 8 + 8; twice 8 x 5 + 5.
    assert row["parameters"] == 256 + 16 + 1032 + 90
    state = run.state_of(training, torch.device("cpu"))
    history = load_state(state)[1]["history"]  # of each epoch: loss, NDCG, precision at 1
    best = max(history, key=lambda epoch: epoch[1])
    assert [row["val_ndcg"], row["val_precision_at_1"]] == best[1:]
    assert all(0 < row[name] <= 1 for name in run.HEADER[3:-1])


class Killed(Exception):
    pass


def test_a_resumed_training_gives_the_row_of_an_uninterrupted_one(prepared):
    training = trainings("attention", "focal")[0]
    torch.manual_seed(123)  # results come from the training's seed, not from what ran before
    whole = run.train_one(training)
    (state,) = Path(".resume").glob("ablation-attention-focal-0-*")
    state.unlink()

    def die():
        raise Killed

    with pytest.raises(Killed):
        run.train_one(training, die)
    assert state.exists()
    told = []
    assert run.train_one(training, lambda: told.append(state.stat().st_ino)) == whole
    # Both epochs are told of; the state was replaced after the second alone.
    assert len(told) == 2 == len(set(told))


def test_a_changed_setting_starts_anew_and_removes_the_old_state(prepared):
    content, write = prepared
    run.train_one(trainings("yac", "none")[0])
    (old,) = Path(".resume").iterdir()
    content["train"]["lr"] = 0.02
    write()
    run.train_one(trainings("yac", "none")[0])
    (new,) = Path(".resume").iterdir()
    assert new.name != old.name


def test_results_do_not_depend_on_what_runs_beside_nor_in_which_process(prepared):
    todo = [*trainings("yac", "none"), *trainings("attention", "none")][1:3]
    told = []
    apart = run_all(run.train_one, todo, 2, lambda: told.append(1))
    assert len(told) == 2 * 2
    assert [row[:3] for row in apart] == [["yac", "none", 1], ["attention", "none", 0]]
    for state in Path(".resume").iterdir():
        state.unlink()
    assert [run.train_one(one) for one in todo] == apart


def test_answers_come_in_the_order_of_the_tasks():
    told = []
    for processes in (1, 2):
        names = ["one", "two", "three"]
        answers = run_all(tasks.answer, names, processes, lambda: told.append(1))
        assert answers == ["ONE", "TWO", "THREE"]
    assert len(told) == 2 * 3


def test_no_task_is_no_answer():
    assert run_all(tasks.answer, [], 2, lambda: None) == []


@pytest.mark.parametrize(
    ("failing", "error", "sentence"),
    [
        ("refuse", UserError, "this is refused"),
        ("full disk", OSError, "No space left on device"),
        ("die", UserError, "the process of die died with exit code -9; .* run again"),
    ],
)
def test_one_failure_ends_all(failing, error, sentence):
    with pytest.raises(error, match=sentence):
        run_all(tasks.answer, ["for ever", failing], 2, lambda: None)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="takes Linux's /proc")
def test_tasks_end_when_their_parent_is_killed(tmp_path):
    file = tmp_path / "process"
    parent = multiprocessing.get_context("spawn").Process(target=tasks.parent, args=(str(file),))
    parent.start()
    while not (file.exists() and file.read_text()):
        assert parent.is_alive()
        time.sleep(0.01)
    task = int(file.read_text())
    assert tasks.is_running(task)
    parent.kill()
    parent.join()
    while tasks.is_running(task):
        time.sleep(0.01)


# What the page says


def test_the_interval_is_students():
    new, old = [0.95, 0.97, 0.94], [0.94, 0.94, 0.93]
    difference = paired_difference(new, old)
    # Differences 0.01, 0.03, 0.01: mean 0.05 / 3, variance 4/3 e-4; t(0.975, 2) = 4.302653.
    reach = 4.302653 * math.sqrt(4e-4 / 3) / math.sqrt(3)
    assert difference.mean == pytest.approx(0.05 / 3)
    assert difference.interval == pytest.approx((0.05 / 3 - reach, 0.05 / 3 + reach), abs=1e-8)
    reference = stats.ttest_rel(new, old).confidence_interval(0.95)
    assert difference.interval == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize(
    ("new", "old", "verdict"),
    [
        ([0.95, 0.96, 0.97], [0.93, 0.941, 0.949], "gain"),
        ([0.93, 0.941, 0.949], [0.95, 0.96, 0.97], "loss"),
        # The same means, other pairs: nothing is shown.
        ([0.95, 0.96, 0.97], [0.949, 0.941, 0.93], "none"),
        ([0.95, 0.93, 0.97], [0.93, 0.97, 0.92], "none"),
        ([0.95, 0.96, 0.97], [0.95, 0.96, 0.97], "none"),
        ([0.97], [0.9], "unknown"),
    ],
)
def test_verdicts(new, old, verdict):
    assert paired_difference(new, old).verdict == verdict


def ablation(seeds: int) -> Ablation:
    return Ablation(
        models=["yac", "attention"],
        seeds=list(range(seeds)),
        epochs=2,
        methods={
            "none": {},
            "focal": {"train": {"loss": "focal"}},
            "ema": {"train": {"average": "ema", "ema_decay": 0.9}},
            "no_dropout": {"network": {"dropout": 0}},
        },
    )


# Validation NDCG a seed. Other scores: as much higher by 0.01, 0.02, ..
NDCG = {
    ("yac", "none"): [0.90, 0.91, 0.92],
    ("yac", "focal"): [0.91, 0.92, 0.931],  # a gain
    ("yac", "ema"): [0.93, 0.91, 0.90],  # neither
    ("attention", "none"): [0.94, 0.95, 0.93],
    ("attention", "focal"): [0.93, 0.94, 0.92],  # a loss of exactly 0.01
    ("attention", "ema"): [0.94, 0.95, 0.93],  # the same
    ("attention", "no_dropout"): [0.96, 0.97, 0.9501],  # a gain
}


def write_tables(ablation: Ablation) -> None:
    for model in ablation.models:
        for method in ablation.methods:
            values = NDCG.get((model, method), [])[: len(ablation.seeds)]
            rows = [
                [model, method, seed, *(value + k / 100 for k in range(6)), 1234]
                for seed, value in zip(ablation.seeds, values, strict=False)
            ]
            # Rows in any order: they are paired by seed.
            path = RESULTS / model / f"{method}.csv"
            write_text(path, to_csv(run.HEADER, rows if method == "none" else rows[::-1]))


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A function that writes hand-made results of some seeds, and returns the page's text."""
    monkeypatch.chdir(tmp_path)

    def page(seeds: int) -> str:
        settings = ablation(seeds)
        write_tables(settings)
        return report.page(settings, report.read_results(settings))

    return page


def test_the_page_calls_gains_and_losses_and_what_is_neither(tables):
    text = tables(3)
    assert (
        "- **Gains**: focal on yac (+0.0103), no_dropout on attention (+0.0200).\n"
        "- **Losses**: focal on attention (-0.0100).\n"
        "- **No difference that three seeds show**: 2 of 5.\n"
    ) in text
    assert (
        "- **focal** (`loss: focal`): a gain on yac (+0.0103); a loss on attention (-0.0100).\n"
        "- **ema** (`average: ema`, `ema_decay: 0.9`): no difference that three seeds show on yac "
        "(+0.0033) and attention (+0.0000).\n"
        "- **no_dropout** (`dropout: 0`): a gain on attention (+0.0200); not for yac: no such "
        "setting.\n"
    ) in text
    # (2 + 3 comparisons) / 20; seven cells of three seeds.
    assert "0.25 of 5 intervals" in text
    assert "Every training (21 of them) has two epochs" in text


def test_the_tables_show_means_spreads_and_differences(tables):
    lines = tables(3).splitlines()
    focal = [line for line in lines if line.startswith("| focal |")]
    # Mean 0.92033, standard deviation 0.01050; the difference 0.01, 0.01, 0.011 by hand:
    # 0.010333 ± 4.302653 * 0.00057735 / sqrt(3) = 0.001434.
    assert focal[0] == (
        "| focal | gain | 0.9203 ± 0.0105 | +0.0103 (+0.0089 to +0.0118) "
        "| 0.9503 ± 0.0105 | +0.0103 (+0.0089 to +0.0118) "
        "| 0.9603 ± 0.0105 | +0.0103 (+0.0089 to +0.0118) |"
    )
    assert "| loss | 0.9300 ± 0.0100 | -0.0100 (-0.0100 to -0.0100) |" in focal[1]
    none = [line for line in lines if line.startswith("| none |")]
    assert none[0] == "| none |  | 0.9100 ± 0.0100 |  | 0.9400 ± 0.0100 |  | 0.9500 ± 0.0100 |  |"
    dropout = [line for line in lines if line.startswith("| no_dropout |")]
    assert dropout[0] == "| no_dropout | – | – | – | – | – | – | – |"
    assert "### yac, 1,234 parameters" in lines


def test_one_seed_shows_neither_gain_nor_loss(tables):
    text = tables(1)
    assert "**Gains**" not in text and "**Losses**" not in text
    assert "One seed was trained" in text
    assert "one seed, which shows no spread, on yac (+0.0100) and attention (-0.0100)." in text
    assert "| focal | one seed | 0.9100 | +0.0100 |" in text
    assert "±" not in text.partition("### yac")[2]


def test_the_picture_has_a_dot_and_an_interval_for_each(tables):
    tables(3)
    judged = report.differences(report.read_results(ablation(3)), report.JUDGED)
    names = ["focal", "ema", "no_dropout"]
    rows = differences_chart(judged, names, "x")["data"]["values"]
    assert [(row["model"], row["method"]) for row in rows] == [
        ("yac", "focal"), ("yac", "ema"),
        ("attention", "focal"), ("attention", "ema"), ("attention", "no_dropout"),
    ]  # fmt: skip
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows)
    picture = draw(judged, names, "x")
    assert picture == draw(judged, names, "x")
    assert all(name in picture for name in [*names, "yac", "attention"])


def test_a_difference_without_interval_is_drawn_as_a_dot():
    (row,) = differences_chart({"yac": {"ema": Difference(0.1, None)}}, ["ema"], "x")["data"][
        "values"
    ]
    assert (row["low"], row["mean"], row["high"]) == (0.1, 0.1, 0.1)


def test_a_method_that_changes_nothing_says_so():
    assert report.described(Method()) == "changes nothing"


# The pipeline


def test_dvc_repro(project: Project):
    def repro() -> set[str]:
        return project.repro("ablation/dvc.yaml")

    params = project.params()
    params["ablation"] |= {"seeds": [0], "epochs": 1}
    params["ablation"]["methods"] = {"none": {}, "no_dropout": {"network": {"dropout": 0}}}
    project.write_params(params)
    stage = "ablation/dvc.yaml:run@{}-{}".format
    every = {stage(model, method) for model in ("yac", "attention")
             for method in ("none", "no_dropout")}  # fmt: skip
    page = "ablation/dvc.yaml:report"
    assert repro() == every | {page}
    results = project.root / RESULTS
    assert len(read_rows(results / "attention/no_dropout.csv")) == 1
    assert read_rows(results / "yac/no_dropout.csv") == []
    text = (project.root / report.PAGE).read_text()
    assert "Every training (3 of them) has one epoch" in text
    assert (project.root / report.PICTURE).read_text().startswith("<svg")
    assert repro() == set()
    assert project.repro() == set()  # no part of the project's own pipeline

    # Another model's entry, and another method, train nothing that was trained.
    params["models"]["attention"]["train"]["lr"] = 0.02
    params["ablation"]["methods"]["ema"] = {"train": {"average": "ema"}}
    project.write_params(params)
    assert repro() == {
        stage("attention", "none"), stage("attention", "no_dropout"),
        stage("yac", "ema"), stage("attention", "ema"), page,
    }  # fmt: skip

    params["ablation"]["methods"]["ema"]["train"]["average"] = "sum"
    project.write_params(params)
    output = project.fails("dvc", "repro", "ablation/dvc.yaml")
    assert "error: params.yaml: ablation.methods.ema.train.average is 'sum'; it takes" in output
