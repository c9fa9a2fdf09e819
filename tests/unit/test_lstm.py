"""The LSTM: the decoded states, padded clips, and the studies' sizes."""

from functools import partial

import pytest
import torch
from torch import nn

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.networks import lstm
from tests.padded import (
    EMBEDDINGS,
    assert_gradients_reach_every_parameter,
    assert_padding_has_no_effect,
    build,
    clips,
    with_batch_statistics,
)

make = partial(build, lstm)
MFCC = InputSpec(1, 49, 13)
INSTRUMENTS = {
    "hidden": 16,
    "layers": 3,
    "states": "all",
    "states_norm": True,
    "decoder": [128, 64],
    "input_norm": False,
}
SMALL = {"hidden": 6, "layers": 2}


# Each cell has four gates, each with a weight for every input and cell, and two biases.
@pytest.mark.parametrize(
    ("settings", "spec", "labels", "expected"),
    [
        ({"hidden": 128, "layers": 3}, EMBEDDINGS, 10, 397_834),
        (INSTRUMENTS, MFCC, 14, 21_806),
        # Normalization of 16 cells adds what no other input size could.
        (INSTRUMENTS | {"states_norm": False}, MFCC, 14, 21_806 - 2 * 16),
        (
            INSTRUMENTS | {"hidden": 128, "layers": 8},
            MFCC,
            14,
            4 * 128 * (13 + 128 + 2)
            + 7 * 4 * 128 * (128 + 128 + 2)
            + 2 * 128
            + (8 * 128 * 128 + 128)
            + (128 * 64 + 64)
            + (64 * 14 + 14),
        ),
    ],
    ids=["embeddings", "instruments", "not normalized", "eight layers"],
)
def test_parameter_counts_match_the_studies(settings, spec, labels, expected):
    network = make(settings, spec, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(clips(2, spec)).shape == (2, labels)


def test_last_states_of_all_layers_are_decoded():
    network = make(INSTRUMENTS | {"states_norm": False}, MFCC, 14).eval()
    linear = [layer for layer in network.decoder if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in linear] == [48, 128]
    assert network.classify.in_features == 64
    x = clips(3, MFCC)
    with torch.inference_mode():
        _, (states, _) = network.lstm(x[:, 0])
        h = torch.cat(list(states), 1)  # layer by layer
        for layer in linear:
            h = layer(h).relu()
        torch.testing.assert_close(network.embed(x), h)
        torch.testing.assert_close(network(x), network.classify(h))


def test_states_are_normalized_for_each_cell():
    network = make(INSTRUMENTS | {"decoder": []}, MFCC).train()
    states = network.embed(clips(32, MFCC)).unflatten(1, (3, 16))  # (batch, layers, cells)
    torch.testing.assert_close(states.mean((0, 1)), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(states.var((0, 1), correction=0), torch.ones(16), atol=0.02, rtol=0)


def test_embedding_is_the_output_at_the_last_frame():
    network = make(SMALL).eval()
    x = clips(3)
    with torch.inference_mode():
        h = network.norm(x[:, 0].transpose(1, 2)).transpose(1, 2)
        outputs, _ = network.lstm(h)
        torch.testing.assert_close(network.embed(x), outputs[:, -1])


@pytest.mark.parametrize("overrides", [{}, {"states": "all", "states_norm": True}, {"layers": 1}])
@pytest.mark.parametrize("input_norm", [True, False])
def test_padding_has_no_effect(overrides, input_norm):
    spec = InputSpec(2, 25, 13, any_length=True)
    network = with_batch_statistics(make(SMALL | overrides, spec, input_norm=input_norm), spec)
    lengths = torch.tensor([25, 1, 2, 7, 12, 13])
    assert_padding_has_no_effect(network, clips(6, spec), lengths)


def test_gradients_reach_every_parameter():
    lengths = torch.tensor([49, 20, 7, 2])
    assert_gradients_reach_every_parameter(
        make(INSTRUMENTS, MFCC, input_norm=True), clips(4, MFCC), lengths
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 0}, "network.layers must be greater than or equal to 1, got 0"),
        ({"states": "first"}, "network.states must be 'last' or 'all', got 'first'"),
        ({"states_norm": 1}, "network.states_norm must be a valid boolean, got 1"),
        ({"decoder": [0]}, r"network.decoder\[0\] must be greater than or equal to 1, got 0"),
        ({"dropout": 1.0}, "network.dropout must be less than 1, got 1.0"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(SMALL | settings)
