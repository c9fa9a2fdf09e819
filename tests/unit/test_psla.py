import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.learning.factory import load_pretrained
from tagging.networks.psla import Network, Settings
from tests.padded import clips

SMALL = {"width": 0.25, "depth": 0.3}
SPEC = InputSpec(1, 96, 64)  # 3 x 2 in the last map
POOLING = {
    "mean": {"pooling": "mean"},
    "mean_max": {"pooling": "mean_max"},
    "one head": {"heads": 1},
    "four heads": {"heads": 4},
}
every = pytest.mark.parametrize("pooling", POOLING.values(), ids=POOLING)


def make(spec: InputSpec = SPEC, labels: int = 5, **settings) -> Network:
    torch.manual_seed(0)
    return Network(Settings(**SMALL | settings), spec, labels).eval()


def with_batch_statistics(network: Network, spec: InputSpec = SPEC) -> Network:
    """Draw batch statistics, so that normalization is no identity in evaluation."""
    network.train()
    with torch.no_grad():
        network(clips(16, spec) + 1)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.3, 1.0)
    return network.eval()


def image_model(channels: int = 3, depthwise_padding: tuple[int, ...] = ()):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(2)
    config = transformers.EfficientNetConfig(
        num_channels=channels,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        hidden_dim=320,
        depthwise_padding=depthwise_padding,
        num_labels=5,
    )
    model = transformers.EfficientNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize(
    ("width", "depth", "blocks", "channels"),
    [(1.0, 1.0, 16, 1280), (1.0, 1.1, 23, 1280), (1.1, 1.2, 23, 1408)],
    ids=["B0", "B1", "B2"],
)
def test_blocks_and_channels_match_efficientnet(width, depth, blocks, channels):
    transformers = pytest.importorskip("transformers")
    config = transformers.EfficientNetConfig(
        num_channels=1, width_coefficient=width, depth_coefficient=depth, hidden_dim=channels
    )
    with torch.device("meta"):
        network = Network(Settings(width=width, depth=depth), InputSpec(1, 1056, 128), 527)
        model = transformers.EfficientNetModel(config)
    assert len(network.blocks) == blocks
    assert network.classify.in_features == channels
    adapted = network.adapt_weights(model.state_dict())
    assert set(network.state_dict()) - set(adapted) == {
        "attend.weight", "attend.bias", "classify.weight", "classify.bias", "head_weights",
    }  # fmt: skip


def test_b2_has_7_700_418_parameters_beside_the_heads():
    with torch.device("meta"):
        network = Network(Settings(), InputSpec(1, 1056, 128), 527)
    sizes = {name: tensor.numel() for name, tensor in network.named_parameters()}
    backbone = [
        size for name, size in sizes.items() if name.split(".")[0] not in network.classifier_layers
    ]
    assert sum(backbone) == 7_700_418
    assert sum(sizes.values()) - sum(backbone) == 2 * (1408 + 1) * 4 * 527 + 4


