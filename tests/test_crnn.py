"""Convolutions into an LSTM: what it reads, padded clips, the studies' sizes."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.networks import crnn
from tests.padded import (
    EMBEDDINGS,
    assert_gradients_reach_every_parameter,
    assert_padding_changes_no_answer,
    build,
    clips,
    practised,
    shapes,
)

make = partial(build, crnn)
MFCC = InputSpec(1, 49, 13)
OF_EMBEDDINGS = {
    "channels": [16, 32, 64],
    "strides": [[1, 2], [1, 4], [1, 2]],
    "hidden": 128,
    "layers": 2,
}
INSTRUMENTS = {"channels": [32, 64], "pools": [[1, 2], [1, 2]], "hidden": 128, "layers": 2}
SMALL = {
    "channels": [4, 6],
    "strides": [[2, 1], [1, 2]],
    "pools": [[2, 3], [1, 2]],
    "hidden": 6,
    "layers": 2,
}


def map_shapes(network: nn.Module, x: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the shape, without the batch, of each convolution's map."""
    found = shapes(network, x)
    return [found[f"convs.{place}"] for place in range(len(network.convs))]


@pytest.mark.parametrize(
    ("settings", "spec", "labels", "expected"),
    [
        (OF_EMBEDDINGS, EMBEDDINGS, 10, 485_754),
        (
            INSTRUMENTS,
            MFCC,
            14,
            2 * 13
            + (9 * 32 + 2 * 32)
            + (9 * 32 * 64 + 2 * 64)
            + 4 * 128 * (64 * 4 + 128 + 2)
            + 4 * 128 * (128 + 128 + 2)
            + (128 * 14 + 14),
        ),
    ],
    ids=["embeddings", "instruments"],
)
def test_parameters_are_as_many_as_the_studies_have(settings, spec, labels, expected):
    network = make(settings, spec, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(clips(2, spec)).shape == (2, labels)


def test_the_lstm_has_every_frame_that_nothing_strides_over():
    network = make(OF_EMBEDDINGS)
    assert map_shapes(network, clips(2)) == [(16, 10, 64), (32, 10, 16), (64, 10, 8)]
    assert network.lstm.input_size == 64 * 8
    network = make(INSTRUMENTS, MFCC)
    assert map_shapes(network, clips(2, MFCC)) == [(32, 49, 7), (64, 49, 4)]
    assert network.lstm.input_size == 64 * 4
    network = make(SMALL, MFCC)
    assert map_shapes(network, clips(2, MFCC)) == [(4, 13, 5), (6, 13, 2)]


def test_the_lstm_reads_channels_and_bins_frame_by_frame():
    network = practised(make(INSTRUMENTS, MFCC), MFCC)
    x = clips(3, MFCC)
    with torch.inference_mode():
        h = network.norm(x[:, 0].transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        for conv in network.convs:
            h = conv.norm(functional.conv2d(h, conv.conv.weight, padding=1)).relu()
            h = functional.max_pool2d(functional.pad(h, (0, 1)), (1, 2))  # 13 to 7, 7 to 4
        _, (states, _) = network.lstm(torch.stack([frame.flatten(1) for frame in h.unbind(2)], 1))
        torch.testing.assert_close(network.embed(x), states[-1])
        torch.testing.assert_close(network(x), network.classify(states[-1]))


@pytest.mark.parametrize("others", [{}, {"input_norm": False}, {"pools": [], "layers": 1}])
def test_padding_changes_no_answer(others):
    spec = InputSpec(2, 25, 13, any_length=True)
    network = practised(make(SMALL | others, spec), spec)
    lengths = torch.tensor([25, 1, 2, 7, 12, 13])
    assert_padding_changes_no_answer(network, clips(6, spec) - 3, lengths)


def test_gradients_reach_every_parameter():
    lengths = torch.tensor([49, 20, 9, 5])
    assert_gradients_reach_every_parameter(make(SMALL, MFCC), clips(4, MFCC), lengths)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"channels": []}, r"network.channels is \[\]; it takes a list of the channels"),
        ({"strides": [[1, 2]]}, r"network.strides is \[\[1, 2\]\]; it takes a list of 2 \["),
        ({"pools": [[1, 2]] * 3}, r"network.pools is .*; it takes a list of 2 \["),
        ({"pools": [[1, 2], [0, 1]]}, r"network.pools is \[\[1, 2\], \[0, 1\]\]; it takes a list"),
        ({"hidden": 0}, "network.hidden is 0; it takes a whole number of cells"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        make(SMALL | wrong)
