"""Losses: their values by hand, and finite gradients whatever the outputs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.learning.losses import CLASSIFICATION_LOSSES, Bce, Ce, Focal, Msml
from tagging.learning.settings import LOSSES, parse_loss

SATURATED = [-1e4, -200.0, -103.5, -88.0, -20.0, 0.0, 20.0, 88.0, 103.5, 200.0, 1e4]
GAMMAS = (0, 1e-3, 0.3, 0.5, 0.99, 1, 2)


def batch(seed: int, clips: int, labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels: one or more for each clip."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(clips, labels, generator=generator, dtype=torch.float64) * 3
    positive = torch.rand(clips, labels, generator=generator) < 0.3
    positive[torch.arange(clips), torch.randint(labels, (clips,), generator=generator)] = True
    return outputs, positive.double()


def test_msml_is_binary_cross_entropy() -> None:
    # -log sigmoid(0) = log 2 for both; -log sigmoid(ln 3) = log(4/3), -log(1 - 1/4) too.
    outputs = torch.tensor([[0.0, 0.0], [math.log(3), -math.log(3)]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert Msml()(outputs, labels).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    outputs, labels = batch(0, 7, 10)
    torch.testing.assert_close(Msml()(outputs, labels), Bce()(outputs, labels))


def test_msml_of_softmax_outputs_is_the_value_that_the_study_printed_at_lr_1() -> None:
    """A collapsed one-hot output, always the first label: 0.3133, 1.3133 or 0.6931 for a label."""
    right = Msml()(torch.eye(1, 10), torch.eye(1, 10))
    assert right.item() == pytest.approx((0.31326 + 9 * 0.69315) / 10, abs=1e-5)
    wrong = Msml()(torch.eye(1, 10), torch.eye(2, 10)[1:])
    assert wrong.item() == pytest.approx((1.31326 + 9 * 0.69315) / 10, abs=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 12))
@settings(max_examples=50, derandomize=True, deadline=None, database=None)
def test_ce_is_the_mean_over_pairs_of_a_clip_and_a_label(seed, clips, number) -> None:
    outputs, labels = batch(seed, clips, number)
    losses = []
    for row, positive in zip(outputs, labels, strict=True):
        scaled = row / positive.sum()
        losses += [scaled.exp().sum().log() - scaled[place] for place in positive.nonzero()]
    expected = torch.cat(losses).mean().item()
    assert Ce()(outputs, labels).item() == pytest.approx(expected)


def test_ce_of_one_label_a_clip_is_pytorch_s() -> None:
    outputs, _ = batch(0, 6, 10)
    places = torch.tensor([3, 0, 9, 9, 1, 4])
    labels = functional.one_hot(places, 10).double()
    torch.testing.assert_close(Ce()(outputs, labels), functional.cross_entropy(outputs, places))
    assert Ce()(outputs, torch.zeros(6, 10)) == 0  # not 0 / 0


def test_focal_is_the_papers() -> None:
    outputs, labels = batch(3, 8, 10)
    p = torch.where(labels > 0, outputs.sigmoid(), 1 - outputs.sigmoid())
    alpha = torch.where(labels > 0, 0.25, 0.75)
    torch.testing.assert_close(Focal()(outputs, labels), (-alpha * (1 - p) ** 2 * p.log()).mean())
    torch.testing.assert_close(
        Focal(gamma=0, alpha=0.5)(outputs, labels), Bce()(outputs, labels) / 2
    )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0.0, 0.4, 1.0])
def test_focal_has_a_gradient_however_confident_the_output(gamma, label) -> None:
    outputs = torch.tensor([SATURATED], requires_grad=True)
    loss = Focal(gamma=gamma)(outputs, torch.full_like(outputs, label))
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
    # Wrong outputs have a gradient towards the label.
    descent = -outputs.grad[0] if label else outputs.grad[0]
    wrong = descent[0] if label else descent[-1]
    assert wrong > 0


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_losses_are_finite_and_fall_along_their_gradient(name) -> None:
    loss_function = LOSSES[name]()
    outputs, labels = batch(1, 8, 10)
    outputs = (outputs * 100).requires_grad_()
    loss = loss_function(outputs, labels)
    loss.backward()
    assert loss.isfinite()
    assert loss.dim() == 0
    assert outputs.grad.isfinite().all()
    assert loss_function(outputs - outputs.grad, labels) < loss
    torch.testing.assert_close(loss_function(outputs.flip(0), labels.flip(0)), loss)


def test_a_loss_is_a_name_or_a_mapping_with_its_parameters() -> None:
    assert parse_loss("ce", "train.loss") == Ce()
    assert parse_loss({"name": "focal", "gamma": "1e-05"}, "train.loss") == Focal(gamma=1e-5)
    assert [LOSSES[name].activation for name in CLASSIFICATION_LOSSES] == [
        "sigmoid",
        "sigmoid",
        "softmax",
        "sigmoid",
    ]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            "bce2",
            f"train.loss must be one of {', '.join(LOSSES)}, or a mapping of such a name and the "
            "loss's parameters, got 'bce2'",
        ),
        (["msml"], "train.loss must be one of msml"),
        ({"gamma": 1}, "train.loss must be one of msml"),
        (
            {"name": "focal", "gama": 1},
            "train.loss.gama is unknown; train.loss has name, gamma, ",
        ),
        (
            {"name": "focal", "gamma": -1},
            "train.loss.gamma must be greater than or equal to 0, got -1",
        ),
        ({"name": "focal", "alpha": 2}, "train.loss.alpha must be less than or equal to 1, got 2"),
        ({"name": "ce", "gamma": 1}, "train.loss.gamma is unknown; train.loss has name"),
    ],
)
def test_an_invalid_loss_is_one_sentence(value, sentence) -> None:
    with pytest.raises(UserError) as caught:
        parse_loss(value, "train.loss")
    assert str(caught.value).startswith(f"params.yaml: {sentence}")


def test_each_loss_is_known_by_its_name() -> None:
    assert all(loss().name == name for name, loss in LOSSES.items())