@pytest.mark.parametrize(
    ("frames", "bins", "padding"),
    # Maps of odd sizes are padded on both sides. transformers' models need the numbers of the
    # blocks where that is so, for images of one size.
    [(96, 64, ()), (64, 128, ()), (80, 80, (5,)), (36, 36, (2, 3, 5)), (132, 36, (2, 3, 5))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_maps_equal_those_of_transformers(frames, bins, padding, channels):
    spec = InputSpec(channels, frames, bins)
    model = image_model(channels, padding)
    network = make(spec, pooling="mean")
    network.load_state_dict(network.adapt_weights(model.state_dict()), strict=False)
    network.classify.load_state_dict(model.classifier.state_dict())
    x = clips(2, spec)
    image = x.transpose(2, 3)  # bins x frames
    with torch.inference_mode():
        expected = model.efficientnet(image).last_hidden_state.transpose(2, 3)
        h, mask = network.feature_map(x)
        torch.testing.assert_close(h, expected, atol=1e-4, rtol=1e-4)
        assert mask is None
        logits = model.classifier(expected.mean((2, 3)))
        torch.testing.assert_close(network(x), logits, atol=1e-4, rtol=1e-4)
    assert (h[0] - h[1]).abs().max() > 0.1


def test_one_channel_equals_three_equal_channels_of_an_image(tmp_path):
    model = image_model()
    model.save_pretrained(tmp_path)
    network = make()
    load_pretrained(network, tmp_path / "model.safetensors")
    x = clips(2, SPEC)
    with torch.inference_mode():
        image = x.transpose(2, 3).expand(-1, 3, -1, -1)
        expected = model.efficientnet(image).last_hidden_state.transpose(2, 3)
        torch.testing.assert_close(network.feature_map(x)[0], expected, atol=1e-4, rtol=1e-4)
        two = make(InputSpec(2, 96, 64))
        load_pretrained(two, tmp_path / "model.safetensors")
        h, _ = two.feature_map(x.expand(-1, 2, -1, -1))
        torch.testing.assert_close(h, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            lambda weights: {"conv.weight": torch.zeros(1)},
            {},
            r"it has no weights stem\.conv\.weight",
        ),
        (
            lambda weights: {name: weights[name] for name in weights if "top_bn" not in name},
            {},
            r"it has no weights top\.norm\.weight",
        ),
        (lambda weights: weights, {"depth": 0.1}, "must have the shape|the network has none"),
        (lambda weights: weights, {"depth": 1.0}, "must have the shape|it has no weights"),
        (
            lambda weights: weights,
            {"width": 0.5},
            r"must have the shape \[16, 1, 3, 3\], got \[8, 1, 3, 3\]",
        ),
    ],
)
def test_weights_of_another_layout_are_refused(tmp_path, change, settings, message):
    weights = change({**image_model(channels=1).state_dict()})
    save_file(weights, tmp_path / "file.safetensors")
    network = make(**settings)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(
        UserError, match=rf"file\.safetensors is of another network: .*({message})"
    ) as error_info:
        load_pretrained(network, tmp_path / "file.safetensors")
    assert "\n" not in str(error_info.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "file.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"file\.safetensors is not a safetensors file"):
        load_pretrained(make(), tmp_path / "file.safetensors")


@every
@pytest.mark.parametrize("norm", ["fixed", "batch"])
def test_gradients_reach_every_parameter(pooling, norm):
    network = make(**pooling, norm=norm, drop_blocks=0.0).double().train()
    weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(2)).double()
    (network(clips(4, SPEC).double()) * weights).sum().backward()
    for name, parameter in network.named_parameters():
        # The next block's batch normalization cancels the constant that it adds.
        without_effect = name.endswith("project.norm.bias")
        reached = parameter.grad is not None and parameter.grad.abs().max() > 1e-10
        assert reached != without_effect, name


@pytest.mark.parametrize(
    "spec", [SPEC, InputSpec(1, 10, 128), InputSpec(3, 24, 40), InputSpec(1, 61, 64)]
)
@every
@pytest.mark.parametrize("norm", ["fixed", "batch"])
def test_padding_has_no_effect_in_evaluation(spec, pooling, norm):
    network = with_batch_statistics(make(spec, **pooling, norm=norm, mean=2.0, spread=3.0), spec)
    lengths = [spec.frames, 1, 2, 5, 6, spec.frames - 1]
    unpadded = [clips(1, spec, length) + length / 4 for length in lengths]
    with torch.inference_mode():
        alone = torch.cat([network(clip) for clip in unpadded])
        embedded = torch.cat([network.embed(clip) for clip in unpadded])
        for longest, value in ((spec.frames, 0), (spec.frames, torch.nan), (spec.frames + 35, 0)):
            padded = torch.full((6, spec.channels, longest, spec.bins), float(value))
            for row, clip in zip(padded, unpadded, strict=True):
                row[:, : clip.shape[2]] = clip[0]
            frames = torch.tensor(lengths)
            torch.testing.assert_close(network(padded, frames), alone, atol=1e-5, rtol=1e-4)
            embedding = network.embed(padded, frames)
            torch.testing.assert_close(embedding, embedded, atol=1e-5, rtol=1e-4)
        # The test can fail: without the lengths, padding does change the outputs.
        assert not torch.allclose(network(padded), alone, atol=1e-3)


