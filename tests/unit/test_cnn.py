"""The CNN: the studies' settings layer by layer, and padded clips."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.learning.losses import Ce
from tagging.networks import cnn
from tests.padded import (
    EMBEDDINGS,
    assert_gradients_reach_every_parameter,
    assert_padding_has_no_effect,
    build,
    clips,
    output_shapes,
    with_batch_statistics,
)

make = partial(build, cnn)
MFCC = InputSpec(1, 49, 13)
LOG_MEL = InputSpec(3, 101, 128)
BASIC = {"channels": [16, 32], "strides": [[1, 2], [1, 4]]}
DEEP = {
    "channels": [16, 32, 64, 64, 128],
    "strides": [[1, 2], [1, 2], [1, 2], [1, 2], [1, 1]],
    "slope": 0.01,
    "decoder": [128, 32],
}
CNN2D = {"channels": [16, 32, 64, 128], "pools": [[2, 2], [2, 2], [2, 2], [2, 2]]}
INSTRUMENTS = {
    "channels": [16, 32],
    "padding": False,
    "bias": True,
    "pooling": "none",
    "decoder": [512, 64],
    "input_norm": False,
}
NEWCNN = {
    "channels": [64, 64, 64, 64, 64],
    "batch_norm": False,
    "bias": True,
    "slope": 0.01,
    "decoder": [128, 32],
    "input_norm": False,
}
SMALL = {  # all that may leak padding: leaky ReLU (below the padding's zeros), pools, strides
    "channels": [4, 6],
    "strides": [[2, 1], [1, 2]],
    "pools": [[2, 3], [3, 2]],
    "bands": 1,
    "slope": 0.3,
}


@pytest.mark.parametrize(
    ("settings", "spec", "labels", "expected"),
    [
        (BASIC, EMBEDDINGS, 10, 6_394),
        (DEEP, EMBEDDINGS, 10, 204_762),
        (
            CNN2D,
            LOG_MEL,
            80,
            2 * 3 * 128
            + (9 * 3 * 16 + 2 * 16)
            + (9 * 16 * 32 + 2 * 32)
            + (9 * 32 * 64 + 2 * 64)
            + (9 * 64 * 128 + 2 * 128)
            + (4 * 128 * 80 + 80),
        ),
        (INSTRUMENTS, MFCC, 14, 6_674_670),
        (
            NEWCNN,
            MFCC,
            14,
            (9 * 64 + 64)
            + 4 * (9 * 64 * 64 + 64)
            + (256 * 128 + 128)
            + (128 * 32 + 32)
            + (32 * 14 + 14),
        ),
    ],
    ids=["basic", "deep", "cnn2d", "instruments", "newcnn"],
)
def test_parameter_counts_match_the_studies(settings, spec, labels, expected):
    network = make(settings, spec, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(clips(2, spec)).shape == (2, labels)


def test_instrument_study_layers_have_the_printed_shapes():
    network = make(INSTRUMENTS, MFCC, 14)
    shapes = output_shapes(network, clips(2, MFCC))
    assert shapes["convs.0.conv"] == shapes["convs.0.norm"] == (16, 47, 11)
    assert shapes["convs.1.conv"] == shapes["convs.1.norm"] == (32, 45, 9)
    assert network.decoder[1].in_features == 12_960 == 32 * 9 * 45
    assert [shapes[name] for name in ("decoder.1", "decoder.4", "classify")] == [
        (512,),
        (64,),
        (14,),
    ]


def test_instrument_study_network_equals_a_plain_sequence():
    network = with_batch_statistics(make(INSTRUMENTS, MFCC, 14), MFCC)
    plain = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(12_960, 512), nn.ReLU(), nn.Linear(512, 64), nn.ReLU(),
        nn.Linear(64, 14),
    ).eval()  # fmt: skip
    weights = zip(plain.state_dict(), network.state_dict().values(), strict=True)
    plain.load_state_dict(dict(weights))
    with torch.inference_mode():
        torch.testing.assert_close(network(clips(3, MFCC)), plain(clips(3, MFCC)))


def test_a_softmax_head_returns_probabilities_whose_cross_entropy_stays_high():
    network = make(INSTRUMENTS | {"head": "softmax"}, MFCC, 14)
    plain = make(INSTRUMENTS, MFCC, 14)
    plain.load_state_dict(network.state_dict())
    assert (network.activation, plain.activation) == ("none", None)
    x = clips(3, MFCC)
    with torch.inference_mode():
        probabilities = with_batch_statistics(network, MFCC)(x)
        plain.load_state_dict(network.state_dict())
        torch.testing.assert_close(probabilities, plain.eval()(x).softmax(1))
    # Of a certain and correct prediction, with a second softmax in the cross-entropy.
    certain = functional.one_hot(torch.arange(14), 14).float()
    lowest = Ce()(certain, certain).item()
    assert lowest == pytest.approx(math.log(1 + 13 / math.e))
    # The gradient for a wrong class vanishes as its probability approaches 1.
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    Ce()(logits.softmax(1), torch.tensor([[0.0, 1.0, 0.0]])).backward()
    assert logits.grad.abs().max() < 1e-12


def test_cnn2d_pools_halve_frames_and_bins():
    network = with_batch_statistics(make(CNN2D, LOG_MEL), LOG_MEL)
    assert output_shapes(network, clips(2, LOG_MEL))["convs.3.conv"] == (128, 13, 16)
    h = clips(2, LOG_MEL)
    first = network.convs[0]
    with torch.inference_mode():
        out, _ = first(h, None)
        expected = first.norm(functional.conv2d(h, first.conv.weight, padding=1)).relu()
        expected = functional.max_pool2d(expected[:, :, :100], 2)  # kernel = stride
    torch.testing.assert_close(out[:, :, :50], expected)
    assert out.shape == (2, 16, 51, 64)  # the remaining frame is a row of its own


def test_newcnn_has_five_leaky_convolutions_and_a_narrowing_decoder():
    network = make(NEWCNN, MFCC, 14)
    shapes = output_shapes(network, clips(2, MFCC))
    assert [shapes[f"convs.{k}.conv"] for k in range(5)] == [(64, 49, 13)] * 5
    widths = [layer.in_features for layer in network.decoder if isinstance(layer, nn.Linear)]
    assert [*widths, network.classify.in_features] == [256, 128, 32]
    leaky, _ = network.convs[0](clips(2, MFCC), None)
    assert (leaky < 0).any()
    assert not (make(NEWCNN, MFCC, slope=0.0).convs[0](clips(2, MFCC), None)[0] < 0).any()


@pytest.mark.parametrize("bands", [1, 3, 4, 5, 13])
def test_bands_equal_adaptive_pooling(bands):
    network = with_batch_statistics(make({"channels": [4]}, MFCC, bands=bands), MFCC)
    with torch.inference_mode():
        x = clips(3, MFCC)
        h = network.norm(x[:, 0].transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        h, _ = network.convs[0](h, None)
        expected = functional.adaptive_avg_pool2d(h, (1, bands)).flatten(1)
        torch.testing.assert_close(network.embed(x), expected)


@pytest.mark.parametrize("settings", [BASIC, DEEP, CNN2D, INSTRUMENTS])
def test_classifier_reads_the_embedding(settings):
    spec = LOG_MEL._replace(frames=20)
    network = with_batch_statistics(make(settings, spec), spec)
    x = clips(2, spec)
    with torch.inference_mode():
        embedding = network.embed(x)
        assert embedding.shape == (2, network.classify.in_features)
        torch.testing.assert_close(network.classify(embedding), network(x))


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        SMALL | {"batch_norm": False, "bias": True},
        SMALL | {"batch_norm": False, "bias": True, "pools": []},
        SMALL | {"bias": True, "input_norm": False},
        SMALL | {"strides": [], "slope": 0.0, "bands": 2},
    ],
    ids=["normalized", "biased", "biased without pools", "not normalized", "relu"],
)
def test_padding_has_no_effect(settings):
    spec = InputSpec(2, 25, 13, any_length=True)
    network = with_batch_statistics(make(settings, spec), spec)
    lengths = torch.tensor([25, 1, 2, 7, 12, 13])
    assert_padding_has_no_effect(network, clips(6, spec) - 3, lengths)


def test_gradients_reach_every_parameter():
    lengths = torch.tensor([10, 3, 7, 1])
    assert_gradients_reach_every_parameter(make(SMALL | {"decoder": [8]}), clips(4), lengths)


@pytest.mark.parametrize("settings", [INSTRUMENTS, {"channels": [2], "padding": False}])
def test_clips_must_have_one_length_without_padding_or_pooling(settings):
    network = make(settings, MFCC)
    assert not network.supports_variable_length
    assert make(BASIC).supports_variable_length
    with pytest.raises(ValueError, match="must have 49 frames"):
        network(clips(2, MFCC, 48))
    with pytest.raises(ValueError, match="must have 49 frames"):
        network(clips(2, MFCC), torch.tensor([49, 48]))
    assert network(clips(2, MFCC), torch.tensor([49, 49])).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": []}, r"network.channels must have at least 1 item, got \[\]"),
        ({"channels": [4, 0]}, r"network.channels\[1\] must be greater than or equal to 1, got 0"),
        ({"channels": [4, 4], "strides": [[1, 2]]}, r"strides must .* 2 conv.*, got \[\[1, 2\]\]"),
        ({"channels": [4], "pools": [[1, 2]] * 2}, r"network.pools must .* the 1 conv.*, got \["),
        ({"channels": [4], "pools": [[2]]}, r"network.pools\[0\].* is missing"),
        ({"channels": [4], "bands": 14}, "network.bands must be at most 13, the bins .*, got 14"),
        ({"channels": [4], "padding": "no"}, "network.padding must be a valid boolean, got 'no'"),
        ({"channels": [4] * 7, "padding": False}, "network.padding must be true .*, got false"),
        ({"channels": [4], "dropout": 1}, "network.dropout must be less than 1, got 1"),
        ({"channels": [4], "width": 3}, "network.width is unknown; network has input_norm"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(settings, MFCC)
