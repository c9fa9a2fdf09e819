"""Batches: which clips come in which order, and what mixtures of them are."""

import numpy as np
import pytest
import torch

from tagging.data.batches import Batch, epoch_batches, mix, sample_order, to_clips
from tagging.data.clips import Features
from tagging.data.spec import InputSpec
from tests.generated import multi_hot

CPU = torch.device("cpu")
SAMPLINGS = ("uniform", "balanced", "inverse_frequency")


def test_a_batch_is_the_clips_as_networks_take_them() -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 2, 4, 3), np.uint8)
    frames = np.array([4, 1, 3, 4, 2, 4])
    labels = multi_hot(6, 3)
    spec = InputSpec(2, 4, 3, scale=0.5, offset=-40, any_length=True)
    places = np.array([5, 4, 1, 0], np.int32)
    clips = to_clips(Features(values, frames, spec, {}), labels, places, CPU)
    batch = clips.batch(np.array([2, 0, 1]))
    assert batch.frames.tolist() == [1, 4, 2]
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == labels[[1, 5, 4]].tolist()
    for x, place, number in zip(batch.x, (1, 5, 4), (1, 4, 2), strict=True):
        expected = values[place] * 0.5 - 40
        expected[:, number:] = 0  # not the offset
        assert np.array_equal(x.numpy(), expected)
    alike = Features(values, frames, spec._replace(any_length=False), {})
    assert to_clips(alike, labels, places, CPU).batch(np.array([2])).frames is None
    targets = np.random.default_rng(1).random((4, 3), np.float32)
    taught = to_clips(Features(values, frames, spec, {}), labels, places, CPU, targets)
    assert np.array_equal(taught.batch(np.array([2, 0])).labels.numpy(), targets[[2, 0]])
    assert taught.labels.tolist() == labels[places].tolist()


def test_an_epoch_has_each_clip_once_but_no_batch_of_one() -> None:
    for clips, sizes in ((20, [8, 8, 4]), (17, [8, 8]), (16, [8, 8])):
        batches = epoch_batches(clips, 8, seed=0, epoch=1)
        assert [len(batch) for batch in batches] == sizes
        assert len(set(np.concatenate(batches))) == sum(sizes)


def test_samplers_count_labels_as_they_say() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((4000, 4), np.uint8)  # one label a clip: frequencies are exact to compute
    labels[np.arange(4000), rng.choice(4, 4000, p=[0.9, 0.06, 0.03, 0.01])] = 1
    orders = {name: sample_order(labels, name, seed=0, epoch=3) for name in SAMPLINGS}
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


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_orders_differ_by_epoch_and_seed_and_repeat(sampling: str) -> None:
    labels = np.eye(5, dtype=np.uint8)[np.arange(200) % 5]
    first = sample_order(labels, sampling, 0, 0)
    assert np.array_equal(first, sample_order(labels, sampling, 0, 0))
    assert not np.array_equal(first, sample_order(labels, sampling, 0, 1))
    assert not np.array_equal(first, sample_order(labels, sampling, 1, 0))


def test_mixup_mixes_inputs_and_labels_alike() -> None:
    # A clip's input is its class's number everywhere: mixtures must agree, in every channel.
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 10, 16)
    mixed = mix(Batch(x, torch.eye(8)), 1, 1, np.random.default_rng(0))
    agreed = mixed.labels @ torch.arange(8.0)
    torch.testing.assert_close(mixed.x, agreed.view(8, 1, 1, 1).expand_as(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.labels.sum(1), torch.ones(8))
    assert ((mixed.labels > 0).sum(1) == 2).any()
    assert mixed.frames is None


def test_mixup_leaves_the_share_it_should() -> None:
    batch = Batch(torch.zeros(1000, 1, 1, 1), torch.eye(1000))
    mixed = mix(batch, 0.3, 10, np.random.default_rng(1)).labels
    assert 0.25 < (mixed.diagonal() < 1).float().mean() < 0.35
    assert torch.equal(mix(batch, 0, 10, np.random.default_rng(1)).labels, batch.labels)


def test_a_mixture_of_clips_of_different_length_is_the_longer_where_one_has_ended() -> None:
    frames = torch.tensor([2, 5, 3, 1, 4, 5, 2, 3])
    numbers = torch.arange(10.0, 18)
    real = torch.arange(5) < frames.unsqueeze(1)
    x = (numbers.unsqueeze(1) * real)[:, None, :, None].expand(8, 2, 5, 3)
    mixed = mix(Batch(x, torch.eye(8), frames), 0.7, 1, np.random.default_rng(2))
    for place in range(8):
        part = mixed.labels[place, place]
        other = place
        if part < 1:
            other = int((mixed.labels[place] * (torch.arange(8) != place)).argmax())
        longest = max(frames[place], frames[other])
        assert mixed.frames[place] == longest
        for frame in range(5):
            here, there = frame < frames[place], frame < frames[other]
            expected = part * numbers[place] + (1 - part) * numbers[other]
            if not (here and there):
                expected = numbers[place] * here + numbers[other] * there * (other != place)
            torch.testing.assert_close(
                mixed.x[place, :, frame], torch.full((2, 3), float(expected)), atol=1e-5, rtol=0
            )
    assert ((mixed.labels > 0).sum(1) == 2).any()
    assert (mixed.labels.diagonal() == 1).any()
