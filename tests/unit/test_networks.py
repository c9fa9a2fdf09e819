"""Requirements of every network, and tests of attention, yac and identity."""

import importlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.layers.base import TaggingNetwork
from tagging.learning.factory import load_pretrained
from tagging.networks import attention, cnn, yac
from tests.padded import output_shapes
from tests.small_networks import ARCHITECTURES, SPECIAL_SPECS, SPECS, TABLE, small_settings

CASES = [
    pytest.param(name, settings, id=f"{name}-{k}")
    for name in sorted(ARCHITECTURES)
    for k, settings in enumerate(small_settings(name))
]
WITH_SPECS = [
    pytest.param(*case.values, spec, id=f"{case.id}-{spec.channels}x{spec.frames}x{spec.bins}")
    for case in CASES
    for spec in SPECIAL_SPECS.get(case.values[0], SPECS)
]
every = pytest.mark.parametrize(("name", "settings"), CASES)
every_size = pytest.mark.parametrize(("name", "settings", "spec"), WITH_SPECS)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str, settings: dict, spec: InputSpec = SPECS[0], labels: int = 10) -> TaggingNetwork:
    module = importlib.import_module(f"tagging.networks.{name}")
    dropout = {"dropout": 0.0} if "dropout" in module.Settings.model_fields else {}
    torch.manual_seed(0)
    return module.Network(module.Settings(**dropout | settings), spec, labels)


