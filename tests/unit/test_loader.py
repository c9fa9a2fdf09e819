"""Datasets and loaders: the order of clips, what is read, augmented and mixed, and by whom."""

import numpy as np
import pytest
import torch

from tagging.base.errors import UserError
from tagging.data.clips import Features
from tagging.data.spec import InputSpec
from tagging.learning import distributed
from tagging.learning.dataset import Batch, ClipDataset
from tagging.learning.loader import (
    BatchLoader,
    BatchSampler,
    draw_copies,
    draw_mixup,
    mix_inputs,
    mix_targets,
)
from tagging.learning.sampling import (
    count_batches,
    draw_added_copies,
    sample_order,
    split_batches,
)
from tagging.learning.settings import Train
from tests.generated import multi_hot

CPU = torch.device("cpu")
SAMPLINGS = ("uniform", "balanced", "inverse_frequency")
NOISY = {
    "loss": "bce", "lr": 0.1, "epochs": 3, "batch_size": 7, "mixup_prob": 0.5,
    "augment": {"roll": 0.5, "gain": 0.3, "masks": {}, "copies_prob": 0.5},
}  # fmt: skip


def test_a_batch_is_the_input_of_networks() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 2, 4, 3), np.uint8)
    frames = np.array([4, 1, 3, 4, 2, 4])
    labels = multi_hot(6, 3)
    spec = InputSpec(2, 4, 3, scale=0.5, offset=-40, any_length=True)
    places = np.array([5, 4, 1, 0], np.int32)
    features = Features(values, frames, spec, {})
    batch = ClipDataset.select(features, labels, places, CPU).read(np.array([2, 0, 1]))
    assert batch.frames.tolist() == [1, 4, 2]
    assert batch.targets.dtype == torch.float32
    assert batch.targets.tolist() == labels[[1, 5, 4]].tolist()
    for x, place, length in zip(batch.x, (1, 5, 4), (1, 4, 2), strict=True):
        expected = values[place] * 0.5 - 40
        expected[:, length:] = 0  # not the offset
        assert np.array_equal(x.numpy(), expected)
    equal_lengths = features._replace(spec=spec._replace(any_length=False))
    assert ClipDataset.select(equal_lengths, labels, places, CPU).read([2]).frames is None
    targets = np.random.default_rng(1).random((4, 3), np.float32)
    taught = ClipDataset.select(features, labels, places, CPU, targets)
    assert np.array_equal(taught.read([2, 0]).targets.numpy(), targets[[2, 0]])
    assert taught.labels.tolist() == labels[places].tolist()


# Order


def test_an_epoch_has_each_clip_once_but_no_batch_of_one() -> None:
    for clips, sizes in ((20, [8, 8, 4]), (17, [8, 8]), (16, [8, 8])):
        order = sample_order(np.ones((clips, 1), np.uint8), "uniform", seed=0, epoch=1)
        batches = split_batches(order, 8)
        assert [len(batch) for batch in batches] == sizes
        assert len(set(np.concatenate(batches))) == sum(sizes)
        assert count_batches(clips, 8) == len(sizes)


def test_samplers_count_labels_as_documented() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((4000, 4), np.uint8)  # one label a clip: expected frequencies are exact
    labels[np.arange(4000), rng.choice(4, 4000, p=[0.9, 0.06, 0.03, 0.01])] = 1
    orders = {name: sample_order(labels, name, seed=0, epoch=3) for name in SAMPLINGS}
    assert all(len(order) == 4000 for order in orders.values())
    assert sorted(orders["uniform"]) == list(range(4000))
    # Balanced cycles through the labels: each has exactly a quarter, each of its clips as often.
    assert labels[orders["balanced"]].sum(axis=0).tolist() == [1000] * 4
    rare = np.flatnonzero(labels[:, 3])
    times = np.bincount(orders["balanced"], minlength=4000)[rare]
    assert times.max() - times.min() <= 1
    # Drawn with replacement: a quarter each, within five standard deviations.
    fractions = labels[orders["inverse_frequency"]].mean(axis=0)
    assert np.abs(fractions - 0.25).max() < 5 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_orders_differ_by_epoch_and_seed_and_repeat(sampling: str) -> None:
    labels = np.eye(5, dtype=np.uint8)[np.arange(200) % 5]
    first = sample_order(labels, sampling, 0, 0)
    assert np.array_equal(first, sample_order(labels, sampling, 0, 0))
    assert not np.array_equal(first, sample_order(labels, sampling, 0, 1))
    assert not np.array_equal(first, sample_order(labels, sampling, 1, 0))


# Mixup


def mix(batch: Batch, prob: float, alpha: float, seed: int) -> Batch:
    """Mix a whole batch."""
    clips = len(batch.x)
    draws = draw_mixup(clips, prob, alpha, np.random.default_rng(seed))
    x = mix_inputs(batch.x, batch.frames, draws, slice(0, clips), np.arange(clips))
    return Batch(x, *mix_targets(batch.targets, batch.frames, draws))


