"""The residual network: ResNet-18, the frontend of tall and long kernels, padded clips."""

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
    assert_padding_has_no_effect,
    build,
    clips,
    output_shapes,
    with_batch_statistics,
)

make = partial(build, resnet)
MFCC = InputSpec(1, 49, 13)
LOG_MEL = InputSpec(3, 101, 128)
EMBEDDING_STUDY = {
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
MUSICAL = {  # the frontend, then four blocks of two convolutions
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
    shapes = output_shapes(network, x)
    blocks = (f"blocks.{k}" for k in range(len(network.blocks)))
    return [shapes[name] for name in ("stem", *blocks)]


@pytest.mark.parametrize(
    ("settings", "spec", "labels", "expected"),
    [
        (EMBEDDING_STUDY, EMBEDDINGS, 10, 75_450),
        (
            EMBEDDING_STUDY | {"blocks": 2},
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
def test_parameter_counts_match_the_studies(settings, spec, labels, expected):
    network = make(settings, spec, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(clips(2, spec)).shape == (2, labels)


def test_resnet18_equals_transformers():
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
    network = with_batch_statistics(make(RESNET18, MFCC, 14), MFCC)

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


def test_only_strides_reduce_maps():
    assert map_shapes(make(EMBEDDING_STUDY), clips(2)) == [
        (16, 10, 32), (16, 10, 32), (32, 10, 16), (64, 10, 8),
    ]  # fmt: skip
    assert map_shapes(make(RESNET18, MFCC), clips(2, MFCC)) == [
        (64, 13, 4), (64, 13, 4), (64, 13, 4), (128, 7, 2), (128, 7, 2), (256, 4, 1), (256, 4, 1),
        (512, 2, 1), (512, 2, 1),
    ]  # fmt: skip
    assert map_shapes(make(MUSICAL, LOG_MEL), clips(2, LOG_MEL)) == [
        (44, 101, 1), (64, 101, 1), (64, 51, 1), (128, 26, 1), (128, 13, 1),
    ]  # fmt: skip


def test_identity_shortcuts_pass_the_input_on():
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


def test_frontend_takes_the_maximum_over_bins():
    network = with_batch_statistics(make(MUSICAL, LOG_MEL, stem_stride=[1, 1]), LOG_MEL)
    x = clips(2, LOG_MEL)
    with torch.inference_mode():
        out, _ = network.stem(x, None)
        maps = [
            functional.conv2d(x, conv.weight, padding=(conv.kernel_size[0] // 2, 0)).amax(3)
            for conv in network.stem.convs
        ]
        expected = network.stem.norm(torch.cat(maps, 1)).relu()
    torch.testing.assert_close(out.squeeze(3), expected)
    assert all(block.conv_1.kernel_size == (3, 1) for block in network.blocks)


def test_classifier_reads_the_embedding():
    network = with_batch_statistics(make(SMALL, MFCC), MFCC)
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
    ids=["projection", "identity", "maximum", "not normalized"],
)
def test_padding_has_no_effect(settings):
    spec = InputSpec(2, 33, 13, any_length=True)
    network = with_batch_statistics(make(settings, spec), spec)
    lengths = torch.tensor([33, 1, 2, 7, 16, 17])
    assert_padding_has_no_effect(network, clips(6, spec) - 3, lengths)


@pytest.mark.parametrize("overrides", [{}, {"stem_maximum": True}, {"shortcut": "identity"}])
def test_gradients_reach_every_parameter(overrides):
    lengths = torch.tensor([49, 20, 7, 1])
    assert_gradients_reach_every_parameter(make(SMALL | overrides, MFCC), clips(4, MFCC), lengths)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem": [[4, 3, 4]]}, r"network.stem .* an odd number of bins, got .* \[4, 3, 4\]"),
        ({"stem": [[4, 2, 3]]}, r"network.stem .* an odd number of frames and .* \[4, 2, 3\]"),
        ({"stem": [[4, 3, 14]], "stem_maximum": True}, r"1 to 13 bins, got .* \[4, 3, 14\]"),
        ({"stem": [[4, 3]]}, r"network.stem\[0\].* is missing"),
        ({"shortcut": "identity", "channels": [4, 3]}, "network.shortcut must be .* 'identity'"),
        ({"shortcut": "none"}, "network.shortcut must be 'identity' or 'projection', got 'none'"),
        ({"stride": [0, 1]}, r"network.stride\[0\] must be greater than or equal to 1, got 0"),
        ({"blocks": 0}, "network.blocks must be greater than or equal to 1, got 0"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(SMALL | settings, MFCC)
