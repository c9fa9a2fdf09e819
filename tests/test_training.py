"""The training loop: every setting does what it says, and resumes to the same weights."""

import importlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from stages import evaluate
from stages import train as stage
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.data.batches import Clips, to_clips
from tagging.data.clips import Features, read_features, read_index, write_features
from tagging.data.spec import InputSpec
from tagging.learning import loop, resume
from tagging.learning.loop import Outcome, Train, Validation, train
from tagging.learning.model import (
    Model,
    ModelSpec,
    answer,
    load_pretrained,
    build,
    load_network,
    log_odds,
    save_network,
    score,
)
from tagging.learning.thresholds import choose_thresholds
from tagging.networks import yac
from tagging.scoring.metric import load_metric
from tagging.scoring.metrics.ndcg import ndcg
from tests.archives import ROOT
from tests.generated import (
    ATTENTION,
    SPEC,
    YAC,
    audible,
    classes,
    make_repository,
    multi_hot,
    thirds,
    write_clips,
    write_params,
)
from tests.test_networks import FILES, SPECS_OF, settings_of

CPU = torch.device("cpu")
SHARED = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train"]
SHARED |= {"epochs": 3, "batch_size": 8}
CHANGES = {
    "as shared": {},
    "focal": {"loss": {"name": "focal", "gamma": 0.5}},
    "bce": {"loss": "bce"},
    "ce": {"loss": "ce"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "constant": {"schedule": "constant"},
    "cosine": {"schedule": "cosine"},
    "exponential": {"schedule": "exponential", "decay_after": 1},
    "mixup": {"mixup_rate": 0.5},
    "balanced": {"sampling": "balanced"},
    "inverse_frequency": {"sampling": "inverse_frequency"},
    "ema": {"average": "ema", "ema_decay": 0.9},
    "average of epochs": {"average": "epochs", "average_epochs": 2},
    "last": {"keep": "last"},
    "bfloat16": {"precision": "bfloat16"},
}


class Killed(Exception):
    pass


def clips(
    number: int, seed: int, spec: InputSpec = SPEC, labels: np.ndarray | None = None
) -> Clips:
    labels = multi_hot(number, 10, seed) if labels is None else labels
    values = audible(labels, spec, seed)
    features = Features(values, np.full(number, spec.frames), spec, {})
    return to_clips(features, labels, np.arange(number), CPU)


def run(
    folder: Path,
    changes: dict,
    on_epoch: Callable = lambda epoch: None,
    of: Clips | None = None,
    val: Clips | None = None,
    metric: str = "ndcg",
    network: torch.nn.Module | None = None,
) -> Outcome:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = network or yac.Network(yac.Settings(head="logits"), SPEC, 10)
    settings = Train(**(SHARED | changes))
    of, val = of or clips(30, 1), val or clips(12, 2)
    judge = Validation(val, load_metric(metric), settings.loss.activation)
    with Progress("train", None, "step", "none") as progress:
        return train(network, settings, 0, of, judge, folder / "state", progress, on_epoch)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# Settings


@pytest.mark.parametrize("name", CHANGES)
def test_a_killed_training_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "a", CHANGES[name])
    calls = []

    def die(epoch: loop.Epoch) -> None:
        calls.append(epoch)
        if len(calls) == 2:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "b", CHANGES[name], die)
    resumed = run(tmp_path / "b", CHANGES[name])
    assert resumed.history == whole.history
    assert same(resumed.weights, whole.weights)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(tmp_path_factory.mktemp("shared"), {"keep": "last"})


@pytest.mark.parametrize("name", [n for n in CHANGES if n not in ("as shared", "bce", "last")])
def test_a_setting_changes_the_weights(name: str, shared: Outcome, tmp_path: Path) -> None:
    assert not same(run(tmp_path, {"keep": "last"} | CHANGES[name]).weights, shared.weights)


def test_bce_is_msml(tmp_path: Path) -> None:
    msml, bce = (run(tmp_path / loss, {"loss": loss, "epochs": 1}) for loss in ("msml", "bce"))
    assert bce.history[0].train_loss == pytest.approx(msml.history[0].train_loss, rel=1e-4)


