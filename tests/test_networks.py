"""What every network must do, and what is special about a few; others have files of their own."""

import importlib
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import tagging.networks
from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.learning.model import load_pretrained
from tagging.networks import attention, yac
from tests.padded import shapes
from tests.project import ROOT, TASKS

# Each network's settings to be tested, small; dropout is 0 unless it is said here.
AST = {"patch": [4, 16], "stride": [2, 8], "width": 24, "heads": 4, "layers": 2}
TABLE: dict[str, list[dict]] = {
    "ast": [AST, AST | {"class_token": "last"}],
    "attention": [
        {"hidden": 24, "layers": 2, "pooling": "decision"},
        {"hidden": 24, "layers": 2, "pooling": "decision", "heads": 4},
        {"hidden": 24, "layers": 2, "pooling": "feature"},
        {"hidden": 24, "layers": 2, "pooling": "mean"},
        {"hidden": 24, "layers": 2, "pooling": "max"},
        {"hidden": 24, "layers": 3, "pooling": "decision", "levels": 2},
    ],
    "cnn": [{"channels": [4, 6], "strides": [[1, 2], [1, 2]], "decoder": [8]}],
    "crnn": [{"channels": [4, 6], "strides": [[1, 2], [1, 2]], "hidden": 12, "layers": 2}],
    "linear": [{}],
    "lstm": [{"hidden": 12, "layers": 2}],
    "mobilenet": [{"width": 0.1}],
    "musicnn": [{"filters": 3, "middle": 8, "hidden": 24}],
    "projection": [{"width": 12}, {}],
    "psla": [
        {"width": 0.25, "depth": 0.3, "drop_blocks": 0.0},
        {"width": 0.25, "depth": 0.3, "drop_blocks": 0.0, "pooling": "mean_max", "norm": "batch"},
    ],
    "resnet": [{"stem": [[4, 3, 3]], "channels": [4, 8], "stride": [1, 2]}],
    "yac": [{"head": "logits"}, {"head": "softmax"}],
}
SPECS = [InputSpec(1, 10, 128), InputSpec(3, 24, 40), InputSpec(1, 61, 64)]
# Where a network does not take these.
SPECS_OF = {"yac": [InputSpec(1, 10, 128), InputSpec(3, 24, 80), InputSpec(1, 61, 72)]}


def settings_of(name: str) -> list[dict]:
    """Return those of the table; of a network that is not in it, the first entry's that has it."""
    models = (
        model
        for folder in (Path(), *TASKS)
        for model in yaml.safe_load((ROOT / folder / "params.yaml").read_text())["models"].values()
    )
    configured = (of.get("network", {}) for of in models if of["architecture"] == name)
    return TABLE.get(name) or [next(configured, {})]


FILES = {
    file.stem
    for folder in tagging.networks.__path__
    for file in Path(folder).glob("*.py")
    if file.stem not in ("__init__", "untrained")  # which has no parameters: a test below
}
CASES = [
    pytest.param(name, settings, id=f"{name}-{place}")
    for name in sorted(FILES)
    for place, settings in enumerate(settings_of(name))
]
WITH_SPECS = [
    pytest.param(*case.values, spec, id=f"{case.id}-{spec.channels}x{spec.frames}x{spec.bins}")
    for case in CASES
    for spec in SPECS_OF.get(case.values[0], SPECS)
]
every = pytest.mark.parametrize(("name", "settings"), CASES)
every_size = pytest.mark.parametrize(("name", "settings", "spec"), WITH_SPECS)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(name: str, settings: dict, spec: InputSpec = SPECS[0], labels: int = 10) -> nn.Module:
    module = importlib.import_module(f"tagging.networks.{name}")
    dropout = {"dropout": 0.0} if "dropout" in module.Settings.model_fields else {}
    torch.manual_seed(0)
    return module.Network(module.Settings(**dropout | settings), spec, labels)


