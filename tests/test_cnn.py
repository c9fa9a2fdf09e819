"""The CNN: its settings as the studies have them, layer by layer, and clips of other lengths."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.networks import cnn
from tests.padded import (
    EMBEDDINGS,
    assert_gradients_reach_every_parameter,
    assert_padding_changes_no_answer,
    build,
    clips,
    practised,
    shapes,
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
SMALL = {  # whatever a padded clip can meet: leaky ReLU below the padding's zeros, pools, strides
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
def test_parameters_are_as_many_as_the_studies_have(settings, spec, labels, expected):
    network = make(settings, spec, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(clips(2, spec)).shape == (2, labels)


def test_the_instrument_study_s_layers_have_the_printed_shapes():
    network = make(INSTRUMENTS, MFCC, 14)
    found = shapes(network, clips(2, MFCC))
    assert found["convs.0.conv"] == found["convs.0.norm"] == (16, 47, 11)
    assert found["convs.1.conv"] == found["convs.1.norm"] == (32, 45, 9)
    assert network.decoder[1].in_features == 12_960 == 32 * 9 * 45
    assert [found[name] for name in ("decoder.1", "decoder.4", "classify")] == [
        (512,),
        (64,),
        (14,),
    ]


def test_the_instrument_study_s_network_is_a_plain_sequence():
    network = practised(make(INSTRUMENTS, MFCC, 14), MFCC)
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


def test_cnn2d_halves_frames_and_bins_by_each_pool():
    network = practised(make(CNN2D, LOG_MEL), LOG_MEL)
    assert shapes(network, clips(2, LOG_MEL))["convs.3.conv"] == (128, 13, 16)
    h = clips(2, LOG_MEL)
    first = network.convs[0]
    with torch.inference_mode():
        found, _ = first(h, None)
        expected = first.norm(functional.conv2d(h, first.conv.weight, padding=1)).relu()
        expected = functional.max_pool2d(expected[:, :, :100], 2)  # kernel = stride
    torch.testing.assert_close(found[:, :, :50], expected)
    assert found.shape == (2, 16, 51, 64)  # the frame that is left over is a row of its own


def test_newcnn_has_five_leaky_convolutions_and_a_decoder_that_narrows():
    network = make(NEWCNN, MFCC, 14)
    found = shapes(network, clips(2, MFCC))
    assert [found[f"convs.{place}.conv"] for place in range(5)] == [(64, 49, 13)] * 5
    widths = [layer.in_features for layer in network.decoder if isinstance(layer, nn.Linear)]
    assert [*widths, network.classify.in_features] == [256, 128, 32]
    leaky, _ = network.convs[0](clips(2, MFCC), None)
    assert (leaky < 0).any()
    assert not (make(NEWCNN, MFCC, slope=0.0).convs[0](clips(2, MFCC), None)[0] < 0).any()


@pytest.mark.parametrize("bands", [1, 3, 4, 5, 13])
def test_bands_are_adaptive_pooling_s(bands):
    network = practised(make({"channels": [4]}, MFCC, bands=bands), MFCC)
    with torch.inference_mode():
        x = clips(3, MFCC)
        h = network.norm(x[:, 0].transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        h, _ = network.convs[0](h, None)
        expected = functional.adaptive_avg_pool2d(h, (1, bands)).flatten(1)
        torch.testing.assert_close(network.embed(x), expected)


@pytest.mark.parametrize("settings", [BASIC, DEEP, CNN2D, INSTRUMENTS])
def test_the_last_layer_classifies_the_embedding(settings):
    network = practised(make(settings, LOG_MEL._replace(frames=20)), LOG_MEL._replace(frames=20))
    x = clips(2, LOG_MEL, 20)
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
    ids=["normalized", "biased", "biased without pools", "as it comes", "relu"],
)
def test_padding_changes_no_answer(settings):
    spec = InputSpec(2, 25, 13, any_length=True)
    network = practised(make(settings, spec), spec)
    lengths = torch.tensor([25, 1, 2, 7, 12, 13])
    assert_padding_changes_no_answer(network, clips(6, spec) - 3, lengths)


def test_gradients_reach_every_parameter():
    lengths = torch.tensor([10, 3, 7, 1])
    assert_gradients_reach_every_parameter(make(SMALL | {"decoder": [8]}), clips(4), lengths)


@pytest.mark.parametrize("settings", [INSTRUMENTS, {"channels": [2], "padding": False}])
def test_without_padding_or_pooling_clips_have_one_length(settings):
    network = make(settings, MFCC)
    assert not network.any_length
    assert make(BASIC).any_length
    with pytest.raises(ValueError, match="clips of 49 frames only"):
        network(clips(2, MFCC, 48))
    with pytest.raises(ValueError, match="clips of 49 frames only"):
        network(clips(2, MFCC), torch.tensor([49, 48]))
    assert network(clips(2, MFCC), torch.tensor([49, 49])).shape == (2, 10)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"channels": []}, r"network.channels is \[\]; it takes a list of the channels"),
        ({"channels": [4, 0]}, r"network.channels is \[4, 0\]; it takes a list"),
        ({"channels": [4, 4], "strides": [[1, 2]]}, r"network.strides is \[\[1, 2\]\]; .* of 2 \["),
        ({"channels": [4], "pools": [[1, 2]] * 2}, r"network.pools is .*; it takes a list of 1 \["),
        ({"channels": [4], "pools": [[2]]}, r"network.pools is \[\[2\]\]; it takes a list of the"),
        ({"channels": [4], "bands": 14}, "network.bands is 14; it takes 1 to 13, the bins"),
        ({"channels": [4], "padding": "no"}, "network.padding is 'no'; it takes true"),
        ({"channels": [4] * 7, "padding": False}, "network.padding is false; it takes true .* 7"),
        ({"channels": [4], "dropout": 1}, "network.dropout is 1; it takes a number from 0"),
        ({"channels": [4], "width": 3}, "network.width is unknown; network takes input_norm"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        make(wrong, MFCC)
