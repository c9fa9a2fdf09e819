"""The residual network: ResNet-18, the front end of tall and long filters, padded clips."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.networks import resnet
from tests.padded import (
    EMBEDDINGS,
    assert_gradients_reach_every_parameter,
    assert_padding_changes_no_answer,
    build,
    clips,
    practised,
    shapes,
)

make = partial(build, resnet)
MFCC = InputSpec(1, 49, 13)
LOG_MEL = InputSpec(3, 101, 128)
OF_EMBEDDINGS = {
    "stem": [[16, 3, 7]],
    "stem_stride": [1, 4],
    "channels": [16, 32, 64],
    "blocks": 1,
    "stride": [1, 2],
    "shortcut": "identity",
}
RESNET18 = {
    "stem": [[64, 7, 7]],
    "stem_stride": [2, 2],
    "stem_pool": [2, 2],
    "channels": [64, 128, 256, 512],
    "input_norm": False,
}
MUSICAL = {  # the front end, then four blocks of two convolutions
    "stem": [[16, 3, 51], [16, 3, 89], [4, 9, 1], [4, 17, 1], [4, 33, 1]],
    "stem_maximum": True,
    "stem_stride": [1, 2],
    "channels": [64, 64, 128, 128],
    "blocks": 1,
    "stride": [2, 1],
}
SMALL = {
    "stem": [[2, 3, 5], [4, 5, 1]],
    "stem_stride": [2, 1],
    "stem_pool": [2, 3],
    "channels": [6, 8],
    "blocks": 2,
}


def map_shapes(network: nn.Module, x: torch.Tensor) -> list[tuple[int, ...]]:
    """Return the shape, without the batch, of the stem's map and of each block's."""
    found = shapes(network, x)
    blocks = (f"blocks.{place}" for place in range(len(network.blocks)))
    return [found[name] for name in ("stem", *blocks)]


@pytest.mark.parametrize(
    ("settings", "spec", "labels", "expected"),
    [
        (OF_EMBEDDINGS, EMBEDDINGS, 10, 75_450),
        (
            OF_EMBEDDINGS | {"blocks": 2},
            EMBEDDINGS,
            10,
            75_450 + 2 * sum(9 * c * c + 2 * c for c in (16, 32, 64)),
        ),
        (RESNET18, MFCC, 14, 11_177_422),
        (
            MUSICAL,
            LOG_MEL,
            80,
            2 * 3 * 128
            + 3 * (3 * 51 * 16 + 3 * 89 * 16 + (9 + 17 + 33) * 4)
            + 2 * 44
            + (3 * 44 * 64 + 3 * 64 * 64 + 44 * 64 + 6 * 64)
            + (3 * 64 * 64 + 3 * 64 * 64 + 64 * 64 + 6 * 64)
            + (3 * 64 * 128 + 3 * 128 * 128 + 64 * 128 + 6 * 128)
            + (3 * 128 * 128 + 3 * 128 * 128 + 128 * 128 + 6 * 128)
            + (128 * 80 + 80),
        ),
    ],
    ids=["embeddings", "two blocks", "resnet18", "musical"],
)
def test_parameters_are_as_many_as_the_studies_have(settings, spec, labels, expected):
    network = make(settings, spec, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(clips(2, spec)).shape == (2, labels)


def test_resnet18_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=14,
    )
    torch.manual_seed(0)
    reference = transformers.ResNetForImageClassification(config).eval()
    network = practised(make(RESNET18, MFCC, 14), MFCC)

    def copy(convolution, norm, layer):
        layer.convolution.load_state_dict(convolution.state_dict())
        layer.normalization.load_state_dict(norm.state_dict())

    copy(network.stem.convs[0], network.stem.norm, reference.resnet.embedder.embedder)
    layers = [layer for stage in reference.resnet.encoder.stages for layer in stage.layers]
    for block, layer in zip(network.blocks, layers, strict=True):
        copy(block.conv_1, block.norm_1, layer.layer[0])
        copy(block.conv_2, block.norm_2, layer.layer[1])
        if block.project is not None:
            copy(block.project, block.project_norm, layer.shortcut)
    reference.classifier[1].load_state_dict(network.classify.state_dict())
    with torch.inference_mode():
        x = clips(3, MFCC)
        torch.testing.assert_close(network(x), reference(x).logits)


def test_only_strides_make_maps_smaller():
    assert map_shapes(make(OF_EMBEDDINGS), clips(2)) == [
        (16, 10, 32), (16, 10, 32), (32, 10, 16), (64, 10, 8),
    ]  # fmt: skip
    assert map_shapes(make(RESNET18, MFCC), clips(2, MFCC)) == [
        (64, 13, 4), (64, 13, 4), (64, 13, 4), (128, 7, 2), (128, 7, 2), (256, 4, 1), (256, 4, 1),
        (512, 2, 1), (512, 2, 1),
    ]  # fmt: skip
    assert map_shapes(make(MUSICAL, LOG_MEL), clips(2, LOG_MEL)) == [
        (44, 101, 1), (64, 101, 1), (64, 51, 1), (128, 26, 1), (128, 13, 1),
    ]  # fmt: skip


def test_identities_carry_what_came_in():
    same = resnet.Block(6, 6, (3, 3), (1, 1), False)
    halving = resnet.Block(6, 12, (3, 3), (1, 2), False)
    for block in (same, halving):
        nn.init.zeros_(block.norm_2.weight)  # the residual is zero
    x = clips(2, InputSpec(6, 10, 32))
    torch.testing.assert_close(same(x, None)[0], x.relu())
    out, _ = halving(x, None)
    assert out.shape == (2, 12, 10, 16)
    torch.testing.assert_close(out[:, :6], x[..., ::2].relu())
    assert not out[:, 6:].any()


def test_the_front_end_takes_the_highest_value_over_the_bins():
    network = practised(make(MUSICAL, LOG_MEL, stem_stride=[1, 1]), LOG_MEL)
    x = clips(2, LOG_MEL)
    with torch.inference_mode():
        found, _ = network.stem(x, None)
        maps = [
            functional.conv2d(x, conv.weight, padding=(conv.kernel_size[0] // 2, 0)).amax(3)
            for conv in network.stem.convs
        ]
        expected = network.stem.norm(torch.cat(maps, 1)).relu()
    torch.testing.assert_close(found.squeeze(3), expected)
    assert all(block.conv_1.kernel_size == (3, 1) for block in network.blocks)


def test_the_last_layer_classifies_the_embedding():
    network = practised(make(SMALL, MFCC), MFCC)
    with torch.inference_mode():
        embedding = network.embed(clips(3, MFCC))
        assert embedding.shape == (3, 8)
        torch.testing.assert_close(network.classify(embedding), network(clips(3, MFCC)))


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        SMALL | {"shortcut": "identity", "stride": [3, 1]},
        SMALL | {"stem_maximum": True, "stem_stride": [3, 2]},
        SMALL | {"input_norm": False, "stem_pool": [1, 1]},
    ],
    ids=["projection", "identity", "maximum", "as it comes"],
)
def test_padding_changes_no_answer(settings):
    spec = InputSpec(2, 33, 13, any_length=True)
    network = practised(make(settings, spec), spec)
    lengths = torch.tensor([33, 1, 2, 7, 16, 17])
    assert_padding_changes_no_answer(network, clips(6, spec) - 3, lengths)


@pytest.mark.parametrize("others", [{}, {"stem_maximum": True}, {"shortcut": "identity"}])
def test_gradients_reach_every_parameter(others):
    lengths = torch.tensor([49, 20, 7, 1])
    assert_gradients_reach_every_parameter(make(SMALL | others, MFCC), clips(4, MFCC), lengths)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stem": [[4, 3, 4]]}, r"network.stem has \[4, 3, 4\]; .* an odd number of bins"),
        ({"stem": [[4, 2, 3]]}, r"network.stem has \[4, 2, 3\]; .* an odd number of frames"),
        ({"stem": [[4, 3, 14]], "stem_maximum": True}, r"\[4, 3, 14\]; .* 1 to 13 of bins"),
        ({"stem": [[4, 3]]}, r"network.stem is \[\[4, 3\]\]; it takes a list of \[channels"),
        ({"shortcut": "identity", "channels": [4, 3]}, "network.shortcut is 'identity'; it takes"),
        ({"shortcut": "none"}, "network.shortcut is 'none'; it takes identity"),
        ({"stride": [0, 1]}, r"network.stride is \[0, 1\]; it takes the stride"),
        ({"blocks": 0}, "network.blocks is 0; it takes a whole number of blocks"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(wrong, says):
    with pytest.raises(UserError, match=says):
        make(SMALL | wrong, MFCC)