def test_padding_has_no_effect_in_training():
    """Batch statistics and gradients are those of the real frames."""
    lengths = [96, 33, 50, 64]
    results = []
    for longest in (96, 131):
        network = make(drop_blocks=0.0).double().train()
        x = torch.zeros(4, 1, longest, 64, dtype=torch.float64)
        for row, length in zip(x, lengths, strict=True):
            row[:, :length] = clips(1, SPEC, length)[0]
        weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(2)).double()
        (network(x, torch.tensor(lengths)) * weights).sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        results.append([*gradients, *network.buffers()])
    for short, long in zip(*results, strict=True):
        torch.testing.assert_close(short, long, atol=1e-8, rtol=1e-6)


def test_map_has_1_32_of_the_frames_and_bins_rounded_up():
    for frames, bins, expected in ((96, 64, (3, 2)), (97, 40, (4, 2)), (10, 128, (1, 4))):
        spec = InputSpec(1, frames, bins)
        h, _ = make(spec).feature_map(clips(2, spec))
        assert h.shape == (2, 320, *expected)
    _, mask = make().feature_map(clips(5, SPEC), torch.tensor([96, 65, 64, 33, 1]))
    assert mask.sum(1).tolist() == [3, 3, 2, 2, 1]


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_equals_the_paper_s_formula(heads):
    network = with_batch_statistics(make(heads=heads)).double()
    if heads > 1:
        network.head_weights.data = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    x = clips(3, SPEC).double()
    with torch.no_grad():
        h = network.feature_map(x)[0].mean(3).transpose(1, 2)  # (batch, frames, width)
        expected = 0
        for head in range(heads):
            own = slice(head, None, heads)
            weights = functional.linear(h, network.attend.weight[own], network.attend.bias[own])
            weights = weights.sigmoid() / weights.sigmoid().sum(1, keepdim=True)
            p = functional.linear(h, network.classify.weight[own], network.classify.bias[own])
            share = network.head_weights.softmax(0)[head] if heads > 1 else 1
            expected = expected + share * (weights * p.sigmoid()).sum(1)
        torch.testing.assert_close(network(x), expected.logit(), atol=1e-9, rtol=1e-9)


def test_heads_start_equal_and_sum_to_one():
    torch.testing.assert_close(make().head_weights.softmax(0), torch.full((4,), 0.25))


@pytest.mark.parametrize("pooling", ["mean", "mean_max"])
def test_embedding_is_pooled_over_bins_then_frames(pooling):
    network = with_batch_statistics(make(pooling=pooling))
    x = clips(3, SPEC)
    with torch.inference_mode():
        h = network.feature_map(x)[0].mean(3)
        expected = h.mean(2) + h.amax(2) if pooling == "mean_max" else h.mean(2)
        torch.testing.assert_close(network.embed(x), expected)
        torch.testing.assert_close(network(x), network.classify(expected))


def test_blocks_are_dropped_in_training_for_single_clips():
    network = with_batch_statistics(make(drop_blocks=0.9, pooling="mean"))
    rates = [block.drop for block in network.blocks]
    assert rates == pytest.approx([0.9 * k / len(rates) for k in range(len(rates))])
    (residual,) = (block for block in network.blocks[1:] if block.residual)
    for module in residual.modules():
        module.training = False
    x = torch.randn(400, residual.project.norm.num_features, 2, 2)
    with torch.no_grad():
        branch = residual(x, None)[0] - x
        residual.training = True
        torch.manual_seed(0)
        dropped = residual(x, None)[0] - x
    zero = (dropped == 0).flatten(1).all(1)
    assert zero.float().mean() == pytest.approx(residual.drop, abs=0.1)
    kept = ~zero
    torch.testing.assert_close(
        dropped[kept], branch[kept] / (1 - residual.drop), atol=1e-4, rtol=1e-4
    )


def test_features_are_normalized_by_mean_and_spread():
    network = make(mean=-4.0, spread=3.0)
    x = torch.randn(4, 1, 500, 64, generator=torch.Generator().manual_seed(5)) * 3 - 4
    normalized = network.normalize_input(x, None)
    assert normalized.mean().abs() < 0.02
    assert (normalized.std() - 1).abs() < 0.02


@every
@pytest.mark.parametrize("labels", [1, 5])
def test_output_is_a_logit_for_each_label(pooling, labels):
    out = make(labels=labels, **pooling)(clips(2, SPEC))
    assert out.shape == (2, labels)
    assert out.dtype == torch.float32
