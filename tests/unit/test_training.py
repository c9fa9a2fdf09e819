"""Trainings: every setting has its effect, and interrupted ones resume to the same weights."""

import importlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from stages import ensemble, evaluate
from stages import train as stage
from tagging.base.errors import UserError
from tagging.data.clips import Features, Index, read_features, read_index, write_features
from tagging.data.spec import InputSpec
from tagging.data.task import MetricSettings
from tagging.data.task_folder import TaskFolder
from tagging.learning import model_file
from tagging.learning.calibration import fit_calibration
from tagging.learning.checkpoint import Checkpoint, checkpoint_path, file_digest
from tagging.learning.dataset import ClipDataset
from tagging.learning.factory import build_network, load_pretrained
from tagging.learning.inference import calibrate, log_odds, predict_logits, score
from tagging.learning.loader import BatchLoader
from tagging.learning.metric import load_metric
from tagging.learning.model import Model, ModelSpec
from tagging.learning.model_file import load_network, save_network
from tagging.learning.settings import Train
from tagging.learning.thresholds import choose_thresholds
from tagging.learning.trainer import (
    Epoch,
    Hooks,
    Trainer,
    TrainingResult,
    Validation,
    build_schedule,
    copy_weights,
    remove_prefix,
)
from tagging.networks import yac
from tagging.scoring.metrics.ndcg import ndcg
from tests.archives import ROOT
from tests.generated import (
    ATTENTION,
    SPEC,
    YAC,
    classes,
    example_fold,
    learnable_values,
    make_repository,
    multi_hot,
    write_clips,
    write_params,
)
from tests.small_networks import ARCHITECTURES, SPECIAL_SPECS, small_settings

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
    "mixup": {"mixup_prob": 0.5},
    "balanced": {"sampling": "balanced"},
    "inverse_frequency": {"sampling": "inverse_frequency"},
    "ema": {"weight_averaging": "ema", "ema_decay": 0.9},
    "swa": {"weight_averaging": "swa", "swa_epochs": 2},
    "last": {"restore": "last"},
    "bfloat16": {"precision": "bfloat16"},
    "saved": {"save_last_epochs": 2},
}


class Killed(Exception):
    pass


def clips(
    number: int, seed: int, spec: InputSpec = SPEC, labels: np.ndarray | None = None
) -> ClipDataset:
    labels = multi_hot(number, 10, seed) if labels is None else labels
    values = learnable_values(labels, spec, seed)
    features = Features(values, np.full(number, spec.frames), spec, {})
    return ClipDataset.select(features, labels, np.arange(number), CPU)


def run(
    folder: Path,
    changes: dict,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    dataset: ClipDataset | None = None,
    val: ClipDataset | None = None,
    metric: str = "ndcg",
    network: torch.nn.Module | None = None,
) -> TrainingResult:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = network or yac.Network(yac.Settings(head="logits"), SPEC, 10)
    settings = Train(**(SHARED | changes))
    dataset = clips(30, 1) if dataset is None else dataset
    val = clips(12, 2) if val is None else val
    activation = settings.loss.activation
    validation = Validation(val, load_metric(MetricSettings(name=metric)), activation)
    loader = BatchLoader(dataset, settings, 0)
    trainer = Trainer(network, settings, 0, loader, validation, Hooks(on_epoch=on_epoch))
    return trainer.fit(Checkpoint(folder / "state"))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# Settings


@pytest.mark.parametrize("name", CHANGES)
def test_an_interrupted_training_ends_as_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "a", CHANGES[name])
    calls = []

    def die(epoch: Epoch) -> None:
        calls.append(epoch)
        if len(calls) == 2:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "b", CHANGES[name], die)
    resumed = run(tmp_path / "b", CHANGES[name])
    assert resumed.history == whole.history
    assert same(resumed.weights, whole.weights)
    assert resumed.saved_epochs.keys() == whole.saved_epochs.keys()
    assert all(same(resumed.saved_epochs[k], whole.saved_epochs[k]) for k in whole.saved_epochs)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return run(tmp_path_factory.mktemp("shared"), {"restore": "last"})


@pytest.mark.parametrize(
    "name", [n for n in CHANGES if n not in ("as shared", "bce", "last", "saved")]
)
def test_a_setting_changes_the_weights(name: str, shared: TrainingResult, tmp_path: Path) -> None:
    assert not same(run(tmp_path, {"restore": "last"} | CHANGES[name]).weights, shared.weights)


