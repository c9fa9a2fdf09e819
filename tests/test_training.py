"""The training loop: every setting does what it says, and resumes to the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tagging import training
from tagging.architectures.yac import Network, Settings
from tagging.batches import Batch, mix, sample_order
from tagging.errors import UserError
from tagging.progress import Progress
from tagging.training import Clips, Train, train

SHARED = yaml.safe_load(Path("params.yaml").read_text())["train"] | {"epochs": 3, "batch_size": 8}
CHANGES = {
    "as shared": {},
    "focal": {"loss": "focal"},
    "bce": {"loss": "bce"},
    "ce": {"loss": "ce"},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1},
    "constant": {"schedule": "constant"},
    "cosine": {"schedule": "cosine"},
    "mixup": {"mixup_rate": 0.5},
    "balanced": {"sampling": "balanced"},
    "inverse_frequency": {"sampling": "inverse_frequency"},
    "ema": {"average": "ema", "ema_decay": 0.9},
    "average of epochs": {"average": "epochs", "average_epochs": 2},
    "last": {"keep": "last"},
}


class Killed(Exception):
    pass


def clips(number: int, seed: int) -> Clips:
    rng = np.random.default_rng(seed)
    labels = (rng.random((number, 10)) < 0.2).astype(np.float32)
    labels[:, 0] = 1
    embeddings = rng.integers(0, 256, (number, 10, 128), np.uint8)
    return Clips(torch.from_numpy(embeddings), torch.from_numpy(labels))


def run(folder, changes, on_epoch=lambda epoch: None):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Network(Settings(head="logits"), 10, 10)
    settings = Train(**(SHARED | changes))
    with Progress("train", None, "step", "none") as progress:
        return train(
            network, settings, clips(30, 1), clips(12, 2), folder / "state", progress, on_epoch
        )


@pytest.mark.parametrize("name", CHANGES)
def test_a_killed_training_ends_as_one_that_was_not(name, tmp_path):
    whole = run(tmp_path / "a", CHANGES[name])
    calls = []

    def die(epoch):
        calls.append(epoch)
        if len(calls) == 2:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "b", CHANGES[name], die)
    resumed = run(tmp_path / "b", CHANGES[name])
    assert resumed.history == whole.history
    assert resumed.weights.keys() == whole.weights.keys()
    for key, tensor in whole.weights.items():
        assert torch.equal(resumed.weights[key], tensor), key


def test_the_state_of_what_a_training_was_goes_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = tmp_path / "train"
    split.write_bytes(b"some clips")
    training.SCRATCH.mkdir()
    other = training.SCRATCH / f"yac_published-{'0' * 16}.safetensors"
    other.touch()
    seen = []
    for description, content in (("a", b"some"), ("b", b"some"), ("b", b"more"), ("a", b"some")):
        split.write_bytes(content)
        seen.append(training.state_path("yac", [description], [split]))
        seen[-1].touch()
        assert set(training.SCRATCH.iterdir()) == {other, seen[-1]}
    assert len(set(seen)) == 3  # settings and data decide
    assert seen[3] == seen[0]


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in ("bce", "last")])
def test_a_setting_changes_the_weights(name, tmp_path):
    base = run(tmp_path / "a", {"keep": "last"} | ({"lr": 0.02} if name == "as shared" else {}))
    changed = run(tmp_path / "b", {"keep": "last"} | CHANGES[name])
    assert any(not torch.equal(changed.weights[k], base.weights[k]) for k in base.weights)


def test_bce_is_msml(tmp_path):
    msml, bce = (run(tmp_path / loss, {"loss": loss, "epochs": 1}) for loss in ("msml", "bce"))
    assert bce.history[0].train_loss == pytest.approx(msml.history[0].train_loss, rel=1e-4)


def test_best_keeps_the_epoch_with_the_highest_validation_ndcg(tmp_path, monkeypatch):
    answers = iter([(0.5, 0.1), (0.9, 0.2), (0.7, 0.3)])
    monkeypatch.setattr(training, "validate", lambda network, clips: next(answers))
    after = []

    def on_epoch(epoch):
        tensors, _ = training.load_state(tmp_path / "state")
        after.append({k: v for k, v in tensors.items() if k.startswith("network/")})

    best = run(tmp_path, {"keep": "best"}, on_epoch)
    for key, tensor in best.weights.items():
        assert torch.equal(tensor, after[1][f"network/{key}"])


def test_the_average_of_epochs_is_their_mean(tmp_path):
    after = []

    def on_epoch(epoch):
        tensors, _ = training.load_state(tmp_path / "state")
        after.append(tensors["network/linear.weight"])

    changes = {"average": "epochs", "average_epochs": 2, "keep": "last"}
    trained = run(tmp_path, changes, on_epoch)
    expected = (after[1] + after[2]) / 2
    assert torch.allclose(trained.weights["linear.weight"], expected, atol=1e-7)


def test_cosine_rises_and_falls(tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    settings = Train(**(SHARED | {"schedule": "cosine", "warmup": 0.1, "epochs": 10}))
    schedule = training._schedule(optimizer, settings, steps=10)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert np.argmax(rates) == 10
    assert rates[10] == pytest.approx(1)
    assert rates[55] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] < 0.001


def test_samplers_count_labels_as_they_say():
    rng = np.random.default_rng(0)
    labels = np.zeros((4000, 4), np.uint8)  # one label a clip: frequencies are exact to compute
    labels[np.arange(4000), rng.choice(4, 4000, p=[0.9, 0.06, 0.03, 0.01])] = 1
    orders = {
        name: sample_order(labels, name, seed=0, epoch=3)
        for name in ("uniform", "balanced", "inverse_frequency")
    }
    assert all(len(order) == 4000 for order in orders.values())
    assert sorted(orders["uniform"]) == list(range(4000))
    # Balanced goes round the labels: each has exactly a quarter, each clip of it about as often.
    assert labels[orders["balanced"]].sum(axis=0).tolist() == [1000] * 4
    rare = np.flatnonzero(labels[:, 3])
    times = np.bincount(orders["balanced"], minlength=4000)[rare]
    assert times.max() - times.min() <= 1
    # Drawn with replacement: a quarter each, within five standard deviations.
    shares = labels[orders["inverse_frequency"]].mean(axis=0)
    assert np.abs(shares - 0.25).max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize("sampling", ["uniform", "balanced", "inverse_frequency"])
def test_orders_differ_by_epoch_and_seed_and_repeat(sampling):
    labels = np.eye(5, dtype=np.uint8)[np.arange(200) % 5]
    first = sample_order(labels, sampling, 0, 0)
    assert np.array_equal(first, sample_order(labels, sampling, 0, 0))
    assert not np.array_equal(first, sample_order(labels, sampling, 0, 1))
    assert not np.array_equal(first, sample_order(labels, sampling, 1, 0))


def test_mixup_mixes_embeddings_and_labels_alike():
    # A clip's embedding is its label's number everywhere: mixtures must agree.
    labels = torch.eye(8)
    x = torch.arange(8.0).view(8, 1, 1).expand(8, 10, 128)
    mixed_x, mixed_y, _ = mix(Batch(x, labels), 1, 1, np.random.default_rng(0))
    assert torch.allclose(mixed_x[:, 0, 0], mixed_y @ torch.arange(8.0), atol=1e-5)
    assert torch.allclose(mixed_y.sum(1), torch.ones(8))
    assert ((mixed_y > 0).sum(1) == 2).any()


def test_mixup_leaves_the_share_it_should():
    labels = torch.eye(1000)
    x = torch.zeros(1000, 1, 1)
    _, mixed, _ = mix(Batch(x, labels), 0.3, 10, np.random.default_rng(1))
    assert 0.25 < (mixed.diagonal() < 1).float().mean() < 0.35


def test_a_training_that_diverges_says_so(tmp_path):
    with pytest.raises(UserError, match=r"diverged.*lower train\.lr"):
        run(tmp_path, {"lr": 1e30, "schedule": "constant"})