def trained(name: str, settings: dict, spec: InputSpec = SPECS[0], labels: int = 10) -> nn.Module:
    """Make a network and move its numbers from where they begin, where many are 0 or 1."""
    network = make(name, settings, spec, labels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
            parameter.add_(0.02 * torch.randn_like(parameter))
        for part in network.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = None  # the mean of all batches
        network.train()(clips(16, spec, seed=2) ** 2)
    return network.eval()


def clips(number: int, spec: InputSpec = SPECS[0], seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, spec.channels, spec.frames, spec.bins, generator=generator)


def shortened(x: torch.Tensor, frames: list[int]) -> torch.Tensor:
    """Return the clips with zeros after so many frames, as batches are padded."""
    real = torch.arange(x.shape[2]) < torch.tensor(frames).unsqueeze(1)
    return x * real[:, None, :, None]


def test_every_network_is_tested_with_or_without_settings_of_its_own(monkeypatch):
    assert set(TABLE) <= FILES, "no file tagging/networks/<name>.py has these names"
    assert settings_of("a_new_file") == [{}]
    monkeypatch.delitem(TABLE, "lstm")
    assert settings_of("lstm")[0].keys() >= {"hidden", "layers"}


@every_size
def test_clips_of_any_size_get_a_number_a_label(name, settings, spec):
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
        # Neither the batch that a clip is in changes an answer, nor its length where it is stated.
        torch.testing.assert_close(alone, out[1:2], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(full, out, atol=1e-5, rtol=1e-4)


@every_size
def test_clips_get_an_embedding_where_the_network_has_one(name, settings, spec):
    network = trained(name, settings, spec)
    if not hasattr(network, "embed"):
        pytest.skip("it has none")
    with torch.inference_mode():
        out = network.embed(clips(3, spec), torch.full((3,), spec.frames))
    assert out.dim() == 2
    assert len(out) == 3
    assert out.isfinite().all()
    assert not torch.allclose(out[0], out[1])


@every
def test_weights_and_answers_are_the_same_again(name, settings):
    first, second = make(name, settings).state_dict(), make(name, settings).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    first, second = trained(name, settings), trained(name, settings)
    with torch.inference_mode():
        answer = first(clips(4))
        assert torch.equal(second(clips(4)), answer)
        assert torch.equal(first(clips(4)), answer)


@every
def test_a_network_begins_with_all_of_another_s_but_its_last_layer(name, settings, tmp_path):
    if name == "yac":
        pytest.skip("its layers have the published names: a file of other labels is refused")
    given, network = trained(name, settings), make(name, settings, labels=4)
    save_file(given.state_dict(), tmp_path / "given.safetensors")
    load_pretrained(network, tmp_path / "given.safetensors", frozen=True)
    own = network.state_dict()
    as_given = {key for key, of in given.state_dict().items() if torch.equal(of, own[key])}
    sized = {key for key, of in given.state_dict().items() if of.shape != own[key].shape}
    assert sized  # the labels are others
    assert sized <= own.keys() - as_given
    learned = {key for key, of in network.named_parameters() if of.requires_grad}
    assert learned == dict(network.named_parameters()).keys() - as_given
    x = clips(3)
    if hasattr(given, "embed") and "levels" not in settings:
        with torch.inference_mode():
            torch.testing.assert_close(network.eval().embed(x), given.embed(x))


@every
def test_gradients_reach_every_parameter(name, settings):
    # The longest: where strides leave one frame of a clip, attention has nothing to learn.
    spec = SPECS_OF.get(name, SPECS)[-1]
    network = trained(name, settings, spec).train()
    out = network(clips(4, spec))
    (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # Many a bias has none: normalization or a softmax takes it away again.
        assert parameter.grad.any() or "bias" in key, key


@every_size
def test_padding_does_not_change_an_answer(name, settings, spec):
    network = trained(name, settings, spec).double()
    if not getattr(network, "any_length", True):
        pytest.skip("it takes clips of one length alone")
    lengths = [1, spec.frames // 3, spec.frames * 2 // 3, spec.frames]
    frames = torch.tensor(lengths)
    x = shortened(clips(4, spec).double(), lengths)
    with torch.inference_mode():
        alone = torch.cat([network(x[i : i + 1, :, :n]) for i, n in enumerate(lengths)])
        torch.testing.assert_close(network(x, frames), alone)
        torch.testing.assert_close(network(x[:3, :, : lengths[2]], frames[:3]), alone[:3])
        # The test could fail: where the lengths are not told, padding does change an answer.
        assert not torch.allclose(network(x)[0], alone[0], rtol=1e-3)
        if hasattr(network, "embed"):
            short = network.embed(x[:1, :, :1])
            torch.testing.assert_close(network.embed(x, frames)[:1], short)


@every
def test_padding_does_not_change_training(name, settings):
    if not getattr(make(name, settings), "any_length", True):
        pytest.skip("it takes clips of one length alone")
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
    """Return what each layer gives of a clip (1, frames, bins): (frames, hidden)."""
    outputs = [normalized(clip[0], network.norm)]
    for layer in network.layers:
        h = outputs[-1] @ layer.linear.weight.T
        outputs.append(normalized(h, layer.norm).clamp_min(0))
    return outputs[1:]


def level_by_hand(level: nn.Module, h: torch.Tensor, pooling: str, heads: int) -> torch.Tensor:
    """Return the logits that a level gives of its layer's frames (frames, hidden): (labels,)."""
    p = level.classify(h).sigmoid()  # (frames, heads * labels)
    if pooling == "mean":
        return p.mean(0).logit()
    if pooling == "max":
        return p.amax(0).logit()
    if pooling == "feature":
        weights = level.attend(h).exp()
        return level.classify((weights / weights.sum(0) * h).sum(0))
    of_frames = level.attend(h).exp()
    of_head = (of_frames / of_frames.sum(0) * p).sum(0).view(heads, -1)
    weights = level.head_weights.exp() if heads > 1 else torch.ones(1, dtype=h.dtype)
    return ((weights / weights.sum()).unsqueeze(1) * of_head).sum(0).logit()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", ATTENTION)
def test_attention_pools_as_the_papers_write(settings, dtype):
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
        found = network(x, torch.tensor(lengths))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found, torch.stack(expected), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("settings", [*ATTENTION[:2], ATTENTION[3]])
def test_pooled_probabilities_are_exact_where_they_round_to_one(settings):
    network = trained("attention", settings)
    logits = torch.linspace(-80, 80, 10)
    with torch.no_grad():
        network.levels[0].classify.weight.zero_()
        network.levels[0].classify.bias.copy_(logits.repeat(settings.get("heads", 1)))
        answer = network(clips(2))
    torch.testing.assert_close(answer, logits.expand(2, 10))


def test_heads_begin_alike():
    network = make("attention", ATTENTION[1])
    torch.testing.assert_close(network.levels[0].head_weights.softmax(0), torch.full((4,), 0.25))


@pytest.mark.parametrize("settings", ATTENTION)
def test_attention_hears_no_order(settings):
    network = trained("attention", settings)
    with torch.inference_mode():
        torch.testing.assert_close(network(clips(4).flip(2)), network(clips(4)))


@pytest.mark.parametrize("settings", [ATTENTION[-2], MULTI_LEVEL])
def test_dropout_takes_a_channel_for_the_whole_clip(settings):
    network = make("attention", settings | {"dropout": 0.5}).train()
    seen = []
    for layer in network.layers:
        layer.norm.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
        layer.register_forward_hook(lambda _, __, out: seen.append(out))
    network(clips(64))
    for normed, out in zip(seen[::2], seen[1::2], strict=True):
        heard, kept = (h.view(64, 10, 24) > 0 for h in (normed, out))
        gone = heard & ~kept
        assert ((gone == heard).all(1) | ~gone.any(1)).all()
        assert 0.45 < gone.sum() / heard.sum() < 0.55
        torch.testing.assert_close(out.view(64, 10, 24)[kept], 2 * normed.view(64, 10, 24)[kept])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (ATTENTION[2] | {"heads": 2}, r"network\.heads is 2; it takes 1"),
        (ATTENTION[3] | {"heads": 2}, r"network\.heads is 2; it takes 1"),
        (ATTENTION[3] | {"levels": 2}, r"network\.levels is 2; it takes 1 with .* 'mean'"),
        (MULTI_LEVEL | {"heads": 2}, r"network\.levels is 2; it takes 1 with network\.heads 2"),
        (MULTI_LEVEL | {"levels": 4}, r"network\.levels is 4; .* at most network\.layers, 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, says):
    with pytest.raises(UserError, match=says):
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
def test_parameters_are_those_counted_by_hand(name, settings, expected):
    network = make(name, settings)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


# yac


def test_yac_has_the_published_shapes():
    found = shapes(make("yac", {"head": "logits"}), clips(2))
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
    assert {name: found[name] for name in expected} == expected


def test_yac_is_the_function_that_it_was_with_clips_of_one_size():
    network = make("yac", {"head": "logits"}).double()
    with torch.no_grad():
        for place, parameter in enumerate(network.parameters()):
            numbers = torch.arange(parameter.numel()) + place
            parameter.copy_(numbers.double().cos().view(parameter.shape))
        x = torch.arange(2 * 10 * 128).double().mul(0.37).sin().abs().view(2, 1, 10, 128)
        network(x)
        out = network.eval()(x)[1]
    expected = [
        -3.2205297313, -6.4875481988, -1.5670119768, 5.4154211767, 5.6828464894,
        -1.2563068313, -6.8574848699, -4.0287602607, 3.9865761040, 7.3734358742,
    ]  # fmt: skip
    torch.testing.assert_close(out, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("spec", SPECS_OF["yac"][1:])
def test_yac_brings_maps_of_other_sizes_to_the_study_s(spec):
    found = shapes(make("yac", {"head": "logits"}, spec), clips(2, spec))
    assert found["inter_conv"] != found["inter_max"]
    assert found["intra_stride"] != found["intra_tall"]
    assert found["inter_down"] == (2, 4, 8)
    assert found["norm"] == (2, 8, 4)


@pytest.mark.parametrize(("frames", "bins"), [(4, 128), (10, 64), (10, 100)])
def test_yac_refuses_clips_too_small_for_it(frames, bins):
    says = f"{frames} frames x {bins} bins; it takes 5 frames or more, .* 8 bins, 72 or more"
    with pytest.raises(UserError, match=says):
        make("yac", {"head": "logits"}, InputSpec(1, frames, bins))
    make("yac", {"head": "logits"}, InputSpec(1, 5, 72))(clips(2, InputSpec(1, 5, 72)))


def test_yac_takes_clips_of_one_length_alone():
    assert not yac.Network.any_length
    network = make("yac", {"head": "logits"})
    with pytest.raises(ValueError, match="10 frames"):
        network(clips(2)[:, :, :9])
    with pytest.raises(ValueError, match="10 frames"):
        network(clips(2), torch.tensor([10, 9]))


def test_softmax_head_sums_to_one_and_says_so():
    raw, network = (make("yac", {"head": head}) for head in ("logits", "softmax"))
    out = network(clips(5))
    torch.testing.assert_close(out.sum(1), torch.ones(5))
    torch.testing.assert_close(out, raw(clips(5)).softmax(1))
    assert network.activation == "none"
    assert not hasattr(raw, "activation")


def test_untrained_answers_the_mean_of_its_features():
    spec = InputSpec(1, 4, 3)
    network = make("untrained", {}, spec, labels=3)
    assert not list(network.parameters())
    x = clips(2, spec)
    torch.testing.assert_close(network(x), x[:, 0].mean(1))
    short = network(shortened(x, [2, 4]), torch.tensor([2, 4]))
    torch.testing.assert_close(short, torch.stack([x[0, 0, :2].mean(0), x[1, 0].mean(0)]))
    with pytest.raises(UserError, match=r"one number for each of the 5 classes; .* 1 x 3"):
        make("untrained", {}, spec, labels=5)
