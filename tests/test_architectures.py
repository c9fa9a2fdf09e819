"""What every architecture must do, and what is each one's own."""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from tagging.architectures import (
    ast,
    attention,
    cnn,
    crnn,
    lstm,
    multi_level_attention,
    musicnn,
    resnet,
    yac,
)
from tagging.errors import UserError
from tagging.labels import Label
from tagging.losses import msml
from tagging.models import ARCHITECTURES, Model, Shape, build

MODULES = {
    "ast": ast,
    "attention": attention,
    "cnn": cnn,
    "crnn": crnn,
    "lstm": lstm,
    "multi_level_attention": multi_level_attention,
    "musicnn": musicnn,
    "resnet": resnet,
    "yac": yac,
}
AST = {"patch": [4, 32], "stride": [2, 16], "width": 32, "heads": 4, "layers": 2}


class Case(NamedTuple):
    """A small network of an architecture, without dropout, and what is known of it."""

    architecture: str
    network: dict
    ordered: bool  # whether it hears the order of the seconds


CASES = {
    "attention-decision": Case(
        "attention", {"hidden": 24, "layers": 2, "pooling": "decision"}, False
    ),
    "attention-heads": Case(
        "attention", {"hidden": 24, "layers": 2, "pooling": "decision", "heads": 4}, False
    ),
    "attention-feature": Case(
        "attention", {"hidden": 24, "layers": 2, "pooling": "feature"}, False
    ),
    "attention-mean": Case("attention", {"hidden": 24, "layers": 2, "pooling": "mean"}, False),
    "attention-max": Case("attention", {"hidden": 24, "layers": 2, "pooling": "max"}, False),
    "multi_level_attention": Case(
        "multi_level_attention", {"hidden": 24, "layers": 3, "levels": 2}, False
    ),
    "cnn-basic": Case("cnn", {"variant": "basic", "channels": 6}, True),
    "cnn-deep": Case("cnn", {"variant": "deep", "channels": 4}, True),
    "resnet": Case("resnet", {"channels": 6, "stages": 3, "blocks": 2}, True),
    "lstm": Case("lstm", {"hidden": 16, "layers": 2}, True),
    "crnn": Case("crnn", {"channels": 4, "hidden": 16, "layers": 2}, True),
    "musicnn": Case("musicnn", {"filters": 3, "middle": 8, "hidden": 24}, True),
    "ast-first": Case("ast", AST | {"class_token": "first"}, True),
    "ast-last": Case("ast", AST | {"class_token": "last"}, True),
}
YAC = Case("yac", {"head": "logits"}, True)
every = pytest.mark.parametrize("case", [*CASES.values(), YAC], ids=[*CASES, "yac"])
any_length = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(case: Case, labels: int = 10, **settings) -> nn.Module:
    module = MODULES[case.architecture]
    dropout = {} if case.architecture == "yac" else {"dropout": 0.0}
    torch.manual_seed(0)
    return module.Network(
        module.Settings(**dropout | case.network | settings), seconds=10, labels=labels
    )


