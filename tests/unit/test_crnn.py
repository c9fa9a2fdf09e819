"""The CRNN: the input of its LSTM, padded clips, and the studies' sizes."""

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
    assert_padding_has_no_effect,
    build,
    clips,
    output_shapes,
    with_batch_statistics,
)

make = partial(build, crnn)
MFCC = InputSpec(1, 49, 13)
EMBEDDING_STUDY = {
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
    shapes = output_shapes(network, x)
    return [shapes[f"convs.{k}"] for k in range(len(network.convs))]


@pytest.mark.parametrize(
    ("settings", "spec", "labels", "expected"),
    [
        (EMBEDDING_STUDY, EMBEDDINGS, 10, 485_754),
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
def test_parameter_counts_match_the_studies(settings, spec, labels, expected):
    network = make(settings, spec, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(clips(2, spec)).shape == (2, labels)


def test_lstm_reads_every_frame_without_strides():
    network = make(EMBEDDING_STUDY)
    assert map_shapes(network, clips(2)) == [(16, 10, 64), (32, 10, 16), (64, 10, 8)]
    assert network.lstm.input_size == 64 * 8
    network = make(INSTRUMENTS, MFCC)
    assert map_shapes(network, clips(2, MFCC)) == [(32, 49, 7), (64, 49, 4)]
    assert network.lstm.input_size == 64 * 4
    network = make(SMALL, MFCC)
    assert map_shapes(network, clips(2, MFCC)) == [(4, 13, 5), (6, 13, 2)]


def test_lstm_reads_channels_and_bins_frame_by_frame():
    network = with_batch_statistics(make(INSTRUMENTS, MFCC), MFCC)
    x = clips(3, MFCC)
    with torch.inference_mode():
        h = network.norm(x[:, 0].transpose(1, 2)).transpose(1, 2).unsqueeze(1)
        for conv in network.convs:
            h = conv.norm(functional.conv2d(h, conv.conv.weight, padding=1)).relu()
            h = functional.max_pool2d(functional.pad(h, (0, 1)), (1, 2))  # 13 to 7, 7 to 4
        _, (states, _) = network.lstm(torch.stack([frame.flatten(1) for frame in h.unbind(2)], 1))
        torch.testing.assert_close(network.embed(x), states[-1])
        torch.testing.assert_close(network(x), network.classify(states[-1]))


@pytest.mark.parametrize("overrides", [{}, {"input_norm": False}, {"pools": [], "layers": 1}])
def test_padding_has_no_effect(overrides):
    spec = InputSpec(2, 25, 13, any_length=True)
    network = with_batch_statistics(make(SMALL | overrides, spec), spec)
    lengths = torch.tensor([25, 1, 2, 7, 12, 13])
    assert_padding_has_no_effect(network, clips(6, spec) - 3, lengths)


def test_gradients_reach_every_parameter():
    lengths = torch.tensor([49, 20, 9, 5])
    assert_gradients_reach_every_parameter(make(SMALL, MFCC), clips(4, MFCC), lengths)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": []}, r"network.channels must have at least 1 item, got \[\]"),
        ({"strides": [[1, 2]]}, r"network.strides must have one .* 2 conv.*, got \[\[1, 2\]\]"),
        ({"pools": [[1, 2]] * 3}, r"network.pools must have one .* 2 convolutions, got \["),
        ({"pools": [[1, 2], [0, 1]]}, r"network.pools\[1\]\[0\] must be greater than .* 1, got 0"),
        ({"hidden": 0}, "network.hidden must be greater than or equal to 1, got 0"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(SMALL | settings)