def test_bfloat16_rounds_and_learns_alike(shared: Outcome, tmp_path: Path) -> None:
    rounded = run(tmp_path, {"precision": "bfloat16"})
    assert {tensor.dtype for tensor in rounded.weights.values()} <= {torch.float32, torch.int64}
    losses = [[epoch.train_loss for epoch in of.history] for of in (rounded, shared)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def weights_after_epochs(folder: Path) -> tuple[list[dict], Callable]:
    """Return a list that fills with the weights after each epoch, and what fills it."""
    after: list[dict] = []

    def on_epoch(_: loop.Epoch) -> None:
        tensors, _ = resume.load_state(folder / "state")
        after.append(loop._under(tensors, "network"))

    return after, on_epoch


def test_best_keeps_the_epoch_that_validation_finds_best(tmp_path: Path, monkeypatch) -> None:
    values = iter([0.5, 0.9, 0.9])
    monkeypatch.setattr(Validation, "__call__", lambda *_: next(values))
    after, on_epoch = weights_after_epochs(tmp_path)
    best = run(tmp_path, {"keep": "best"}, on_epoch)
    assert same(best.weights, after[1])  # the first of equal ones


def test_a_validation_clip_without_a_label_does_not_stop_the_choice(tmp_path: Path) -> None:
    val = clips(12, 2)
    val.labels[5] = 0
    after, on_epoch = weights_after_epochs(tmp_path)
    trained = run(tmp_path, {"lr": 0.003, "schedule": "constant"}, on_epoch, val=val)
    values = [epoch.val for epoch in trained.history]
    assert np.isfinite(values).all()
    assert np.argmax(values) > 0, "the test takes a training whose first epoch is not the best"
    assert same(trained.weights, after[int(np.argmax(values))])


def test_validation_without_any_label_or_clip_is_one_sentence(tmp_path: Path) -> None:
    nothing = clips(12, 2)
    nothing.labels[:] = 0
    with pytest.raises(UserError, match="no clip of the validation split has a value of NDCG"):
        run(tmp_path / "a", {}, val=nothing)
    none = clips(0, 2)
    with pytest.raises(UserError, match=r"train\.keep is best, but no clip validates; it takes"):
        run(tmp_path / "b", {}, val=none)
    last = run(tmp_path / "c", {"keep": "last"}, val=none)
    assert [epoch.val for epoch in last.history] == [None] * 3


@pytest.mark.parametrize("val", [None, clips(0, 2)])
def test_a_training_that_diverges_says_so(tmp_path: Path, val: Clips | None) -> None:
    changes = {"lr": 1e30, "schedule": "constant", "keep": "last"}
    with pytest.raises(UserError, match=r"diverged.*lower train\.lr"):
        run(tmp_path, changes, val=val)


def test_the_average_of_epochs_is_their_mean(tmp_path: Path) -> None:
    after, on_epoch = weights_after_epochs(tmp_path)
    trained = run(tmp_path, {"average": "epochs", "average_epochs": 2, "keep": "last"}, on_epoch)
    expected = (after[1]["linear.weight"] + after[2]["linear.weight"]) / 2
    assert torch.allclose(trained.weights["linear.weight"], expected, atol=1e-7)


def rates(epochs: int, steps: int, **changes: object) -> np.ndarray:
    """Return the learning rate of every step, the highest being 1: (epochs, steps)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    settings = Train(**(SHARED | {"epochs": epochs} | changes))
    schedule = loop._schedule(optimizer, settings, steps)
    found = []
    for _ in range(epochs * steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.reshape(found, (epochs, steps))


def test_cosine_rises_and_falls() -> None:
    found = rates(10, 10, schedule="cosine", warmup=0.1).ravel()
    assert np.argmax(found) == 10
    assert found[10] == pytest.approx(1)
    assert found[55] == pytest.approx(0.5, abs=0.01)
    assert found[-1] < 0.001


def test_exponential_is_the_spectrogram_transformers() -> None:
    # Five epochs as they are, then 0.85 of the one before, all steps of an epoch alike.
    expected = [1] * 5 + [0.85**k for k in range(1, 21)]
    found = rates(25, 4, schedule="exponential")
    np.testing.assert_allclose(found, np.repeat(expected, 4).reshape(25, 4))
    assert rates(4, 2, schedule="exponential", decay=0.5, decay_after=0)[:, 0].tolist() == [
        0.5, 0.25, 0.125, 0.0625,
    ]  # fmt: skip


# Targets, checkpoints, state


def test_targets_are_learned_in_place_of_the_labels(tmp_path: Path) -> None:
    """With targets that are the labels reversed, the network learns the reverse."""
    of, changes = clips(30, 1), {"epochs": 12, "keep": "last"}
    found = []
    for place, targets in enumerate((None, 1 - of.labels.astype(np.float32))):
        trained = run(tmp_path / str(place), changes, of=of._replace(targets=targets))
        network = yac.Network(yac.Settings(head="logits"), SPEC, 10)
        network.load_state_dict(trained.weights)
        found.append(ndcg(of.labels, score(network, of).numpy()).mean())
    assert found[0] > 0.8 > 0.6 > found[1]


def test_checkpoints_are_the_last_epochs_weights_and_survive_the_file(tmp_path: Path) -> None:
    after, on_epoch = weights_after_epochs(tmp_path)
    trained = run(tmp_path, {"checkpoints": 2, "keep": "best", "average": "none"}, on_epoch)
    assert list(trained.checkpoints) == [2, 3]
    shape = ModelSpec(SPEC, classes(10), "sigmoid", {"name": "vggish"})
    model = Model(**YAC)
    save_network(tmp_path / "x", trained.weights, model, shape, trained.checkpoints)
    back = load_network(tmp_path / "x", CPU)
    assert back.shape == shape
    assert same(back.network.state_dict(), trained.weights)
    for epoch in (2, 3):
        assert same(back.checkpoints[epoch], after[epoch - 1])
    other = build(Model(**ATTENTION), SPEC, 10, "other")
    with pytest.raises(UserError, match=r"x is of another network: its? "):
        load_pretrained(other, tmp_path / "x")
    for change, problem in (
        ({"architecture": "gone"}, "gone"),
        ({"network": {"gone": 1}}, "head is missing"),
        ({"embedding": 3}, "size mismatch"),
        ({"embedding": "wide"}, "embedding"),
    ):
        save_network(tmp_path / "y", trained.weights, model.model_copy(update=change), shape)
        with pytest.raises(UserError, match=f"y is no trained network .*{problem}"):
            load_network(tmp_path / "y", CPU)
    for wrong in (
        shape._replace(spec=SPEC._replace(bins="wide")),
        shape._replace(activation="gelu"),
    ):
        save_network(tmp_path / "y", trained.weights, model, wrong)
        with pytest.raises(UserError, match="y is no trained network"):
            load_network(tmp_path / "y", CPU)
    cut_off, pickled = (tmp_path / "x").read_bytes()[:-9], pickle.dumps(trained.weights)
    for content in (cut_off, pickled):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UserError, match="x is no trained network"):
            load_network(tmp_path / "x", CPU)


def test_the_state_of_what_a_training_was_goes_and_no_other(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "train"
    data.write_bytes(b"some clips")
    resume.SCRATCH.mkdir()
    other = resume.SCRATCH / f"yac_published-{'0' * 16}.safetensors"
    other.touch()
    seen = []
    for description, content in (("a", b"some"), ("b", b"some"), ("b", b"more"), ("a", b"some")):
        data.write_bytes(content)
        seen.append(resume.state_path("yac", [description], [data]))
        seen[-1].touch()
        assert set(resume.SCRATCH.iterdir()) == {other, seen[-1]}
    assert len(set(seen)) == 3  # settings and data decide
    assert seen[3] == seen[0]


# Every network


@pytest.mark.parametrize("kind", ["multi_label", "single_label"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_every_network_trains_on_other_clips_for_both_kinds_of_task(
    name: str, kind: str, tmp_path: Path
) -> None:
    spec = SPECS_OF.get(name, [InputSpec(1, 10, 128), InputSpec(3, 24, 40)])[1]
    spec = spec._replace(scale=1 / 128, offset=-1)
    module = importlib.import_module(f"tagging.networks.{name}")
    dropout = {"dropout": 0.1} if "dropout" in module.Settings.model_fields else {}
    model = Model(architecture=name, network=dropout | settings_of(name)[0])
    torch.manual_seed(0)
    labels = np.eye(7, dtype=np.uint8)[np.arange(16) % 7]
    if kind == "multi_label":
        labels = multi_hot(16, 7)
    of = clips(16, 1, spec, labels)
    network = build(model, spec, 7, name)
    before = loop._copy(network)
    loss, metric = ("bce", "ndcg") if kind == "multi_label" else ("ce", "accuracy")
    changes = {"loss": loss, "epochs": 1, "mixup_rate": 0.5, "keep": "last"}
    trained = run(tmp_path, changes, of=of, val=of, metric=metric, network=network)
    assert np.isfinite(trained.history[0])[0].all()
    assert 0 <= trained.history[0].val <= 1
    changed = [k for k in before if not torch.equal(before[k], trained.weights[k])]
    assert len(changed) > len(before) / 2
    outputs = score(network, of)
    assert np.isfinite(log_odds(outputs, "softmax" if kind == "single_label" else "sigmoid")).all()


# The stages, on a small task


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data; runs are trained one after the other, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAGGING_WORKERS", "1")
    make_repository()
    write_clips(multi_hot(60, 4), [thirds(60)])
    return tmp_path


def trained_weights(name: str) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(Path(f"models/{name}").iterdir())}


def write_copy(number: int, values: np.ndarray) -> None:
    name = f"vggish/changed{number}"
    with write_features(name, (values.shape, np.uint8), SPEC, {"name": "vggish"}) as arrays:
        arrays[0][:] = values


def test_training_draws_from_copies_of_its_clips_and_nothing_else_does(task: Path) -> None:
    index = read_index()
    values = np.array(read_features("vggish").values)
    small = ATTENTION | {"train": {"augment": {"changed": 1}}}
    write_params(models={"small": small, "plain": ATTENTION})
    with pytest.raises(SystemExit, match=r"changed of small is 1.*vggish has no copies"):
        stage.main("small")
    for number in (1, 2):
        write_copy(number, values)
    stage.main("plain")
    stage.main("small")
    same_copies = trained_weights("small")
    assert same_copies == trained_weights("plain")
    write_copy(2, 255 - values)
    stage.main("small")  # its state is no longer taken
    other = trained_weights("small")
    assert other != same_copies
    stage.main("plain")
    assert trained_weights("plain") == same_copies
    # Those that test and validate are not read.
    values[index.folds[0].test] = 7
    values[index.folds[0].val] = 9
    write_copy(1, values)
    stage.main("small")
    assert trained_weights("small") == other


def test_clips_that_test_are_never_read_in_training(task: Path) -> None:
    attention = ATTENTION | {"seeds": [0, 3], "train": {"mixup_rate": 0.5, "sampling": "balanced"}}
    write_params(models={"small": attention})
    stage.main("small")
    first = trained_weights("small")
    assert list(first) == ["seed0", "seed3"]
    assert first["seed0"] != first["seed3"]
    index = read_index()
    for split, changes in (("test", False), ("train", True)):
        labels = index.labels.copy()
        values = np.array(read_features("vggish").values)
        places = getattr(index.folds[0], split)
        labels[places] = 1 - labels[places]
        values[places] = 255 - values[places]
        write_clips(labels, index.folds, values)
        stage.main("small")
        assert (trained_weights("small") != first) == changes


def test_a_finished_run_is_not_trained_again(task: Path, monkeypatch) -> None:
    write_params(models={"small": ATTENTION | {"seeds": [0]}})
    stage.main("small")
    first = trained_weights("small")
    write_params(models={"small": ATTENTION | {"seeds": [0, 1]}})
    trained = []
    real = loop._train_epoch
    monkeypatch.setattr(loop, "_train_epoch", lambda *a: trained.append(a[2]) or real(*a))
    stage.main("small")
    assert trained == [1, 1]  # two epochs of the new seed alone
    assert trained_weights("small")["seed0"] == first["seed0"]
    timing = json.loads(Path("metrics/timing/small.json").read_text())
    assert timing["epochs"] == 2
    # Nor for another precision from which on labels are sure.
    write_params(models={"small": ATTENTION | {"seeds": [0, 1], "train": {"sure": 0.3}}})
    stage.main("small")
    assert len(trained) == 2
    assert load_network(Path("models/small/seed0.safetensors"), CPU).promised == 0.3
    # But for another kind of task, of which validation judges embeddings.
    for epochs, kind in ((4, "multi_label"), (6, "similarity")):
        write_params(task={"kind": kind, "chooses": "recall_at_1"}, models={"small": ATTENTION})
        stage.main("small")
        assert len(trained) == epochs


@pytest.mark.parametrize(
    ("network", "loss", "probabilities"),
    [
        ({"head": "logits"}, "msml", torch.sigmoid),
        ({"head": "logits"}, "ce", lambda outputs: outputs.softmax(1)),
        # The head's outputs are probabilities already, whatever the loss.
        ({"head": "softmax"}, "msml", lambda outputs: outputs),
        ({"head": "softmax"}, "ce", lambda outputs: outputs),
    ],
)
def test_scores_are_log_odds_whatever_the_outputs_are(
    task: Path, network: dict, loss: str, probabilities: Callable
) -> None:
    own = {"loss": loss, "epochs": 1, "checkpoints": 1}
    write_params(models={"x": YAC | {"network": network, "train": own}})
    stage.main("x")
    evaluate.main("x")
    index = read_index()
    trained = load_network(Path("models/x/seed0.safetensors"), CPU)
    written = load_file("data/scores/models/x.safetensors")
    assert set(written) == {f"seed0/{part}{at}" for part in ("train", "val", "test")
                            for at in ("", "@1")}  # fmt: skip
    for part in ("train", "val", "test"):
        places = getattr(index.folds[0], part)
        of = to_clips(read_features("vggish"), index.labels, places, CPU)
        p = probabilities(score(trained.network, of)).double().numpy()
        np.testing.assert_allclose(
            written[f"seed0/{part}"], np.log(p / (1 - p)), rtol=1e-3, atol=1e-5
        )
        assert np.array_equal(written[f"seed0/{part}"], answer(trained, of))
    val = index.labels[index.folds[0].val]
    kept = choose_thresholds(val, written["seed0/val"], trained.promised).classes
    assert trained.promised == 0.8
    assert np.array_equal(
        trained.thresholds, np.array([of.threshold for of in kept], np.float32), equal_nan=True
    )
    metrics = json.loads(Path("metrics/x.json").read_text())
    assert metrics["test"]["sure"]["labels"] == np.isfinite(trained.thresholds).sum()
    labels = index.labels[index.folds[0].test]
    assert metrics["test"]["ndcg"] == pytest.approx(ndcg(labels, written["seed0/test"]).mean())


def test_clips_of_one_length_alone_are_a_sentence_wherever_the_short_one_is(task: Path) -> None:
    index, frames = read_index(), np.full(60, 10)
    frames[index.folds[0].val[0]] = 4
    write_clips(index.labels, index.folds, frames=frames)
    write_params(models={"yac": YAC, "small": ATTENTION})
    with pytest.raises(SystemExit, match=r"models\.yac: yac takes clips of one length only, but"):
        stage.main("yac")
    stage.main("small")
    evaluate.main("small")


def test_a_student_learns_from_its_teacher(task: Path) -> None:
    from stages import ensemble

    models = {"a": ATTENTION | {"seeds": [0, 1]}}
    pupil = YAC | {"teacher": "both", "label_weight": 0.1}
    ensembles = {"both": {"members": ["a"]}}
    write_params(
        models=models,
        ensembles=ensembles,
        students={"pupil": pupil, "alone": pupil | {"label_weight": 1}},
    )
    stage.main("a")
    evaluate.main("a")
    ensemble.main("both")
    for name in ("pupil", "alone"):
        stage.main(name)
        evaluate.main(name)
    (pupil,), (alone,) = trained_weights("pupil").values(), trained_weights("alone").values()
    assert pupil != alone
    write_params(models={"alone": YAC}, ensembles=ensembles)
    stage.main("alone")  # a student of the labels alone is no other than a model
    assert trained_weights("alone")["seed0"] == alone