def test_bce_is_msml(tmp_path: Path) -> None:
    msml, bce = (run(tmp_path / loss, {"loss": loss, "epochs": 1}) for loss in ("msml", "bce"))
    assert bce.history[0].train_loss == pytest.approx(msml.history[0].train_loss, rel=1e-4)


def test_bfloat16_rounds_and_learns_alike(shared: TrainingResult, tmp_path: Path) -> None:
    rounded = run(tmp_path, {"precision": "bfloat16"})
    assert {tensor.dtype for tensor in rounded.weights.values()} <= {torch.float32, torch.int64}
    losses = [[epoch.train_loss for epoch in result.history] for result in (rounded, shared)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def weights_after_epochs(folder: Path) -> tuple[list[dict], Callable]:
    """Return a list, and the hook that appends the weights after each epoch to it."""
    after: list[dict] = []

    def on_epoch(_: Epoch) -> None:
        tensors, _, _ = Checkpoint(folder / "state").load()
        after.append(remove_prefix("network", tensors))

    return after, on_epoch


def test_best_restores_the_best_epoch_on_validation(tmp_path: Path, monkeypatch) -> None:
    values = iter([0.5, 0.9, 0.9])
    monkeypatch.setattr(Validation, "__call__", lambda *_: next(values))
    after, on_epoch = weights_after_epochs(tmp_path)
    best = run(tmp_path, {"restore": "best"}, on_epoch)
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
    unlabelled = clips(12, 2)
    unlabelled.labels[:] = 0
    with pytest.raises(UserError, match="validation split must have clips with labels: NDCG is un"):
        run(tmp_path / "a", {}, val=unlabelled)
    none = clips(0, 2)
    with pytest.raises(UserError, match=r"train\.restore must be last, as no clip validates, got"):
        run(tmp_path / "b", {}, val=none)
    last = run(tmp_path / "c", {"restore": "last"}, val=none)
    assert [epoch.val for epoch in last.history] == [None] * 3


@pytest.mark.parametrize("val", [None, clips(0, 2)])
def test_a_training_that_diverges_says_so(tmp_path: Path, val: ClipDataset | None) -> None:
    changes = {"lr": 1e30, "schedule": "constant", "restore": "last"}
    with pytest.raises(UserError, match=r"diverged.*lower train\.lr"):
        run(tmp_path, changes, val=val)


def test_swa_is_the_mean_of_the_last_epochs(tmp_path: Path) -> None:
    after, on_epoch = weights_after_epochs(tmp_path)
    settings = {"weight_averaging": "swa", "swa_epochs": 2, "restore": "last"}
    trained = run(tmp_path, {**settings, "save_last_epochs": 2}, on_epoch)
    expected = (after[1]["linear.weight"] + after[2]["linear.weight"]) / 2
    assert torch.allclose(trained.weights["linear.weight"], expected, atol=1e-7)
    # The kept epochs are the ones whose mean it is, and averaging changes nothing in training.
    assert same(trained.saved_epochs[2], after[1])
    assert same(trained.saved_epochs[3], after[2])
    plain = run(tmp_path / "plain", {"restore": "last"})
    assert same(trained.saved_epochs[3], plain.weights)


def test_saved_epochs_of_a_moving_average_are_averages(tmp_path: Path) -> None:
    settings = {"weight_averaging": "ema", "ema_decay": 0.9, "restore": "last"}
    trained = run(tmp_path / "ema", {**settings, "save_last_epochs": 1})
    assert same(trained.saved_epochs[3], trained.weights)
    assert not same(trained.weights, run(tmp_path / "plain", {"restore": "last"}).weights)


def test_adamw_without_decay_is_adam(tmp_path: Path) -> None:
    """So a comparison of `adamw` with and without `weight_decay` changes the decay alone."""
    adam, adamw, decayed = (
        run(tmp_path / str(place), changes).weights
        for place, changes in enumerate(
            ({"optimizer": "adam"}, {"optimizer": "adamw"},
             {"optimizer": "adamw", "weight_decay": 0.1})
        )
    )  # fmt: skip
    assert same(adamw, adam)
    assert not same(decayed, adam)


def rates(epochs: int, steps: int, **changes: object) -> np.ndarray:
    """Return the learning rate of every step, at most 1: (epochs, steps)."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    settings = Train(**(SHARED | {"epochs": epochs} | changes))
    schedule = build_schedule(optimizer, settings, steps)
    values = []
    for _ in range(epochs * steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.reshape(values, (epochs, steps))


def test_cosine_rises_and_falls() -> None:
    values = rates(10, 10, schedule="cosine", warmup=0.1).ravel()
    assert np.argmax(values) == 10
    assert values[10] == pytest.approx(1)
    assert values[55] == pytest.approx(0.5, abs=0.01)
    assert values[-1] < 0.001


def test_exponential_is_the_spectrogram_transformers() -> None:
    # Five constant epochs, then 0.85 of the one before; constant within an epoch.
    expected = [1] * 5 + [0.85**k for k in range(1, 21)]
    values = rates(25, 4, schedule="exponential")
    np.testing.assert_allclose(values, np.repeat(expected, 4).reshape(25, 4))
    assert rates(4, 2, schedule="exponential", decay=0.5, decay_after=0)[:, 0].tolist() == [
        0.5, 0.25, 0.125, 0.0625,
    ]  # fmt: skip


def test_a_first_phase_has_a_rate_of_its_own() -> None:
    # Five epochs at a fifth of the rate, then the exponential schedule's.
    first = {"epochs": 5, "lr": 0.2}
    values = rates(8, 3, lr=1.0, schedule="exponential", first_phase=first)
    np.testing.assert_allclose(values[:5], 0.2)
    expected = [[0.85] * 3, [0.85**2] * 3, [0.85**3] * 3]
    np.testing.assert_allclose(values[5:], expected)
    values = rates(3, 2, lr=1.0, schedule="constant", first_phase={"epochs": 1, "lr": 0.5})
    assert values.tolist() == [[0.5] * 2, [1] * 2, [1] * 2]
    plain = rates(4, 5, lr=1.0, schedule="cosine")
    values = rates(4, 5, lr=1.0, schedule="cosine", first_phase={"epochs": 1, "lr": 0.1})
    assert np.array_equal(values[1:], plain[1:])
    with pytest.raises(UserError, match=r"first_phase must be left out with .* one_cycle, got 5 "):
        rates(8, 3, schedule="one_cycle", first_phase=first)


# Targets, files of models, checkpoints


def test_targets_are_learned_in_place_of_the_labels(tmp_path: Path) -> None:
    """With targets that are the labels reversed, the network learns the reverse."""
    dataset, changes = clips(30, 1), {"epochs": 12, "restore": "last"}
    values = []
    for place, targets in enumerate((None, 1 - dataset.labels.astype(np.float32))):
        taught = replace(dataset, targets=targets)
        trained = run(tmp_path / str(place), changes, dataset=taught)
        network = yac.Network(yac.Settings(head="logits"), SPEC, 10)
        network.load_state_dict(trained.weights)
        values.append(ndcg(dataset.labels, score(network, dataset).numpy()).mean())
    assert values[0] > 0.8 > 0.6 > values[1]


def test_saved_epochs_are_the_last_ones_and_survive_the_file(tmp_path: Path) -> None:
    after, on_epoch = weights_after_epochs(tmp_path)
    trained = run(tmp_path, {"save_last_epochs": 2, "restore": "best"}, on_epoch)
    assert list(trained.saved_epochs) == [2, 3]
    spec = ModelSpec(SPEC, classes(10), "sigmoid", {"name": "vggish"})
    model = Model(**YAC)
    save_network(tmp_path / "x", trained.weights, model, spec, trained.saved_epochs)
    back = load_network(tmp_path / "x", CPU)
    assert back.model_spec == spec
    assert same(back.network.state_dict(), trained.weights)
    for epoch in (2, 3):
        assert same(back.saved_epochs[epoch], after[epoch - 1])
    other = build_network(Model(**ATTENTION), SPEC, 10, "other")
    with pytest.raises(UserError, match=r"x is of another network: its? "):
        load_pretrained(other, tmp_path / "x")
    for change, problem in (
        ({"architecture": "gone"}, "y: model.architecture must be one of .*, got 'gone'"),
        ({"network": {"gone": 1}}, "y: model.network.head is missing"),
        ({"embedding_size": 3}, "y must be a trained network.*size mismatch"),
        ({"embedding_size": "wide"}, "y must be a trained network.*embedding_size"),
    ):
        save_network(tmp_path / "y", trained.weights, model.model_copy(update=change), spec)
        with pytest.raises(UserError, match=problem):
            load_network(tmp_path / "y", CPU)
    for wrong in (
        spec._replace(spec=SPEC._replace(bins="wide")),
        spec._replace(activation="gelu"),
    ):
        save_network(tmp_path / "y", trained.weights, model, wrong)
        with pytest.raises(UserError, match="y must be a trained network"):
            load_network(tmp_path / "y", CPU)
    cut_off, pickled = (tmp_path / "x").read_bytes()[:-9], pickle.dumps(trained.weights)
    for content in (cut_off, pickled):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UserError, match="x must be a trained network"):
            load_network(tmp_path / "x", CPU)


def test_a_file_of_another_format_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    network = yac.Network(yac.Settings(head="logits"), SPEC, 10)
    spec = ModelSpec(SPEC, classes(10), "sigmoid", {"name": "vggish"})
    for version, got in ((2, "format 2"), (None, "one without a format")):
        monkeypatch.setattr(model_file, "FORMAT", version)
        save_network(tmp_path / "x", network.state_dict(), Model(**YAC), spec)
        monkeypatch.undo()
        with pytest.raises(UserError, match=f"x must be a trained network of format 1, got {got}"):
            load_network(tmp_path / "x", CPU)


def test_an_outdated_checkpoint_of_a_training_is_removed_and_no_other(tmp_path: Path) -> None:
    data, folder = tmp_path / "train", tmp_path / "checkpoints"
    other = folder / f"yac_published-{'0' * 16}"
    Checkpoint(other).save({}, {}, {})
    paths = []
    for description, content in (("a", b"some"), ("b", b"some"), ("b", b"more.."), ("a", b"some")):
        data.write_bytes(content)
        paths.append(checkpoint_path(folder, "yac", [description], [file_digest(data)]))
        Checkpoint(paths[-1]).save({}, {}, {1: {}})
        assert set(folder.iterdir()) == {other, paths[-1]}
    assert len(set(paths)) == 3  # settings and data decide
    assert paths[3] == paths[0]


# Every network


@pytest.mark.parametrize("task_type", ["multi_label", "single_label"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_network_trains_on_other_clips_for_both_types_of_task(
    name: str, task_type: str, tmp_path: Path
) -> None:
    spec = SPECIAL_SPECS.get(name, [InputSpec(1, 10, 128), InputSpec(3, 24, 40)])[1]
    spec = spec._replace(scale=1 / 128, offset=-1)
    module = importlib.import_module(f"tagging.networks.{name}")
    dropout = {"dropout": 0.1} if "dropout" in module.Settings.model_fields else {}
    model = Model(architecture=name, network=dropout | small_settings(name)[0])
    torch.manual_seed(0)
    labels = np.eye(7, dtype=np.uint8)[np.arange(16) % 7]
    if task_type == "multi_label":
        labels = multi_hot(16, 7)
    dataset = clips(16, 1, spec, labels)
    network = build_network(model, spec, 7, name)
    before = copy_weights(network)
    loss, metric = ("bce", "ndcg") if task_type == "multi_label" else ("ce", "accuracy")
    changes = {"loss": loss, "epochs": 1, "mixup_prob": 0.5, "restore": "last"}
    trained = run(tmp_path, changes, dataset=dataset, val=dataset, metric=metric, network=network)
    assert np.isfinite(trained.history[0])[0].all()
    assert 0 <= trained.history[0].val <= 1
    changed = [k for k in before if not torch.equal(before[k], trained.weights[k])]
    assert len(changed) > len(before) / 2
    outputs = score(network, dataset)
    assert np.isfinite(
        log_odds(outputs, "softmax" if task_type == "single_label" else "sigmoid")
    ).all()


# The stages, on a small task

FOLDER = TaskFolder(Path())


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data; runs are trained one after the other, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAGGING_WORKERS", "1")
    make_repository()
    write_clips(multi_hot(60, 4), [example_fold(60)])
    return tmp_path


def train(name: str) -> None:
    stage.main(".", name)


def the_index() -> Index:
    return read_index(FOLDER.index)


def vggish() -> Features:
    return read_features(FOLDER.feature("vggish"))


def trained_weights(name: str) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(Path(f"models/{name}").iterdir())}


def write_copy(number: int, values: np.ndarray) -> None:
    folder = FOLDER.feature(f"vggish/augmented{number}")
    with write_features(folder, len(values), np.uint8, SPEC, {"name": "vggish"}) as arrays:
        arrays[0][:] = values


def test_training_draws_from_copies_of_its_clips_and_nothing_else_does(task: Path) -> None:
    index = the_index()
    values = np.array(vggish().values)
    small = ATTENTION | {"train": {"augment": {"copies_prob": 1}}}
    write_params(models={"small": small, "plain": ATTENTION})
    with pytest.raises(SystemExit, match=r"copies_prob must be 0 for a feature without augmented_"):
        train("small")
    for number in (1, 2):
        write_copy(number, values)
    train("plain")
    train("small")
    same_copies = trained_weights("small")
    assert same_copies == trained_weights("plain")
    write_copy(2, 255 - values)
    train("small")  # not resumed
    other = trained_weights("small")
    assert other != same_copies
    train("plain")
    assert trained_weights("plain") == same_copies
    # Copies of test and validation clips are not read.
    values[index.folds[0].test] = 7
    values[index.folds[0].val] = 9
    write_copy(1, values)
    train("small")
    assert trained_weights("small") == other


def test_test_clips_are_never_read_in_training(task: Path) -> None:
    attention = ATTENTION | {"seeds": [0, 3], "train": {"mixup_prob": 0.5, "sampling": "balanced"}}
    write_params(models={"small": attention})
    train("small")
    first = trained_weights("small")
    assert list(first) == ["seed0", "seed3"]
    assert first["seed0"] != first["seed3"]
    index = the_index()
    for split, changes in (("test", False), ("train", True)):
        labels = index.labels.copy()
        values = np.array(vggish().values)
        rows = getattr(index.folds[0], split)
        labels[rows] = 1 - labels[rows]
        values[rows] = 255 - values[rows]
        write_clips(labels, index.folds, values)
        train("small")
        assert (trained_weights("small") != first) == changes


def test_a_finished_run_is_not_trained_again(task: Path, monkeypatch) -> None:
    write_params(models={"small": ATTENTION | {"seeds": [0]}})
    train("small")
    first = trained_weights("small")
    write_params(models={"small": ATTENTION | {"seeds": [0, 1]}})
    seeds = []
    real = Trainer.train_epoch
    monkeypatch.setattr(
        Trainer, "train_epoch", lambda self, number: seeds.append(self.seed) or real(self, number)
    )
    train("small")
    assert seeds == [1, 1]  # two epochs of the new seed alone
    assert trained_weights("small")["seed0"] == first["seed0"]
    timing = json.loads(FOLDER.timing("small").read_text())
    assert timing["epochs"] == 2
    # Nor for another precision of the confidence thresholds.
    own = {"target_precision": 0.3}
    write_params(models={"small": ATTENTION | {"seeds": [0, 1], "train": own}})
    train("small")
    assert len(seeds) == 2
    assert load_network(FOLDER.model("small", "seed0"), CPU).target_precision == 0.3
    # But for another type of task, where validation compares embeddings.
    recall = [{"name": "recall", "k": 1}]
    for epochs, task_type in ((4, "multi_label"), (6, "similarity")):
        changes = {"type": task_type, "metrics": recall, "report_metrics": []}
        write_params(task=changes, models={"small": ATTENTION})
        train("small")
        assert len(seeds) == epochs


def test_each_data_file_is_hashed_once_for_all_runs(task: Path, monkeypatch) -> None:
    write_params(models={"small": ATTENTION | {"seeds": [0, 1, 2]}})
    hashed = []
    monkeypatch.setattr(stage, "file_digest", lambda path: hashed.append(path) or file_digest(path))
    train("small")
    assert len(hashed) == len(set(hashed)) == 4  # the index, and three files of the feature


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
    own = {"loss": loss, "epochs": 1, "save_last_epochs": 1}
    entry = YAC | {"network": network, "train": own, "score_train": True}
    write_params(models={"x": entry})
    train("x")
    evaluate.main(".", "x")
    index = the_index()
    trained = load_network(FOLDER.model("x", "seed0"), CPU)
    written = load_file(FOLDER.scores("models", "x"))
    assert set(written) == {f"seed0/{split}{at}" for split in ("train", "val", "test")
                            for at in ("", "@1")}  # fmt: skip
    for split in ("train", "val", "test"):
        rows = getattr(index.folds[0], split)
        dataset = ClipDataset.select(vggish(), index.labels, rows, CPU)
        p = probabilities(score(trained.network, dataset)).double().numpy()
        np.testing.assert_allclose(
            written[f"seed0/{split}"], np.log(p / (1 - p)), rtol=1e-3, atol=1e-5
        )
        assert np.array_equal(written[f"seed0/{split}"], predict_logits(trained, dataset))
    val = index.labels[index.folds[0].val]
    calibration = fit_calibration(val, written["seed0/val"], trained.model_spec.activation)
    assert calibration == trained.clips.calibration is not None
    scores = calibrate(written["seed0/val"], calibration)
    chosen = choose_thresholds(val, scores, trained.target_precision)
    assert trained.target_precision == 0.8
    assert np.array_equal(
        trained.clips.thresholds, np.array([label.threshold for label in chosen], np.float32),
        equal_nan=True,
    )  # fmt: skip
    evaluation = json.loads(FOLDER.evaluation("x").read_text())
    assert evaluation["test"]["confident"]["labels"] == np.isfinite(trained.clips.thresholds).sum()
    labels = index.labels[index.folds[0].test]
    assert evaluation["test"]["ndcg"] == pytest.approx(ndcg(labels, written["seed0/test"]).mean())


def test_a_network_of_one_length_refuses_a_shorter_clip_of_any_split(task: Path) -> None:
    index, frames = the_index(), np.full(60, 10)
    frames[index.folds[0].val[0]] = 4
    write_clips(index.labels, index.folds, frames=frames)
    write_params(models={"yac": YAC, "small": ATTENTION})
    with pytest.raises(
        SystemExit, match=r"models\.yac: clips must all have 10 frames for yac, but"
    ):
        train("yac")
    train("small")
    evaluate.main(".", "small")


def test_training_clips_are_scored_for_entries_that_ask(task: Path) -> None:
    """By default a teacher scores no training clips; its student names the setting to change."""
    write_params(
        models={"a": ATTENTION | {"seeds": [0, 1]}},
        ensembles={"both": {"members": ["a"]}},
        students={"pupil": YAC | {"teacher": "both", "hard_label_weight": 0.1}},
    )
    train("a")
    evaluate.main(".", "a")
    ensemble.main(".", "both")
    for path in (FOLDER.scores("models", "a"), FOLDER.scores("ensembles", "both")):
        assert not [name for name in load_file(path) if "/train" in name]
    with pytest.raises(SystemExit) as ended:
        train("pupil")
    assert "score_train: true" in str(ended.value)


def test_a_student_learns_from_its_teacher(task: Path) -> None:
    models = {"a": ATTENTION | {"seeds": [0, 1], "score_train": True}}
    pupil = YAC | {"teacher": "both", "hard_label_weight": 0.1}
    ensembles = {"both": {"members": ["a"]}}
    write_params(
        models=models,
        ensembles=ensembles,
        students={"pupil": pupil, "alone": pupil | {"hard_label_weight": 1}},
    )
    train("a")
    evaluate.main(".", "a")
    ensemble.main(".", "both")
    for name in ("pupil", "alone"):
        train(name)
        evaluate.main(".", name)
    (pupil,), (alone,) = trained_weights("pupil").values(), trained_weights("alone").values()
    assert pupil != alone
    write_params(models={"alone": YAC}, ensembles=ensembles)
    train("alone")  # a student of the labels alone is the model itself
    assert trained_weights("alone")["seed0"] == alone


def test_a_finetuned_model_starts_from_weights_of_its_own_run_or_of_a_file(task: Path) -> None:
    teacher = ATTENTION | {"seeds": [0, 1]}
    last = {"epochs": 1, "lr": 1e-9, "restore": "last"}
    tuned = {"seeds": [0, 1], "train": last} | ATTENTION
    write_params(
        models={"a": teacher},
        finetuned={
            "b": tuned | {"weights": "models/a"},
            "c": tuned | {"weights": "models/a/seed1.safetensors", "finetune": "head"},
            "gone": tuned | {"weights": "models/gone.safetensors"},
        },
    )
    for name in ("a", "b", "c"):
        train(name)
    evaluate.main(".", "c")
    assert FOLDER.scores("models", "c").exists()

    def layer(name: str, run: str) -> torch.Tensor:
        state = load_network(FOLDER.model(name, run), CPU).network.state_dict()
        return state["layers.0.linear.weight"]

    for run, source in (("seed0", "seed0"), ("seed1", "seed1")):
        torch.testing.assert_close(layer("b", run), layer("a", source), atol=1e-6, rtol=0)
        assert not torch.equal(layer("b", run), layer("a", source))
        assert torch.equal(layer("c", run), layer("a", "seed1"))
    with pytest.raises(SystemExit, match=r"models/gone\.safetensors is missing; run dvc repro"):
        train("gone")