def clips(number: int, seconds: int = 10, seed: int = 1) -> torch.Tensor:
    """Return what embeddings look like: bytes / 256."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, seconds, 128), generator=generator) / 256


def padded(of_length: list[torch.Tensor], length: int, filled: float = 0.0) -> torch.Tensor:
    out = torch.full((len(of_length), length, 128), filled)
    for row, clip in zip(out, of_length, strict=True):
        row[: len(clip)] = clip
    return out


def practised(network: nn.Module) -> nn.Module:
    """Let batch normalization see clips, so that it is not the identity when it evaluates."""
    network.train()
    with torch.no_grad():
        for seed in range(20):
            network(clips(32, seed=100 + seed) ** 2)
    return network.eval()


def test_every_architecture_is_tested():
    assert {file.stem for file in ARCHITECTURES.glob("*.py")} == set(MODULES)
    assert {case.architecture for case in [*CASES.values(), YAC]} == set(MODULES)


@every
@pytest.mark.parametrize("labels", [1, 10, 527])
def test_gives_a_logit_a_label(case, labels):
    network = make(case, labels)
    out = network(clips(3))
    assert out.shape == (3, labels)
    assert out.dtype == torch.float32
    assert out.isfinite().all()


# Layer by layer: input normalization first, the last layer's 10 labels last.
PARAMETERS = {
    "attention": (
        {"hidden": 512, "layers": 3, "pooling": "decision"},
        2 * 128
        + (128 * 512 + 512 + 2 * 512)
        + 2 * (512 * 512 + 512 + 2 * 512)
        + 2 * (512 * 10 + 10),
    ),
    "attention feature": (
        {"hidden": 32, "layers": 1, "pooling": "feature"},
        2 * 128 + (128 * 32 + 32 + 2 * 32) + (32 * 32 + 32) + (32 * 10 + 10),
    ),
    "attention mean": (
        {"hidden": 32, "layers": 1, "pooling": "mean"},
        2 * 128 + (128 * 32 + 32 + 2 * 32) + (32 * 10 + 10),
    ),
    "attention max": (
        {"hidden": 32, "layers": 1, "pooling": "max"},
        2 * 128 + (128 * 32 + 32 + 2 * 32) + (32 * 10 + 10),
    ),
    "attention heads": (
        {"hidden": 32, "layers": 1, "pooling": "decision", "heads": 4},
        2 * 128 + (128 * 32 + 32 + 2 * 32) + 4 * 2 * (32 * 10 + 10) + 4,
    ),
    "multi_level_attention": (
        {"hidden": 512, "layers": 3, "levels": 2},
        2 * 128
        + (128 * 512 + 2 * 512)
        + 2 * (512 * 512 + 2 * 512)
        + 2 * (512 * 10 + 512 * 10 + 10)
        + (2 * 10 * 10 + 10),
    ),
    "cnn basic": (
        {"variant": "basic", "channels": 16},
        2 * 128 + (9 * 16 + 2 * 16) + (9 * 16 * 32 + 2 * 32) + (4 * 32 * 10 + 10),
    ),
    "cnn deep": (
        {"variant": "deep", "channels": 16},
        2 * 128
        + (9 * 16 + 2 * 16)
        + (9 * 16 * 32 + 2 * 32)
        + (9 * 32 * 64 + 2 * 64)
        + (9 * 64 * 64 + 2 * 64)
        + (9 * 64 * 128 + 2 * 128)
        + (512 * 128 + 128)
        + (128 * 32 + 32)
        + (32 * 10 + 10),
    ),
    "resnet": (
        {"channels": 16, "stages": 3, "blocks": 2},
        2 * 128
        + (3 * 7 * 16 + 2 * 16)
        + 4 * (9 * 16 * 16 + 2 * 16)
        + (9 * 16 * 32 + 2 * 32)
        + 3 * (9 * 32 * 32 + 2 * 32)
        + (9 * 32 * 64 + 2 * 64)
        + 3 * (9 * 64 * 64 + 2 * 64)
        + (64 * 10 + 10),
    ),
    # Four gates a cell, each with a weight for every input and cell and two biases.
    "lstm": (
        {"hidden": 128, "layers": 3},
        2 * 128 + 3 * 4 * 128 * (128 + 128 + 2) + (128 * 10 + 10),
    ),
    "crnn": (
        {"channels": 16, "hidden": 128, "layers": 2},
        2 * 128
        + (9 * 16 + 2 * 16)
        + (9 * 16 * 32 + 2 * 32)
        + (9 * 32 * 64 + 2 * 64)
        + 4 * 128 * (64 * 8 + 128 + 2)
        + 4 * 128 * (128 + 128 + 2)
        + (128 * 10 + 10),
    ),
    "musicnn": (
        {"filters": 8, "middle": 64, "hidden": 200},
        2 * 128
        + (3 * 51 * 32 + 32 + 2 * 32)
        + (3 * 89 * 32 + 32 + 2 * 32)
        + (9 * 8 + 8 + 2 * 8)
        + (5 * 8 + 8 + 2 * 8)
        + (3 * 8 + 8 + 2 * 8)
        + (3 * 88 * 64 + 64 + 2 * 64)
        + 2 * (3 * 64 * 64 + 64 + 2 * 64)
        + 2 * 560
        + (560 * 200 + 200)
        + 2 * 200
        + (200 * 10 + 10),
    ),
    "ast": (
        {
            "patch": [4, 32],
            "stride": [2, 16],
            "width": 96,
            "heads": 4,
            "layers": 2,
            "class_token": "first",
        },
        2 * 128
        + (4 * 32 * 96 + 96)
        + (4 * 7 + 1) * 96
        + 2 * (2 * 96 + 4 * (96 * 96 + 96) + 2 * 96 + (96 * 384 + 384) + (384 * 96 + 96))
        + (2 * 96 + 96 * 10 + 10),
    ),
    "yac": ({"head": "logits"}, 3213),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_counted_by_hand(name):
    settings, expected = PARAMETERS[name]
    network = make(Case(name.split()[0], settings, True))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def without_effect(case: Case, name: str) -> bool:
    """Tell which parameters add a constant that batch normalization or a softmax takes away."""
    if case.architecture == "yac":
        return name.endswith(".0.bias")
    if case.architecture == "attention":
        # Normalization, convolution, normalization, ReLU, dropout; convolution, ...
        return name in ("attend.bias", "embed.0.bias", "embed.1.bias", "embed.5.bias")
    if case.architecture == "musicnn":
        return name == "residual_2.norm.bias"  # goes into the normalization after pooling alone
    return case.architecture == "multi_level_attention" and name == "norm.bias"


@every
def test_gradients_reach_every_parameter(case):
    network = make(case).double()
    labels = (torch.rand(8, 10, generator=torch.Generator().manual_seed(2)) < 0.3).double()
    msml(network(clips(8).double()), labels).backward()
    for name, parameter in network.named_parameters():
        reached = parameter.grad is not None and parameter.grad.abs().max() > 1e-10
        assert reached != without_effect(case, name), name


@every
def test_overfits_eight_clips(case):
    network = make(case)
    x = clips(8)
    labels = (torch.rand(8, 10, generator=torch.Generator().manual_seed(2)) < 0.3).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    network.train()
    for _ in range(500):
        optimizer.zero_grad()
        loss = msml(network(x), labels)
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            return
    raise AssertionError(f"loss {loss.item()}")


@every
def test_answer_does_not_depend_on_the_batch(case):
    network = practised(make(case))
    x = clips(5)
    with torch.inference_mode():
        together = network(x)
        alone = torch.cat([network(clip.unsqueeze(0)) for clip in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@any_length
def test_order_of_seconds_counts_where_it_should(case):
    network = practised(make(case))
    x = clips(4)
    with torch.inference_mode():
        same = torch.allclose(network(x), network(x[:, torch.arange(9, -1, -1)]), atol=1e-5)
    assert same != case.ordered


@any_length
@pytest.mark.parametrize("seconds", [1, 2, 7, 10, 23])
def test_takes_clips_of_any_length(case, seconds):
    network = practised(make(case))
    with torch.inference_mode():
        answer = network(clips(3, seconds))
    assert answer.shape == (3, 10)
    assert answer.isfinite().all()


@any_length
def test_padding_does_not_change_an_answer(case):
    network = practised(make(case))
    of_length = [clips(1, seconds, seed=seconds)[0] for seconds in (10, 1, 4, 7, 2, 9)]
    frames = torch.tensor([len(clip) for clip in of_length])
    with torch.inference_mode():
        alone = torch.cat([network(clip.unsqueeze(0)) for clip in of_length])
        # Padding is not so much as read: NaN there changes nothing.
        for length, filled in ((10, 0.0), (10, torch.nan), (17, 0.0)):
            answers = network(padded(of_length, length, filled), frames)
            torch.testing.assert_close(answers, alone, atol=1e-5, rtol=1e-4)
    # The test could fail: without the lengths, padding does change the answers.
    with torch.inference_mode():
        assert not torch.allclose(network(padded(of_length, 10)), alone, atol=1e-3)


@any_length
def test_full_length_stated_is_full_length_implied(case):
    network = practised(make(case))
    with torch.inference_mode():
        stated = network(clips(4), torch.full((4,), 10))
        implied = network(clips(4))
    torch.testing.assert_close(stated, implied, atol=1e-5, rtol=1e-4)


@any_length
def test_padding_does_not_change_training(case):
    """Batch statistics, running ones and gradients are those of the real frames."""
    of_length = [clips(1, seconds, seed=seconds)[0].double() for seconds in (8, 3, 5, 6)]
    frames = torch.tensor([8, 3, 5, 6])
    results = []
    for length in (8, 12):
        network = make(case).double().train()
        msml(
            network(padded(of_length, length).double(), frames),
            torch.eye(4, 10, dtype=torch.float64),
        ).backward()
        results.append(
            [parameter.grad for parameter in network.parameters()] + [*network.buffers()]
        )
    for short, long in zip(*results, strict=True):
        torch.testing.assert_close(short, long, atol=1e-8, rtol=1e-6)


@every
def test_weights_come_from_the_seed(case):
    first, second = make(case).state_dict(), make(case).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


# attention


def attention_by_hand(network, x, pooling, heads=1):
    """Return probabilities (batch, labels), computed as the papers write them."""
    h = nn.Sequential(*network.embed)(x.transpose(1, 2))
    p = network.classify(h).sigmoid()
    if pooling == "mean":
        return p.mean(2)
    if pooling == "max":
        return p.amax(2)
    a = network.attend(h).exp()
    a = a / a.sum(2, keepdim=True)
    if pooling == "feature":
        return network.classify((a * h).sum(2, keepdim=True)).squeeze(2).sigmoid()
    of_head = (a * p).sum(2)  # (batch, labels * heads)
    weights = network.head_weights.softmax(0) if heads > 1 else torch.ones(1, dtype=x.dtype)
    return sum(weights[head] * of_head[:, head::heads] for head in range(heads))


@pytest.mark.parametrize(
    ("pooling", "heads"),
    [("decision", 1), ("decision", 4), ("feature", 1), ("mean", 1), ("max", 1)],
)
def test_attention_pools_as_the_papers_write(pooling, heads):
    case = Case("attention", {"hidden": 24, "layers": 2, "pooling": pooling, "heads": heads}, False)
    network = practised(make(case)).double()
    if heads > 1:
        network.head_weights.data = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
    x = clips(6).double()
    with torch.no_grad():
        expected = attention_by_hand(network, x, pooling, heads).logit()
        torch.testing.assert_close(network(x), expected, atol=1e-9, rtol=1e-9)


def test_decision_pooling_is_exact_where_probabilities_round_to_one():
    network = practised(make(CASES["attention-decision"]))
    with torch.no_grad():
        network.classify.weight.zero_()
        network.classify.bias.copy_(torch.linspace(-80, 80, 10))
        answer = network(clips(2))
    torch.testing.assert_close(answer, torch.linspace(-80, 80, 10).expand(2, 10))


def test_heads_begin_alike_and_sum_to_one():
    network = make(CASES["attention-heads"])
    torch.testing.assert_close(network.head_weights.softmax(0), torch.full((4,), 0.25))


@pytest.mark.parametrize("pooling", ["feature", "mean", "max"])
def test_heads_go_with_decision_pooling_alone(pooling):
    network = {"hidden": 8, "layers": 1, "dropout": 0.0, "pooling": pooling, "heads": 2}
    shape = Shape(10, [Label(0, "/m/0", "Speech")])
    with pytest.raises(UserError, match=r"network\.heads is 2; it takes 1"):
        build(Model(architecture="attention", network=network), shape, "mine")


# multi_level_attention


def test_levels_are_pooled_from_the_last_layers():
    network = practised(make(CASES["multi_level_attention"])).double()
    x = clips(4).double()
    with torch.no_grad():
        h = network.norm(x.transpose(1, 2))
        first = network.layers[0](h, None)
        second = network.layers[1](first, None)
        third = network.layers[2](second, None)
        levels = []
        for level, output in zip(network.levels, (second, third), strict=True):
            weights = level.attend(output).exp()
            probabilities = (weights * level.classify(output).sigmoid()).sum(2) / weights.sum(2)
            levels.append(probabilities.logit())
        expected = network.classify(torch.cat(levels, 1))
        torch.testing.assert_close(network(x), expected)


def test_levels_are_no_more_than_layers():
    network = {"hidden": 8, "layers": 2, "levels": 3, "dropout": 0.0}
    shape = Shape(10, [Label(0, "/m/0", "Speech")])
    with pytest.raises(UserError, match=r"network.levels is 3; it takes at most network.layers, 2"):
        build(Model(architecture="multi_level_attention", network=network), shape, "mine")


# cnn, resnet


def shapes_of(network: nn.Module, x: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shape (without the batch) of what each named module gives."""
    found = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: (
                found.__setitem__(name, tuple(out.shape[1:]))
                if isinstance(out, torch.Tensor)
                else None
            )
        )
        for name, module in network.named_modules()
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return found