def test_mixup_mixes_inputs_and_targets_alike() -> None:
    # A clip's input is its class's number everywhere: mixtures must agree, in every channel.
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 10, 16)
    mixed = mix(Batch(x, torch.eye(8)), 1, 1, seed=0)
    agreed = mixed.targets @ torch.arange(8.0)
    torch.testing.assert_close(mixed.x, agreed.view(8, 1, 1, 1).expand_as(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.targets.sum(1), torch.ones(8))
    assert ((mixed.targets > 0).sum(1) == 2).any()
    assert mixed.frames is None


def test_mixup_mixes_the_fraction_it_should() -> None:
    batch = Batch(torch.zeros(1000, 1, 1, 1), torch.eye(1000))
    mixed = mix(batch, 0.3, 10, seed=1).targets
    assert 0.25 < (mixed.diagonal() < 1).float().mean() < 0.35
    assert draw_mixup(1000, 0, 10, np.random.default_rng(1)) is None


def test_a_mixture_of_clips_of_different_length_is_the_longer_where_one_has_ended() -> None:
    frames = torch.tensor([2, 5, 3, 1, 4, 5, 2, 3])
    numbers = torch.arange(10.0, 18)
    real = torch.arange(5) < frames.unsqueeze(1)
    x = (numbers.unsqueeze(1) * real)[:, None, :, None].expand(8, 2, 5, 3)
    mixed = mix(Batch(x, torch.eye(8), frames), 0.7, 1, seed=2)
    for clip in range(8):
        weight = mixed.targets[clip, clip]
        partner = clip
        if weight < 1:
            partner = int((mixed.targets[clip] * (torch.arange(8) != clip)).argmax())
        longest = max(frames[clip], frames[partner])
        assert mixed.frames[clip] == longest
        for frame in range(5):
            in_clip, in_partner = frame < frames[clip], frame < frames[partner]
            expected = weight * numbers[clip] + (1 - weight) * numbers[partner]
            if not (in_clip and in_partner):
                expected = numbers[clip] * in_clip
                expected += numbers[partner] * in_partner * (partner != clip)
            torch.testing.assert_close(
                mixed.x[clip, :, frame], torch.full((2, 3), float(expected)), atol=1e-5, rtol=0
            )
    assert ((mixed.targets > 0).sum(1) == 2).any()
    assert (mixed.targets.diagonal() == 1).any()


# Loader


def dataset(value: float = 0, clips: int = 30, any_length: bool = True) -> ClipDataset:
    """Return clips of random numbers around a value."""
    rng = np.random.default_rng(int(value))
    values = (value + rng.random((clips, 1, 6, 5))).astype(np.float32)
    frames = np.random.default_rng(9).integers(2, 7, clips)
    features = Features(values, frames, InputSpec(1, 6, 5, any_length=any_length), {})
    return ClipDataset.select(features, multi_hot(clips, 4), np.arange(clips), CPU)


def loader(any_length: bool = True, prefetch: int = 0, **changes: object) -> BatchLoader:
    copies = [dataset(value, any_length=any_length) for value in (100, 200)]
    settings = Train(**NOISY | changes)
    return BatchLoader(dataset(any_length=any_length), settings, 5, copies, prefetch)


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b)
        for batches in zip(first, second, strict=True)
        for a, b in zip(*batches, strict=True)
    )


def test_each_iteration_is_the_next_epoch_and_depends_on_the_seed_and_its_number_alone() -> None:
    batches = loader()
    epochs = [list(batches) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(batches)] * 3 == [5] * 3
    assert not same(epochs[0], epochs[1])
    torch.manual_seed(99)
    again = loader()
    assert all(same(epoch, list(again)) for epoch in epochs)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("yielded", [0, 2, 5, 7])
def test_a_loader_continues_after_the_batch_of_its_state(yielded: int, prefetch: int) -> None:
    whole = loader()
    expected = [batch for _ in range(3) for batch in whole]
    first, seen = loader(prefetch=prefetch), []
    while len(seen) < yielded:
        for batch in first:
            seen.append(batch)
            if len(seen) == yielded:
                break
    state = first.state_dict()
    resumed = loader(prefetch=prefetch)
    resumed.load_state_dict(state)
    while len(seen) < len(expected):
        seen += list(resumed)
        if len(seen) < len(expected):  # as after a second interruption
            state = resumed.state_dict()
            resumed = loader(prefetch=prefetch)
            resumed.load_state_dict(state)
    assert same(seen, expected)


def test_a_thread_that_reads_ahead_changes_nothing() -> None:
    ahead, plain = loader(prefetch=2), loader()
    assert all(same(list(ahead), list(plain)) for _ in range(2))


