import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tagging.losses import LOSSES, ce, msml


def batch(seed: int, clips: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels, at least one a clip, of which some have several."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(clips, labels, generator=generator, dtype=torch.float64) * 3
    positive = torch.rand(clips, labels, generator=generator) < 0.3
    positive[torch.arange(clips), torch.randint(labels, (clips,), generator=generator)] = True
    return outputs, positive.double()


def ce_by_pairs(outputs: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the loss as the study describes it: pair by pair."""
    losses = []
    for row, positive in zip(outputs.tolist(), labels.tolist(), strict=True):
        number = sum(positive)
        scaled = [value / number for value in row]
        total = sum(map(math.exp, scaled))
        losses += [
            -math.log(math.exp(value) / total)
            for value, is_label in zip(scaled, positive, strict=True)
            if is_label
        ]
    return sum(losses) / len(losses)


def test_msml_of_two_labels_by_hand():
    # -log sigmoid(0) = log 2 for both; -log sigmoid(ln 3) = log(4/3), -log(1 - 1/4) too.
    outputs = torch.tensor([[0.0, 0.0], [math.log(3), -math.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert msml(outputs, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_msml_is_binary_cross_entropy(seed):
    outputs, labels = batch(seed, 7, 10)
    expected = functional.binary_cross_entropy_with_logits(outputs, labels)
    torch.testing.assert_close(msml(outputs, labels), expected)


def test_msml_of_softmax_outputs_is_what_the_study_printed_at_lr_1():
    """A collapsed one-hot answer, always the first label: 0.3133, 1.3133 or 0.6931 a label."""
    right = msml(torch.eye(1, 10), torch.eye(1, 10))
    assert right.item() == pytest.approx((0.31326 + 9 * 0.69315) / 10, abs=1e-5)
    wrong = msml(torch.eye(1, 10), torch.eye(2, 10)[1:])
    assert wrong.item() == pytest.approx((1.31326 + 9 * 0.69315) / 10, abs=1e-5)


def test_ce_by_hand():
    # First clip: two labels, its outputs halved to (1, 0, 0): log-sum-exp is log(e + 2).
    # Second: one label, the outputs as they are.
    outputs = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    total = math.log(math.e + 2)
    expected = ((total - 1) + (total - 0) + (total - 1)) / 3  # three pairs
    assert ce(outputs, labels).item() == pytest.approx(expected)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_ce_is_the_mean_over_pairs(seed, clips, number):
    outputs, labels = batch(seed, clips, number)
    assert ce(outputs, labels).item() == pytest.approx(ce_by_pairs(outputs, labels))


def test_ce_of_one_label_a_clip_is_pytorch_s():
    outputs, _ = batch(0, 6, 10)
    places = torch.tensor([3, 0, 9, 9, 1, 4])
    labels = functional.one_hot(places, 10).double()
    torch.testing.assert_close(ce(outputs, labels), functional.cross_entropy(outputs, places))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_and_fall_along_their_gradient(name):
    outputs, labels = batch(1, 8, 10)
    outputs = (outputs * 100).requires_grad_()
    loss = LOSSES[name](outputs, labels)
    loss.backward()
    assert loss.isfinite()
    assert loss.dim() == 0
    assert outputs.grad.isfinite().all()
    assert LOSSES[name](outputs - outputs.grad, labels) < loss


@pytest.mark.parametrize("name", LOSSES)
def test_loss_does_not_depend_on_the_order_of_clips(name):
    outputs, labels = batch(2, 8, 10)
    torch.testing.assert_close(
        LOSSES[name](outputs, labels), LOSSES[name](outputs.flip(0), labels.flip(0))
    )