def test_deep_cnn_has_five_3x3_convolutions_and_a_narrowing_decoder():
    network = make(CASES["cnn-deep"])
    found = shapes_of(network, clips(2))
    assert [found[f"convs.{place}"] for place in range(5)] == [
        (4, 10, 64), (8, 10, 32), (16, 10, 16), (16, 10, 8), (32, 10, 8),
    ]  # fmt: skip
    assert all(conv.conv.kernel_size == (3, 3) for conv in network.convs)
    widths = [layer.in_features for layer in network.decode if isinstance(layer, nn.Linear)]
    assert widths == [128, 32, 8]
    negative = network.convs[0](-clips(2).unsqueeze(1), None)
    assert (negative < 0).any()  # leaky
    assert not (make(CASES["cnn-basic"]).convs[0](-clips(2).unsqueeze(1), None) < 0).any()


def test_resnet_shortcuts_are_identities():
    same, halving = resnet.Block(6, 6), resnet.Block(6, 12)
    for block in (same, halving):
        nn.init.zeros_(block.norm_2.weight)  # the residual is zero
    x = torch.randn(2, 6, 10, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(same(x, None), x.relu())
    out = halving(x, None)
    assert out.shape == (2, 12, 10, 16)
    torch.testing.assert_close(out[:, :6], x[..., ::2].relu())
    assert not out[:, 6:].any()


def test_resnet_halves_dimensions_and_keeps_seconds():
    found = shapes_of(make(CASES["resnet"]), clips(2))
    assert [found[f"blocks.{place}"] for place in range(6)] == [
        (6, 10, 32), (6, 10, 32), (12, 10, 16), (12, 10, 16), (24, 10, 8), (24, 10, 8),
    ]  # fmt: skip


# lstm, crnn


def test_lstm_answers_from_the_state_at_each_clip_s_end():
    """As PyTorch's packed sequences have it."""
    network = practised(make(CASES["lstm"]))
    of_length = [clips(1, seconds, seed=seconds)[0] for seconds in (3, 10, 1)]
    frames = torch.tensor([3, 10, 1])
    x = padded(of_length, 10)
    with torch.inference_mode():
        normed = network.norm(x.transpose(1, 2)).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(
            normed, frames, batch_first=True, enforce_sorted=False
        )
        _, (state, _) = network.lstm(packed)
        torch.testing.assert_close(network(x, frames), network.classify(state[-1]))


def test_crnn_gives_the_lstm_every_second():
    network = make(CASES["crnn"])
    found = shapes_of(network, clips(2))
    assert found["convs.0"] == (4, 10, 64)
    assert found["convs.1"] == (8, 10, 16)
    assert found["convs.2"] == (16, 10, 8)
    assert network.lstm.input_size == 16 * 8


# musicnn


def test_musicnn_has_tall_and_long_filters_side_by_side():
    network = make(CASES["musicnn"])
    kernels = [conv.conv.kernel_size for conv in network.front]
    assert kernels == [(3, 51), (3, 89), (9, 1), (5, 1), (3, 1)]
    found = shapes_of(network, clips(2))
    assert [found[f"front.{place}"] for place in range(5)] == [
        (12, 10), (12, 10), (3, 10), (3, 10), (3, 10),
    ]  # fmt: skip
    assert found["adapt"] == found["residual_1"] == found["residual_2"] == (8, 10)
    assert network.decode[0].num_features == 2 * (33 + 3 * 8)


# ast


def test_learned_positions_are_used_as_they_are_at_ten_seconds():
    network = make(CASES["ast-first"])
    assert network.positions.shape == (4, 7, 32)
    positions = network.positions_of(torch.tensor([4, 4]), 4)
    assert torch.equal(positions, network.positions.expand(2, 4, 7, 32))


def test_positions_are_interpolated_to_other_lengths():
    network = make(CASES["ast-first"])
    lengths = torch.tensor([1, 2, 3, 4, 5, 9])
    positions = network.positions_of(lengths, 9)
    for length, found in zip(lengths.tolist(), positions, strict=True):
        expected = functional.interpolate(
            network.positions.permute(2, 0, 1).unsqueeze(0),
            size=(length, 7),
            mode="bilinear",
        )[0].permute(1, 2, 0)
        torch.testing.assert_close(found[:length], expected)


@pytest.mark.parametrize(
    ("patch", "stride", "patches"),
    [([4, 32], [2, 16], (4, 7)), ([2, 128], [1, 128], (9, 1)), ([3, 16], [3, 8], (4, 15))],
)
def test_patches_cover_the_clip(patch, stride, patches):
    network = make(Case("ast", AST | {"class_token": "first"}, True), patch=patch, stride=stride)
    assert network.positions.shape == (*patches, 32)
    if stride == [3, 8]:  # the tenth second is in a patch of its own, filled up with zeros
        network = practised(network)
        x = clips(2)
        changed = x.clone()
        changed[:, 9] = 0
        with torch.inference_mode():
            assert not torch.allclose(network(x), network(changed), atol=1e-5)


@pytest.mark.parametrize(("where", "place"), [("first", 0), ("last", 28)])
def test_class_token_stands_where_the_option_says(where, place):
    network = make(CASES[f"ast-{where}"]).eval()
    seen = []
    network.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(clips(2))
    (tokens,) = seen
    assert tokens.shape == (2, 4 * 7 + 1, 32)
    is_class = (tokens == network.class_token).all(2)
    assert is_class.nonzero().tolist() == [[0, place], [1, place]]


def test_where_the_class_token_stands_does_not_matter():
    """A transformer hears no order but that of the positions: the same weights answer alike."""
    first, last = make(CASES["ast-first"]).eval(), make(CASES["ast-last"]).eval()
    last.load_state_dict(first.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(first(clips(3)), last(clips(3)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"patch": [11, 32]}, r"network.patch is \[11, 32\]; .* 1 to 10 and 1 to 128"),
        ({"patch": [4, 0]}, r"network.patch is \[4, 0\]"),
        ({"stride": [5, 16]}, r"network.stride is \[5, 16\]; .* 1 to 4 and 1 to 32"),
        ({"heads": 5}, "network.width is 32; it takes a multiple of network.heads, 5"),
    ],
)
def test_ast_refuses_what_does_not_fit(wrong, says):
    network = AST | {"class_token": "first", "dropout": 0.0} | wrong
    shape = Shape(10, [Label(0, "/m/0", "Speech")])
    with pytest.raises(UserError, match=says):
        build(Model(architecture="ast", network=network), shape, "mine")