def trained(
    name: str, settings: dict, spec: InputSpec = SPECS[0], labels: int = 10
) -> TaggingNetwork:
    """Make a network and randomize its weights, many of which are 0 or 1 at the start."""
    network = make(name, settings, spec, labels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
            parameter.add_(0.02 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # the mean of all batches
        network.train()(clips(16, spec, seed=2) ** 2)
    return network.eval()


def clips(number: int, spec: InputSpec = SPECS[0], seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, spec.channels, spec.frames, spec.bins, generator=generator)


def shortened(x: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """Return the clips with zeros after their lengths, as in padded batches."""
    real = torch.arange(x.shape[2]) < torch.tensor(frames).unsqueeze(1)
    return x * real[:, None, :, None]


def test_every_network_is_tested(monkeypatch):
    assert set(TABLE) <= ARCHITECTURES, "tagging/networks has no files of these names"
    assert small_settings("a_new_file") == [{}]
    monkeypatch.delitem(TABLE, "lstm")
    assert small_settings("lstm")[0].keys() >= {"hidden", "layers"}


@every_size
def test_output_is_a_number_for_each_label(name, settings, spec):
    for labels in (1, 13):
        network = trained(name, settings, spec, labels)
        x = clips(3, spec)
        with torch.inference_mode():
            out = network(x)
            alone = network(x[1:2])
            full = network(x, torch.full((3,), spec.frames))
        assert out.shape == (3, labels)
        assert out.dtype == torch.float32
        assert out.isfinite().all()
        assert labels == 1 or not torch.allclose(out[0], out[1])
        # Outputs depend neither on the other clips nor on whether full lengths are passed.
        torch.testing.assert_close(alone, out[1:2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(full, out, atol=1e-5, rtol=1e-4)


@every_size
def test_embedding_is_a_vector_for_each_clip(name, settings, spec):
    network = trained(name, settings, spec)
    if not network.has_embedding:
        pytest.skip("has no embedding")
    with torch.inference_mode():
        out = network.embed(clips(3, spec), torch.full((3,), spec.frames))
    assert out.dim() == 2
    assert len(out) == 3
    assert out.isfinite().all()
    assert not torch.allclose(out[0], out[1])


@every
def test_weights_and_outputs_are_reproducible(name, settings):
    first, second = make(name, settings).state_dict(), make(name, settings).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    first, second = trained(name, settings), trained(name, settings)
    with torch.inference_mode():
        out = first(clips(4))
        assert torch.equal(second(clips(4)), out)
        assert torch.equal(first(clips(4)), out)


@every
def test_outputs_can_be_the_embedding(name, settings):
    network = make(name, settings, labels=5).eval()
    keys = list(network.state_dict())
    out = network(clips(3))
    network.embeds_by_output = True
    assert network.has_embedding
    assert torch.equal(network.embed(clips(3)), out)
    assert list(network.state_dict()) == keys


@every
def test_pretrained_weights_are_all_loaded_but_the_classifier_s(name, settings, tmp_path):
    if name == "yac":
        pytest.skip("its layers have the published names: a file with other labels is refused")
    pretrained, network = trained(name, settings), make(name, settings, labels=4)
    save_file(pretrained.state_dict(), tmp_path / "pretrained.safetensors")
    load_pretrained(network, tmp_path / "pretrained.safetensors", freeze=True)
    source, own = pretrained.state_dict(), network.state_dict()
    loaded = {key for key, tensor in source.items() if torch.equal(tensor, own[key])}
    resized = {key for key, tensor in source.items() if tensor.shape != own[key].shape}
    assert resized  # the numbers of labels differ
    assert resized <= own.keys() - loaded
    trainable = {key for key, tensor in network.named_parameters() if tensor.requires_grad}
    assert trainable == dict(network.named_parameters()).keys() - loaded
    x = clips(3)
    if pretrained.has_embedding and "levels" not in settings:
        with torch.inference_mode():
            torch.testing.assert_close(network.eval().embed(x), pretrained.embed(x))


@every
def test_gradients_reach_every_parameter(name, settings):
    # The longest clips: over a single frame, attention has nothing to learn.
    spec = SPECIAL_SPECS.get(name, SPECS)[-1]
    network = trained(name, settings, spec).train()
    out = network(clips(4, spec))
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # Normalization or a softmax may cancel a bias.
        assert parameter.grad.any() or "bias" in key, key


@every_size
def test_padding_has_no_effect_in_evaluation(name, settings, spec):
    network = trained(name, settings, spec).double()
    if not network.supports_variable_length:
        pytest.skip("supports clips of one length only")
    lengths = [1, spec.frames // 3, spec.frames * 2 // 3, spec.frames]
    frames = torch.tensor(lengths)
    x = shortened(clips(4, spec).double(), lengths)
    with torch.inference_mode():
        alone = torch.cat([network(x[k : k + 1, :, :n]) for k, n in enumerate(lengths)])
        torch.testing.assert_close(network(x, frames), alone)
        torch.testing.assert_close(network(x[:3, :, : lengths[2]], frames[:3]), alone[:3])
        # The test can fail: without the lengths, padding does change the outputs.
        assert not torch.allclose(network(x)[0], alone[0], rtol=1e-3)
        if network.has_embedding:
            short = network.embed(x[:1, :, :1])
            torch.testing.assert_close(network.embed(x, frames)[:1], short)


@every
def test_padding_has_no_effect_in_training(name, settings):
    if not make(name, settings).supports_variable_length:
        pytest.skip("supports clips of one length only")
    lengths = [7, 3, 5, 6]
    x = shortened(clips(4).double(), lengths)
    results = []
    for length in (7, 10):
        network = trained(name, settings).double().train()
        out = network(x[:, :, :length], torch.tensor(lengths))
        (out * torch.linspace(-1, 1, 10)).sum().backward()
        gradients = [parameter.grad for parameter in network.parameters()]
        results.append([out, *gradients, *network.buffers()])
    for short, long in zip(*results, strict=True):
        torch.testing.assert_close(short, long, atol=1e-8, rtol=1e-6)


# attention

ATTENTION, MULTI_LEVEL = TABLE["attention"], TABLE["attention"][-1]


def normalized(x: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return x * norm.weight + norm.bias


def layers_by_hand(network: nn.Module, clip: torch.Tensor) -> list[torch.Tensor]:
    """Return the output of each layer for a clip (1, frames, bins): (frames, hidden)."""
    outputs = [normalized(clip[0], network.norm)]
    for layer in network.layers:
        h = outputs[-1] @ layer.linear.weight.T
        outputs.append(normalized(h, layer.norm).clamp_min(0))
    return outputs[1:]


def level_by_hand(level: nn.Module, h: torch.Tensor, pooling: str, heads: int) -> torch.Tensor:
    """Return the logits of a level for the frames of its layer (frames, hidden): (labels,)."""
    p = level.classify(h).sigmoid()  # (frames, heads * labels)
    if pooling == "mean":
        return p.mean(0).logit()
    if pooling == "max":
        return p.amax(0).logit()
    if pooling == "feature":
        weights = level.attend(h).exp()
        return level.classify((weights / weights.sum(0) * h).sum(0))
    attention = level.attend(h).exp()
    head_p = (attention / attention.sum(0) * p).sum(0).view(heads, -1)
    weights = level.head_weights.exp() if heads > 1 else torch.ones(1, dtype=h.dtype)
    return ((weights / weights.sum()).unsqueeze(1) * head_p).sum(0).logit()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", ATTENTION)
def test_attention_equals_the_papers_formulas(settings, dtype):
    network = trained("attention", settings).to(dtype)
    heads = settings.get("heads", 1)
    if heads > 1:
        network.levels[0].head_weights.data = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=dtype)
    lengths = [10, 1, 4, 7]
    x = shortened(clips(4), lengths).to(dtype)
    expected = []
    with torch.no_grad():
        for clip, length in zip(x, lengths, strict=True):
            last = layers_by_hand(network, clip[:, :length])[-len(network.levels) :]
            logits = [
                level_by_hand(level, h, settings["pooling"], heads)
                for level, h in zip(network.levels, last, strict=True)
            ]
            expected.append(network.classify(torch.cat(logits)) if len(logits) > 1 else logits[0])
        out = network(x, torch.tensor(lengths))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(out, torch.stack(expected), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("settings", [*ATTENTION[:2], ATTENTION[3]])
def test_pooled_logits_are_exact_where_probabilities_round_to_one(settings):
    network = trained("attention", settings)
    logits = torch.linspace(-80, 80, 10)
    with torch.no_grad():
        network.levels[0].classify.weight.zero_()
        network.levels[0].classify.bias.copy_(logits.repeat(settings.get("heads", 1)))
        out = network(clips(2))
    torch.testing.assert_close(out, logits.expand(2, 10))


def test_heads_start_equal():
    network = make("attention", ATTENTION[1])
    torch.testing.assert_close(network.levels[0].head_weights.softmax(0), torch.full((4,), 0.25))


@pytest.mark.parametrize("settings", ATTENTION)
def test_attention_ignores_the_order_of_frames(settings):
    network = trained("attention", settings)
    with torch.inference_mode():
        torch.testing.assert_close(network(clips(4).flip(2)), network(clips(4)))


@pytest.mark.parametrize("settings", [ATTENTION[-2], MULTI_LEVEL])
def test_dropout_drops_a_channel_for_the_whole_clip(settings):
    network = make("attention", settings | {"dropout": 0.5}).train()
    outputs = []
    for layer in network.layers:
        layer.norm.register_forward_hook(lambda _, __, out: outputs.append(out.clone()))
        layer.register_forward_hook(lambda _, __, out: outputs.append(out))
    network(clips(64))
    for normed, out in zip(outputs[::2], outputs[1::2], strict=True):
        positive, kept = (h.view(64, 10, 24) > 0 for h in (normed, out))
        dropped = positive & ~kept
        assert ((dropped == positive).all(1) | ~dropped.any(1)).all()
        assert 0.45 < dropped.sum() / positive.sum() < 0.55
        torch.testing.assert_close(out.view(64, 10, 24)[kept], 2 * normed.view(64, 10, 24)[kept])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ATTENTION[2] | {"heads": 2}, r"network\.heads must be 1 with .* 'feature', got 2"),
        (ATTENTION[3] | {"heads": 2}, r"network\.heads must be 1 with .* 'mean', got 2"),
        (ATTENTION[3] | {"levels": 2}, r"network\.levels must be 1 with .* 'mean', got 2"),
        (MULTI_LEVEL | {"heads": 2}, r"network\.levels must be 1 with network\.heads 2, got 2"),
        (MULTI_LEVEL | {"levels": 4}, r"network\.levels must be at most .*layers, 3, got 4"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        attention.Network(attention.Settings(**settings, dropout=0.0), SPECS[0], 10)


# Layer by layer: input normalization first, the last layer's 10 labels last.
COUNTS = [
    (
        "attention",
        {"hidden": 512, "layers": 3, "pooling": "decision"},
        2 * 128 + (128 * 512 + 2 * 512) + 2 * (512 * 512 + 2 * 512) + (2 * 512 * 10 + 10),
    ),
    (
        "attention",
        {"hidden": 32, "layers": 1, "pooling": "decision", "heads": 4},
        2 * 128 + (128 * 32 + 2 * 32) + 4 * (2 * 32 * 10 + 10) + 4,
    ),
    (
        "attention",
        {"hidden": 32, "layers": 1, "pooling": "feature"},
        2 * 128 + (128 * 32 + 2 * 32) + 32 * 32 + (32 * 10 + 10),
    ),
    (
        "attention",
        {"hidden": 32, "layers": 1, "pooling": "mean"},
        2 * 128 + (128 * 32 + 2 * 32) + (32 * 10 + 10),
    ),
    (
        "attention",
        {"hidden": 512, "layers": 3, "pooling": "decision", "levels": 2},
        2 * 128
        + (128 * 512 + 2 * 512)
        + 2 * (512 * 512 + 2 * 512)
        + 2 * (2 * 512 * 10 + 10)
        + (2 * 10 * 10 + 10),
    ),
    ("yac", {"head": "logits"}, 3213),
]


@pytest.mark.parametrize(("name", "settings", "expected"), COUNTS)
def test_parameter_counts_match_those_by_hand(name, settings, expected):
    network = make(name, settings)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


# yac


def test_yac_has_the_published_shapes():
    shapes = output_shapes(make("yac", {"head": "logits"}), clips(2))
    expected = {
        "intra_init": (5, 16, 8),
        "intra_stride": (2, 8, 4),
        "intra_tall.0": (5, 12, 6),
        "intra_tall": (2, 8, 4),
        "intra_wide": (2, 8, 4),
        "inter_conv.0": (4, 8, 62),
        "inter_conv": (8, 6, 41),
        "inter_max.0": (1, 6, 41),
        "inter_max": (8, 6, 41),
        "inter_down.0": (4, 4, 20),
        "inter_down": (2, 4, 8),
        "norm": (2, 8, 4),
        "linear": (10,),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_yac_outputs_are_pinned():
    network = make("yac", {"head": "logits"}).double()
    with torch.no_grad():
        for k, parameter in enumerate(network.parameters()):
            numbers = torch.arange(parameter.numel()) + k
            parameter.copy_(numbers.double().cos().view(parameter.shape))
        x = torch.arange(2 * 10 * 128).double().mul(0.37).sin().abs().view(2, 1, 10, 128)
        network(x)
        out = network.eval()(x)[1]
    expected = [
        -3.2205297313, -6.4875481988, -1.5670119768, 5.4154211767, 5.6828464894,
        -1.2563068313, -6.8574848699, -4.0287602607, 3.9865761040, 7.3734358742,
    ]  # fmt: skip
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("spec", SPECIAL_SPECS["yac"][1:])
def test_yac_resizes_maps_to_the_study_s_sizes(spec):
    shapes = output_shapes(make("yac", {"head": "logits"}, spec), clips(2, spec))
    assert shapes["inter_conv"] != shapes["inter_max"]
    assert shapes["intra_stride"] != shapes["intra_tall"]
    assert shapes["inter_down"] == (2, 4, 8)
    assert shapes["norm"] == (2, 8, 4)


@pytest.mark.parametrize(("frames", "bins"), [(4, 128), (10, 64), (10, 100)])
def test_yac_refuses_clips_that_are_too_small(frames, bins):
    message = f"at least 5 frames, .* 72 bins, a multiple of 8, got {frames} frames x {bins} bins"
    with pytest.raises(UserError, match=message):
        make("yac", {"head": "logits"}, InputSpec(1, frames, bins))
    make("yac", {"head": "logits"}, InputSpec(1, 5, 72))(clips(2, InputSpec(1, 5, 72)))


def test_yac_supports_clips_of_one_length_only():
    assert not yac.Network.supports_variable_length
    network = make("yac", {"head": "logits"})
    with pytest.raises(ValueError, match="10 frames"):
        network(clips(2)[:, :, :9])
    with pytest.raises(ValueError, match="10 frames"):
        network(clips(2), torch.tensor([10, 9]))


def test_softmax_head_returns_probabilities():
    raw, network = (make("yac", {"head": head}) for head in ("logits", "softmax"))
    out = network(clips(5))
    torch.testing.assert_close(out.sum(1), torch.ones(5))
    torch.testing.assert_close(out, raw(clips(5)).softmax(1))
    assert network.activation == "none"
    assert raw.activation is None


def test_identity_returns_the_mean_of_its_features():
    spec = InputSpec(1, 4, 3)
    network = make("identity", {}, spec, labels=3)
    assert not list(network.parameters())
    x = clips(2, spec)
    torch.testing.assert_close(network(x), x[:, 0].mean(1))
    short = network(shortened(x, [2, 4]), torch.tensor([2, 4]))
    torch.testing.assert_close(short, torch.stack([x[0, 0, :2].mean(0), x[1, 0].mean(0)]))
    assert not make("identity", {}, spec, labels=3).has_embedding
    with pytest.raises(UserError, match=r"1 channel and 5 bins, one for each class, got 1 x 3"):
        make("identity", {}, spec, labels=5)


def test_frozen_layers_are_in_evaluation_mode_while_the_classifier_trains() -> None:
    """Batch statistics of two dimensions stay, dropout is off, and no other clip has an effect."""
    spec = InputSpec(1, 100, 32)
    settings = cnn.Settings(channels=[4, 8], dropout=0.5)
    torch.manual_seed(0)
    network = cnn.Network(settings, spec, 3)
    network.freeze()
    x = torch.randn(6, 1, 100, 32)
    expected = network.eval().embed(x)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    assert network.classify.training
    optimizer = torch.optim.SGD((p for p in network.parameters() if p.requires_grad), 0.1)
    network(x).sum().backward()
    optimizer.step()
    torch.testing.assert_close(network.embed(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(network.embed(x[:2]), expected[:2])
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, state[name])
    }
    assert changed == {"classify.weight", "classify.bias"}