@pytest.mark.parametrize("any_length", [True, False])
@pytest.mark.parametrize("mixup_prob", [0, 0.5])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_together_have_the_batch_of_one_and_read_no_more_than_they_need(
    processes: int, mixup_prob: float, any_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(loader(any_length, mixup_prob=mixup_prob))
    reads: list[int] = []
    read = ClipDataset.read_inputs
    monkeypatch.setattr(
        ClipDataset, "read_inputs", lambda self, rows: reads.append(len(rows)) or read(self, rows)
    )
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        part = loader(any_length, mixup_prob=mixup_prob, augment=NOISY["augment"])
        reads.clear()
        for batch, whole in zip(part, expected, strict=True):
            computed = distributed.computed_rows(len(whole.x))
            torch.testing.assert_close(batch.x[computed], whole.x[computed])
            others = np.ones(len(whole.x), bool)
            others[computed] = False
            assert not batch.x[torch.from_numpy(others)].any()
            assert torch.equal(batch.targets, whole.targets)
            assert whole.frames is None or torch.equal(batch.frames, whole.frames)
        if not mixup_prob and processes == 5:  # two clips of seven, the copies' among them
            assert max(reads) <= 2


def test_a_fraction_of_a_batch_comes_from_the_copies_each_as_often() -> None:
    copies = draw_copies(1000, 2, 0.5, torch.Generator().manual_seed(0))
    assert 430 < (copies == -1).sum() < 570
    assert all(200 < (copies == number).sum() < 300 for number in (0, 1))
    assert draw_copies(1000, 2, 0.0, torch.Generator()) is None
    plain = NOISY | {"mixup_prob": 0, "augment": {"copies_prob": 0.5}}
    original, first, second = dataset(), dataset(100), dataset(200)
    settings = Train(**plain)
    batches = list(BatchLoader(original, settings, 5, [first, second]))
    plans = list(BatchSampler(original.labels, settings, 5, copies=2))
    for batch, plan in zip(batches, plans, strict=True):
        for x, row, copy in zip(batch.x, plan.rows, plan.copies, strict=True):
            source = (first, second, original)[copy]
            assert torch.equal(x, source.read_inputs([row])[0])
        assert torch.equal(batch.targets, original.read_targets(plan.rows))


def test_half_of_the_clips_of_each_copy_are_added_as_in_the_homework() -> None:
    epoch = draw_added_copies(6206, 4, 0.5, seed=0)
    assert len(epoch.rows) == len(epoch.copies) == 18618
    assert epoch.rows[epoch.copies == -1].tolist() == list(range(6206))
    halves = [set(epoch.rows[epoch.copies == number]) for number in range(4)]
    assert [len(half) for half in halves] == [3103] * 4
    # Each copy draws its own half: two have about a quarter of the clips in common.
    assert 1450 < len(halves[0] & halves[1]) < 1650
    assert not np.array_equal(epoch.rows, draw_added_copies(6206, 4, 0.5, seed=1).rows)
    none = draw_added_copies(10, 0, 0.5, seed=0)
    assert none.rows.tolist() == list(range(10))
    assert set(none.copies) == {-1}


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_epoch_grows_by_the_added_copies(sampling: str) -> None:
    copies = [dataset(100), dataset(200)]
    plain = NOISY | {"mixup_prob": 0, "augment": {"added_copies": 0.5}, "sampling": sampling}
    original, settings = dataset(), Train(**plain)
    batches = BatchLoader(original, settings, 5, copies)
    assert len(batches) == count_batches(30 + 2 * 15, 7)
    sampler = BatchSampler(original.labels, settings, 5, copies=2)
    epochs = []
    for number in range(2):
        sampler.set_epoch(number)
        plans = list(sampler)
        epoch = list(batches)
        assert len(epoch) == len(plans) == len(batches)
        for batch, plan in zip(epoch, plans, strict=True):
            for x, row, copy in zip(batch.x, plan.rows, plan.copies, strict=True):
                assert torch.equal(x, (*copies, original)[copy].read_inputs([row])[0])
            assert torch.equal(batch.targets, original.read_targets(plan.rows))
        epochs.append([pair for plan in plans for pair in zip(plan.rows, plan.copies, strict=True)])
    assert epochs[0] != epochs[1]
    if sampling == "uniform":  # the same copies in each epoch, each once
        assert sorted(epochs[0]) == sorted(epochs[1])
        assert sum(copy == -1 for _, copy in epochs[0]) == 30


def test_without_added_copies_the_order_is_that_of_the_clips() -> None:
    labels, settings = multi_hot(30, 4), Train(**NOISY)
    [first, *_] = BatchSampler(labels, settings, 5, copies=2)
    assert np.array_equal(first.rows, sample_order(labels, "uniform", 5, 0)[:7])


def test_copies_that_are_missing_are_a_sentence() -> None:
    with pytest.raises(
        UserError, match=r"copies_prob must be 0 for a feature without .*, got 0\.5"
    ):
        BatchLoader(dataset(), Train(**NOISY), 5)
    added = NOISY | {"augment": {"added_copies": 0.5}}
    with pytest.raises(UserError, match=r"added_copies must be 0 for a feature without .*0\.5"):
        BatchLoader(dataset(), Train(**added), 5)
    both = NOISY | {"augment": {"added_copies": 0.5, "copies_prob": 0.25}}
    with pytest.raises(UserError, match=r"copies_prob must be 0 with added_copies, got 0\.25"):
        BatchLoader(dataset(), Train(**both), 5, [dataset(100)])