# yac


def test_yac_has_the_published_shapes():
    found = shapes_of(make(YAC), clips(2))
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


def test_yac_refuses_other_lengths():
    with pytest.raises(ValueError, match="10 seconds, not 9"):
        yac.Network(yac.Settings(head="logits"), 9, 10)
    network = make(YAC)
    with pytest.raises(ValueError, match="10 frames"):
        network(clips(2, seconds=9))
    with pytest.raises(ValueError, match="10 frames"):
        network(clips(2), torch.tensor([10, 9]))
    assert network(clips(2), torch.tensor([10, 10])).shape == (2, 10)


def test_softmax_head_sums_to_one():
    network = make(YAC, head="softmax")
    out = network(clips(5))
    torch.testing.assert_close(out.sum(1), torch.ones(5))
    assert (out > 0).all()
    torch.testing.assert_close(out, make(YAC)(clips(5)).softmax(1))


@pytest.mark.parametrize("name", ["attention-feature", "multi_level_attention"])
def test_dropout_takes_a_channel_for_the_whole_clip(name):
    network = make(CASES[name], dropout=0.5).train()
    dropped = []

    def look(module, inputs, output):
        heard = inputs[0] > 0  # what ReLU left
        gone = heard & (output == 0)
        assert ((gone == heard).all(2) | ~gone.any(2)).all()
        dropped.append(gone.sum() / heard.sum())

    for module in network.modules():
        if isinstance(module, nn.Dropout1d):
            module.register_forward_hook(look)
    network(clips(64))
    assert len(dropped) == CASES[name].network["layers"]
    assert all(0.45 < share < 0.55 for share in dropped)
