import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional

from stages import train
from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.learning.factory import load_pretrained
from tagging.learning.model_file import load_network
from tagging.networks.ast import Network, Settings
from tagging.sources.weights import convert_ast
from tests.generated import (
    example_fold,
    learnable_values,
    make_repository,
    multi_hot,
    write_clips,
    write_params,
)
from tests.padded import EMBEDDINGS, clips
from tests.published import PUBLIC_SPEC, as_transformers, transformers_ast

SMALL = {"patch": (4, 32), "stride": (2, 16), "width": 32, "heads": 4, "layers": 2}
PUBLIC = {"patch": (16, 16), "stride": (10, 10), "distillation": True}


def make(spec: InputSpec = EMBEDDINGS, labels: int = 6, **settings) -> Network:
    torch.manual_seed(0)
    return Network(Settings(**SMALL | settings), spec, labels).eval()


def converted(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return published weights, of 5 patches over the bins, as a state dict of the network."""
    arrays = convert_ast({name: tensor.numpy() for name, tensor in weights.items()}, bin_patches=5)
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def image_transformer(tokens: int = 2, width: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "cls_token": (1, 1, width),
        "dist_token": (1, 1, width),
        "pos_embed": (1, tokens + 36, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (10, width),
        "head.bias": (10,),
        "head_dist.weight": (10, width),
        "head_dist.bias": (10,),
    }
    for layer in range(2):
        for part, sizes in {
            "norm1": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "norm2": (width,),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes[f"blocks.{layer}.{part}.weight"] = sizes
            shapes[f"blocks.{layer}.{part}.bias"] = sizes[:1]
    if tokens == 1:
        shapes = {name: shape for name, shape in shapes.items() if "dist" not in name}
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def layer_input(network: Network, *inputs: torch.Tensor) -> torch.Tensor:
    """Return the input of the first layer: tokens and patches."""
    recorded = []
    handle = network.layers[0].register_forward_pre_hook(lambda _, x: recorded.append(x[0]))
    network(*inputs)
    handle.remove()
    return recorded[0]


def test_paper_s_network_has_1212_patches_and_85_million_parameters():
    with torch.device("meta"):
        network = Network(Settings(distillation=True), InputSpec(1, 1024, 128), 527)
    assert network.positions.shape == (101, 12, 768)
    assert 101 * 12 == 1212
    layer = 4 * (768 * 768 + 768) + 2 * 2 * 768 + 2 * 4 * 768 * 768 + 4 * 768 + 768
    expected = (
        (16 * 16 * 768 + 768) + (1212 + 2) * 768 + 12 * layer + 2 * 2 * 768 + (768 * 527 + 527)
    )
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("patch", "frames"), [((16, 16), 251), ((32, 32), 32), ((2, 64), 251), ((4, 16), 7)]
)
def test_patches_without_overlap_are_projected_as_by_the_convolution(patch, frames):
    spec = InputSpec(2, frames, 64)
    network = make(spec, patch=patch, stride=patch).double()
    x = clips(3, spec).double()
    expected = network.project(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(network.project_patches(x), expected)
    (network.project_patches(x) ** 2).sum().backward()
    by_patches = network.project.weight.grad.clone()
    network.zero_grad()
    (network.project(x) ** 2).sum().backward()
    torch.testing.assert_close(by_patches, network.project.weight.grad)


@pytest.mark.parametrize(
    ("patch", "stride", "frames", "patches"),
    [
        ((16, 16), (10, 10), 1024, (101, 12)),
        ((16, 16), (10, 10), 1025, (101, 12)),
        ((16, 16), (10, 10), 1026, (102, 12)),
        ((2, 128), (1, 128), 10, (9, 1)),
        ((32, 32), (32, 32), 1024, (32, 4)),
        ((3, 16), (3, 8), 10, (3, 15)),
    ],
)
def test_only_complete_patches_are_used(patch, stride, frames, patches):
    network = make(InputSpec(1, frames, 128), patch=patch, stride=stride)
    assert network.positions.shape == (*patches, 32)
    tokens = layer_input(network, clips(1, InputSpec(1, frames, 128)))
    assert tokens.shape == (1, 1 + patches[0] * patches[1], 32)


def test_logits_equal_those_of_transformers():
    model = transformers_ast()
    network = make(PUBLIC_SPEC, **PUBLIC)
    network.load_state_dict(converted(as_transformers(model.state_dict())))
    x = clips(3, PUBLIC_SPEC)
    with torch.inference_mode():
        expected = model(x[:, 0]).logits
        torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-4)
        pooled = model.audio_spectrogram_transformer(x[:, 0]).pooler_output
        torch.testing.assert_close(network.embed(x), pooled, atol=1e-5, rtol=1e-4)
    assert expected.std(0).min() > 1e-3  # outputs differ between clips


def test_published_weights_are_those_of_the_paper_s_network():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.ASTForAudioClassification(transformers.ASTConfig(num_labels=527))
        network = Network(Settings(distillation=True), InputSpec(1, 1024, 128), 527)
    shapes = {name: tensor.shape for name, tensor in as_transformers(model.state_dict()).items()}
    weights = convert_ast(
        {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    )
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in weights.items()} == expected


def test_a_file_of_the_published_layout_can_be_loaded(tmp_path):
    model = transformers_ast()
    save_file(converted(as_transformers(model.state_dict())), tmp_path / "model.safetensors")
    network = make(PUBLIC_SPEC, **PUBLIC)
    load_pretrained(network, tmp_path / "model.safetensors")
    x = clips(2, PUBLIC_SPEC)
    with torch.inference_mode():
        pooled = model.audio_spectrogram_transformer(x[:, 0]).pooler_output
        torch.testing.assert_close(network.embed(x), pooled, atol=1e-5, rtol=1e-4)


def test_transformers_itself_writes_the_published_layout(tmp_path):
    model = transformers_ast()
    model.save_pretrained(tmp_path)
    state = converted(load_file(tmp_path / "model.safetensors"))
    make(PUBLIC_SPEC, **PUBLIC).load_state_dict(state)
    expected = converted(as_transformers(model.state_dict()))
    assert all(torch.equal(state[name], expected[name]) for name in state | expected)


def test_classifier_is_kept_if_the_labels_differ(tmp_path):
    save_file(
        converted(as_transformers(transformers_ast(labels=9).state_dict())),
        tmp_path / "model.safetensors",
    )
    network = make(PUBLIC_SPEC, **PUBLIC)
    before = network.classify[1].weight.clone()
    load_pretrained(network, tmp_path / "model.safetensors")
    assert torch.equal(network.classify[1].weight, before)


def test_pretrained_positions_are_interpolated_cut_or_replaced(tmp_path):
    weights = as_transformers(transformers_ast().state_dict())
    save_file(converted(weights), tmp_path / "model.safetensors")
    flat = weights["audio_spectrogram_transformer.embeddings.position_embeddings"][0, 2:]
    grid = flat.unflatten(0, (5, 9))  # bins x frames
    shorter = make(InputSpec(1, 56, 56), **PUBLIC)
    load_pretrained(shorter, tmp_path / "model.safetensors")
    assert torch.equal(shorter.positions, grid[:, 2:7].transpose(0, 1))
    longer = make(InputSpec(1, 156, 56), **PUBLIC)
    load_pretrained(longer, tmp_path / "model.safetensors")
    expected = functional.interpolate(grid.permute(2, 0, 1)[None], (5, 15), mode="bilinear")[0]
    torch.testing.assert_close(longer.positions, expected.permute(2, 1, 0))
    drawn = make(PUBLIC_SPEC, **PUBLIC, first_positions="drawn")
    before = drawn.positions.clone()
    load_pretrained(drawn, tmp_path / "model.safetensors")
    assert torch.equal(drawn.positions, before)
    assert torch.equal(drawn.project.weight, longer.project.weight)


def test_one_channel_equals_three_equal_channels_of_an_image(tmp_path):
    weights = image_transformer()
    save_file(weights, tmp_path / "deit.safetensors")
    network = make(PUBLIC_SPEC, **PUBLIC)
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    load_pretrained(network, tmp_path / "deit.safetensors")
    kept = [name for name, tensor in network.state_dict().items() if torch.equal(tensor, own[name])]
    assert kept == [name for name in own if name.startswith("classify.")]
    x = clips(2, PUBLIC_SPEC)
    image = x.transpose(2, 3).expand(-1, 3, -1, -1)  # bins x frames
    expected = functional.conv2d(
        image, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=10
    )
    torch.testing.assert_close(network.project(x), expected.transpose(2, 3), atol=1e-4, rtol=1e-4)
    two = make(InputSpec(2, 96, 56), **PUBLIC)
    load_pretrained(two, tmp_path / "deit.safetensors")
    torch.testing.assert_close(
        two.project(x.expand(-1, 2, -1, -1)), network.project(x), atol=1e-4, rtol=1e-4
    )
    tokens = torch.cat([weights["cls_token"][0], weights["dist_token"][0]])
    torch.testing.assert_close(network.tokens, tokens + weights["pos_embed"][0, :2])
    # 6 x 6 positions: cut to 5 bins, interpolated to 9 frames.
    grid = weights["pos_embed"][0, 2:].unflatten(0, (6, 6))[1:6]
    expected = functional.interpolate(grid.permute(2, 0, 1)[None], (5, 9), mode="bilinear")[0]
    torch.testing.assert_close(network.positions, expected.permute(2, 1, 0))


def test_layers_of_an_image_transformer_are_reproduced():
    """Compare with pre-norm attention and perceptron, written out from the file's weights."""
    weights = image_transformer()
    network = make(PUBLIC_SPEC, **PUBLIC)
    network.load_state_dict(network.adapt_weights(weights), strict=False)
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(4))

    def part(name, h, apply=functional.linear):
        return apply(h, weights[f"blocks.1.{name}.weight"], weights[f"blocks.1.{name}.bias"])

    def norm(h, weight, bias):
        return functional.layer_norm(h, (32,), weight, bias, 1e-6)

    qkv = part("attn.qkv", part("norm1", x, norm)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
    h = x + part("attn.proj", attended)
    inner = functional.gelu(part("mlp.fc1", part("norm2", h, norm)))
    expected = h + part("mlp.fc2", inner)
    with torch.inference_mode():
        torch.testing.assert_close(network.layers[1](x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("distillation", [False, True])
def test_vit_and_deit_can_be_loaded_with_and_without_distillation_token(tokens, distillation):
    weights = image_transformer(tokens=tokens)
    network = make(PUBLIC_SPEC, **PUBLIC | {"distillation": distillation})
    adapted = network.adapt_weights(weights)
    class_token = weights["cls_token"][0, 0] + weights["pos_embed"][0, 0]
    assert torch.equal(adapted["tokens"][0], class_token)
    assert adapted["tokens"].shape == network.tokens.shape
    if distillation and tokens == 1:
        assert torch.equal(adapted["tokens"][1], class_token)


def replace(weights: dict, **replacements: torch.Tensor | None) -> dict:
    """Return weights with some replaced, added, or removed (None)."""
    names = {name.replace(".", "_"): name for name in weights}
    out = {**weights}
    for name, tensor in replacements.items():
        if tensor is None:
            del out[names[name]]
        else:
            out[names.get(name, name.replace("__", "."))] = tensor
    return out


@pytest.mark.parametrize(
    ("weights", "settings", "message"),
    [
        ({"conv.weight": torch.zeros(1)}, {}, "layout of the weights is unknown; supported are"),
        (
            replace(image_transformer(), blocks_1_mlp_fc2_bias=None),
            {},
            "it has no weights layers.1.linear2.bias",
        ),
        (replace(image_transformer(), pos_embed=None), {}, "it has no weights pos_embed"),
        (
            replace(image_transformer(), blocks__0__ls1__gamma=torch.zeros(32)),
            {},
            "it has weights blocks.0.ls1.gamma, the network has none",
        ),
        (image_transformer(), {"layers": 1}, r"it has weights layers\.1\..*, the network has none"),
        (image_transformer(), {"layers": 3}, r"it has no weights layers\.2\."),
        (
            image_transformer(),
            {"patch": (16, 32)},
            r"project.weight must have the shape \[32, 1, 16, 32\], got \[32, 1, 16, 16\]",
        ),
        (image_transformer(width=64), {}, r"must have the shape \[.*32.*\], got \[.*64"),
        (
            replace(image_transformer(), pos_embed=torch.zeros(1, 2 + 35, 32)),
            {},
            "pos_embed must have a square number of patches, got 35",
        ),
    ],
)
def test_weights_of_another_layout_are_refused(tmp_path, weights, settings, message):
    save_file(weights, tmp_path / "file.safetensors")
    network = make(PUBLIC_SPEC, **PUBLIC | settings)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(
        UserError, match=f"file.safetensors is of another network: .*{message}"
    ) as error_info:
        load_pretrained(network, tmp_path / "file.safetensors")
    assert "\n" not in str(error_info.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_published_weights_are_refused_by_other_networks(tmp_path):
    save_file(
        converted(as_transformers(transformers_ast().state_dict())), tmp_path / "file.safetensors"
    )
    without = make(PUBLIC_SPEC, **PUBLIC | {"distillation": False})
    with pytest.raises(UserError, match=r"tokens must have the shape \[1, 32\], got \[2, 32\]"):
        load_pretrained(without, tmp_path / "file.safetensors")
    fewer = make(InputSpec(1, 96, 46), **PUBLIC)
    with pytest.raises(UserError, match=r"positions must .* \[9, 4, 32\], got \[9, 5, 32\]"):
        load_pretrained(fewer, tmp_path / "file.safetensors")


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "file.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"file\.safetensors is not a safetensors file"):
        load_pretrained(make(), tmp_path / "file.safetensors")


@pytest.mark.parametrize("norm", ["fixed", "batch"])
@pytest.mark.parametrize("class_token", ["first", "last"])
@pytest.mark.parametrize("distillation", [False, True])
def test_gradients_reach_every_parameter(norm, class_token, distillation):
    network = make(norm=norm, class_token=class_token, distillation=distillation).double().train()
    weights = torch.randn(8, 6, generator=torch.Generator().manual_seed(2)).double()
    (network(clips(8).double()) * weights).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-10, name


@pytest.mark.parametrize("spec", [EMBEDDINGS, InputSpec(3, 24, 40), InputSpec(1, 61, 64)])
@pytest.mark.parametrize("norm", ["fixed", "batch"])
@pytest.mark.parametrize("class_token", ["first", "last"])
@pytest.mark.parametrize("positions", ["interpolated", "cut"])
def test_padding_has_no_effect(spec, norm, class_token, positions):
    network = make(
        spec, norm=norm, class_token=class_token, positions=positions, mean=2.0, spread=3.0
    )
    if norm == "batch":
        network.train()
        network(clips(16, spec) * 2 + 1)
        network.eval()
    lengths = [spec.frames, 1, 4, 5, 7, 9]
    unpadded = [clips(1, spec, length) + length for length in lengths]
    with torch.inference_mode():
        alone = torch.cat([network(clip) for clip in unpadded])
        for longest, value in ((spec.frames, 0), (spec.frames, torch.nan), (spec.frames + 7, 0)):
            padded = torch.full((6, spec.channels, longest, spec.bins), float(value))
            for row, clip in zip(padded, unpadded, strict=True):
                row[:, : clip.shape[2]] = clip[0]
            out = network(padded, torch.tensor(lengths))
            torch.testing.assert_close(out, alone, atol=1e-5, rtol=1e-4)
        # The test can fail: without the lengths, padding does change the outputs.
        assert not torch.allclose(network(padded), alone, atol=1e-3)


def test_frames_after_the_last_complete_patch_are_ignored():
    network = make(patch=(3, 16), stride=(3, 8))
    x = clips(2)
    later, earlier = x.clone(), x.clone()
    later[:, :, 9], earlier[:, :, 8] = 0, 0
    with torch.inference_mode():
        assert torch.equal(network(x), network(later))
        assert not torch.allclose(network(x), network(earlier), atol=1e-5)


@pytest.mark.parametrize("positions", ["interpolated", "cut"])
def test_learned_positions_are_unchanged_at_full_length(positions):
    network = make(positions=positions)
    positions = network.interpolate_positions(torch.tensor([4, 4]), 4)
    assert torch.equal(positions, network.positions.expand(2, 4, 7, 32))


def test_positions_are_interpolated_to_other_lengths():
    network, cut = make(), make(positions="cut")
    lengths = torch.tensor([1, 2, 3, 4, 5, 9])
    positions = network.interpolate_positions(lengths, 9)
    for length, actual in zip(lengths.tolist(), positions, strict=True):
        expected = functional.interpolate(
            network.positions.permute(2, 0, 1).unsqueeze(0), size=(length, 7), mode="bilinear"
        )[0].permute(1, 2, 0)
        torch.testing.assert_close(actual[:length], expected)
    # Positions cannot be cut for clips longer than the learned ones.
    torch.testing.assert_close(cut.interpolate_positions(lengths, 9)[4:], positions[4:])


def test_positions_are_cut_to_the_middle():
    network = make(positions="cut")
    for length, start in ((1, 2), (2, 1), (3, 1), (4, 0)):
        (positions,) = network.interpolate_positions(torch.tensor([length]), length)
        assert torch.equal(positions, network.positions[start : start + length])


@pytest.mark.parametrize("distillation", [False, True])
@pytest.mark.parametrize("class_token", ["first", "last"])
def test_class_token_is_first_or_last(class_token, distillation):
    network = make(class_token=class_token, distillation=distillation)
    tokens = layer_input(network, clips(2))
    number = 1 + distillation
    assert tokens.shape == (2, 4 * 7 + number, 32)
    own = tokens[:, :number] if class_token == "first" else tokens[:, -number:]
    assert torch.equal(own, network.tokens.expand(2, -1, -1))


def test_place_of_the_class_token_has_no_effect():
    """The order of tokens has no effect but through positions."""
    for distillation in (False, True):
        first = make(class_token="first", distillation=distillation)
        last = make(class_token="last", distillation=distillation)
        last.load_state_dict(first.state_dict())
        with torch.inference_mode():
            torch.testing.assert_close(first(clips(3)), last(clips(3)), atol=1e-5, rtol=1e-4)


def test_mean_of_both_tokens_is_classified():
    network = make(distillation=True)
    outputs = []
    network.layers[-1].register_forward_hook(lambda _, __, out: outputs.append(out))
    x = clips(3)
    logits = network(x)
    states = network.norm(outputs[0])
    embedding = (states[:, 0] + states[:, 1]) / 2
    torch.testing.assert_close(network.embed(x), embedding)
    torch.testing.assert_close(logits, network.classify(embedding))


def test_features_are_normalized_by_mean_and_spread():
    network = make(mean=-4.0, spread=3.0)
    x = torch.randn(4, 1, 500, 128, generator=torch.Generator().manual_seed(5)) * 3 - 4
    normalized = network.normalize_input(x, None)
    assert normalized.mean().abs() < 0.01
    assert (normalized.std() - 0.5).abs() < 0.01
    torch.testing.assert_close(make().normalize_input(x, None), x)


def test_batch_normalization_is_separate_for_bins_and_channels():
    spec = InputSpec(3, 24, 40)
    network = make(spec, norm="batch").train()
    scale = torch.arange(1.0, 4)[:, None, None] * torch.arange(1.0, 41)
    normalized = network.normalize_input(clips(8, spec) * scale + scale, None)
    assert normalized.mean((0, 2)).abs().max() < 1e-4
    torch.testing.assert_close(normalized.std((0, 2), correction=0), torch.ones(3, 40))


def test_top_10_study_s_settings_are_valid():
    settings = Settings.model_validate(
        {
            "patch": [2, 128],
            "stride": [1, 128],
            "width": 128,
            "heads": 4,
            "layers": 2,
            "dropout": 0.1,
            "class_token": "first",
            "norm": "batch",
        }
    )
    network = Network(settings, EMBEDDINGS, 10).eval()
    assert network(clips(2)).shape == (2, 10)
    assert network(clips(2)).dtype == torch.float32
    assert layer_input(network, clips(2)).shape == (2, 10, 128)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": (11, 32)}, r"network.patch must be 1 to 10 .* 1 to 128 .* got \[11, 32\]"),
        ({"patch": (4, 0)}, r"network.patch must be .*, got \[4, 0\]"),
        ({"stride": (5, 16)}, r"network.stride must be 1 to 4 .* 1 to 32 .* got \[5, 16\]"),
        ({"heads": 5}, "network.width must be a multiple of network.heads, 5, got 32"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


@pytest.mark.parametrize("first_positions", ["fitted", "drawn"])
def test_training_starts_from_a_configured_image_transformer(
    first_positions, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make_repository()
    labels = multi_hot(16, 6)
    write_clips(labels, [example_fold(16)], learnable_values(labels, PUBLIC_SPEC))
    settings = SMALL | PUBLIC | {"first_positions": first_positions}
    # With this learning rate the written weights are those that training started from.
    entry = {"architecture": "ast", "network": settings, "train": {"lr": 1e-12}}
    entry["weights"] = "data/weights/deit.safetensors"
    write_params(finetuned={"ast": yaml.safe_load(json.dumps(entry))})
    (tmp_path / "data/weights").mkdir()
    save_file(image_transformer(), tmp_path / "data/weights/deit.safetensors")
    train.main(".", "ast")
    network = load_network(tmp_path / "models/ast/seed0.safetensors", torch.device("cpu")).network
    expected = make(PUBLIC_SPEC, **settings)
    drawn = expected.positions.clone()
    load_pretrained(expected, tmp_path / "data/weights/deit.safetensors")
    torch.testing.assert_close(network.layers.state_dict(), expected.layers.state_dict())
    torch.testing.assert_close(network.positions, expected.positions)
    assert torch.equal(expected.positions, drawn) == (first_positions == "drawn")
