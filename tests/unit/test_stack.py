"""Training a stack of networks equals training each: kernels, stack, Adam, replayed steps."""

import contextlib

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from replication import conv_block as blocks
from replication.conv_block import Geometry, conv_block
from replication.replay import WARM_UPS, Replayed
from replication.study import LOSSES
from replication.yac_stack import EpochLoop, StackedAdam, StackTrainer, features
from tagging.data.spec import InputSpec
from tagging.networks.yac import Network, Settings

SPEC = InputSpec(1, 10, 128, 1 / 256)

# Each block of YoutubeAudioClassifier: whether models share the input, shapes, geometry.
BLOCKS = {
    "intra_init": (True, (10, 16, 8), 5, (3, 3), Geometry(padding=(1, 1))),
    "intra_stride": (False, (5, 16, 8), 2, (3, 3), Geometry((2, 2), padding=(1, 1))),
    "intra_tall": (False, (5, 16, 8), 5, (3, 3), Geometry(dilation=(2, 1))),
    "intra_wide": (False, (5, 16, 8), 2, (9, 3), Geometry(dilation=(1, 2))),
    "inter_conv.0": (True, (1, 10, 128), 4, (3, 5), Geometry((1, 2))),
    "inter_conv.1": (False, (4, 8, 62), 8, (3, 8), Geometry(dilation=(1, 3))),
    "inter_down": (False, (4, 4, 20), 2, (3, 5), Geometry(dilation=(1, 3), padding=(1, 0))),
}


@pytest.fixture
def compiled():
    if blocks.kernels() is None:
        pytest.skip("no C compiler: PyTorch does the work")


def draw_block(name: str):
    shared, image, cout, kernel, geometry = BLOCKS[name]
    torch.manual_seed(0)
    x = torch.randn(1 if shared else 3, *image, 32, requires_grad=not shared)
    weight = (0.2 * torch.randn(3, cout, image[0], *kernel)).requires_grad_()
    bias, beta = torch.randn(2, 3, cout)
    gamma = torch.rand(3, cout) + 0.5
    return x, weight, bias, gamma.requires_grad_(), beta.clone().requires_grad_(), geometry


@pytest.mark.parametrize("name", BLOCKS)
def test_kernels_compute_what_pytorch_does(compiled, name):
    *arguments, geometry = draw_block(name)
    inputs = [part for part in arguments if part.requires_grad]
    results = []
    for function in (conv_block, blocks._reference):
        y, mean, var = function(*arguments, geometry, None)
        torch.manual_seed(1)
        gradients = torch.autograd.grad(y, inputs, torch.randn(y.shape))
        results.append((y, mean, var, *gradients))
    for ours, reference in zip(*results, strict=True):
        assert (ours - reference).norm() < 1e-5 * reference.norm()


def test_kernels_normalize_by_statistics_that_are_passed(compiled):
    *arguments, geometry = draw_block("intra_tall")
    statistics = (torch.randn(3, 5), torch.rand(3, 5) + 0.5)
    y = conv_block(*arguments, geometry, statistics)[0]
    reference = blocks._reference(*arguments, geometry, statistics)[0]
    assert torch.allclose(y, reference, atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("AUDIOSET_KERNELS", "0"), ("CC", "false")])
def test_without_a_compiler_pytorch_does_the_work(tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    blocks.kernels.cache_clear()
    try:
        assert blocks.kernels() is None
        *arguments, geometry = draw_block("intra_init")
        y, mean, _ = conv_block(*arguments, geometry)
        assert y.shape == (3, 5, 16, 8, 32)
        assert mean.shape == (3, 5)
    finally:
        blocks.kernels.cache_clear()


def grid(dtype: torch.dtype):
    """Return networks with each head and loss, learning rates low and high, and training data."""
    heads = ["logits", "softmax", "logits", "softmax"]
    losses = ["msml", "msml", "ce", "ce"]
    lrs = [1e-3, 1e-2, 1e-4, 1e-1]
    networks = []
    for seed, head in enumerate(heads):
        torch.manual_seed(seed)
        networks.append(Network(Settings(head=head), SPEC, 10).to(dtype))
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(12, 16, 10, 128, generator=generator).to(dtype)
    labels = (torch.rand(12, 16, 10, generator=generator) < 0.2).to(dtype)
    labels[..., 0] = 1
    return networks, losses, lrs, x, labels


def train_singly(networks, losses, lrs, x, labels) -> torch.Tensor:
    """Train the networks with PyTorch alone; return the losses, (steps, networks)."""
    out = torch.empty(len(x), len(networks), dtype=x.dtype)
    for k, network in enumerate(networks):
        optimizer = torch.optim.Adam(network.parameters(), lr=lrs[k])
        for step, (batch, targets) in enumerate(zip(x, labels, strict=True)):
            optimizer.zero_grad()
            loss = LOSSES[losses[k]](network(batch.unsqueeze(1)), targets)
            loss.backward()
            optimizer.step()
            out[step, k] = loss.detach()
    return out


def train_together(trainer: StackTrainer, x, labels) -> torch.Tensor:
    """Train a stack; return the losses, (steps, networks)."""
    pairs = zip(x, labels, strict=True)
    return torch.stack([trainer.step(features(batch), targets) for batch, targets in pairs])


def test_a_stack_in_double_precision_equals_its_networks_up_to_rounding():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        networks, losses, lrs, x, labels = grid(torch.float64)
        trainer = StackTrainer(networks, losses, lrs)
        expected = train_singly(networks, losses, lrs, x, labels)
        got = train_together(trainer, x, labels)
        assert torch.allclose(got, expected, rtol=0, atol=1e-12)
        outputs = trainer.stack.forward(features(x[0]), training=False).detach()
        image = x[0].unsqueeze(1)
        for k, (network, state) in enumerate(zip(networks, trainer.stack.states(), strict=True)):
            # Evaluation depends on the convolutions' biases, which training moves by rounding.
            assert torch.allclose(outputs[k], network.eval()(image), atol=1e-5)
            network.load_state_dict(state, strict=False)
            assert torch.allclose(network(image), outputs[k], atol=1e-12)
    finally:
        torch.set_default_dtype(default)


def test_a_stack_in_single_precision_follows_its_networks(compiled):
    networks, losses, lrs, x, labels = grid(torch.float32)
    trainer = StackTrainer(networks, losses, lrs)
    expected = train_singly(networks, losses, lrs, x, labels)
    got = train_together(trainer, x, labels)
    assert torch.allclose(got[0], expected[0], atol=1e-6)
    # Adam turns rounding errors into steps of the size of its rate: only low rates stay close.
    assert torch.allclose(got[:, [0, 2]], expected[:, [0, 2]], atol=1e-3)


def test_adam_with_a_rate_for_each_row_equals_pytorchs():
    torch.manual_seed(0)
    flat = torch.randn(3, 40, dtype=torch.float64)
    lrs = [1.0, 0.01, 0.0001]
    rows = [row.clone().requires_grad_() for row in flat]
    reference = torch.optim.Adam([{"params": [r], "lr": lr} for r, lr in zip(rows, lrs)])  # noqa: B905
    ours = StackedAdam(flat, lrs)
    for _ in range(20):
        gradient = torch.randn(3, 40, dtype=torch.float64)
        for row, values in zip(rows, gradient, strict=True):
            row.grad = values.clone()
        reference.step()
        ours.step(gradient)
    # `lrs` are in single precision, so 0.01 has seven digits.
    assert torch.allclose(ours.flat, torch.stack(rows).detach(), rtol=0, atol=1e-6)


class Recording(TorchDispatchMode):
    """A substitute for a CUDA graph: records operations, and replays them into the same tensors."""

    def __init__(self):
        super().__init__()
        self.calls, self.replays = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        # A graph cannot record that the processor reads a value of a tensor.
        assert function is not torch.ops.aten._local_scalar_dense.default
        result = function(*args, **kwargs or {})
        self.calls.append((function, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        if self.replays == 1:
            return  # unlike on a GPU, recording has computed the results
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            if isinstance(result, torch.Tensor):
                result, again = [result], [again]
            for tensor, value in zip(result, again, strict=True):
                if tensor is not None:
                    tensor.copy_(value)


@pytest.fixture
def recorded(monkeypatch):
    """The graphs that are made, on the CPU and with PyTorch's convolutions, as on a GPU."""
    graphs = []

    class Stream:
        def wait_stream(self, other):
            pass

    def record():
        graphs.append(Recording())
        return graphs[-1]

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", record)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    monkeypatch.setattr(blocks, "kernels", lambda: None)
    return graphs


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 53 clips, so that the last batch is smaller."""
    generator = torch.Generator().manual_seed(7)
    embeddings = torch.randint(0, 256, (53, 10, 128), generator=generator).byte()
    labels = (torch.rand(53, 10, generator=generator) < 0.3).byte()
    labels[:, 0] = 1
    return embeddings, labels


def run_epochs(epochs: int, as_on_cuda: bool):
    networks, losses, lrs, _, _ = grid(torch.float32)
    embeddings, labels = clips()
    trainer = StackTrainer(networks, losses, lrs)
    loop = EpochLoop(trainer, features(embeddings), labels, SPEC)
    if as_on_cuda:
        loop._steps = {
            size: Replayed(lambda size=size: loop._step(size), torch.device("cuda"))
            for size in (16, 5)
        }
    rng = np.random.default_rng(0)
    means = [loop.run(np.split(rng.permutation(53), [16, 32, 48])) for _ in range(epochs)]
    return np.array(means), trainer


def test_replayed_steps_equal_the_steps(recorded):
    expected, directly = run_epochs(6, as_on_cuda=False)
    assert not recorded
    got, replayed = run_epochs(6, as_on_cuda=True)
    assert [graph.replays for graph in recorded] == [18 - WARM_UPS, 6 - WARM_UPS]
    assert np.array_equal(got, expected)
    for name, tensor in directly.state().items():
        assert torch.equal(tensor, replayed.state()[name]), name


def test_an_epoch_equals_its_steps():
    means, trainer = run_epochs(1, as_on_cuda=False)
    networks, losses, lrs, _, _ = grid(torch.float32)
    embeddings, labels = clips()
    singly = StackTrainer(networks, losses, lrs)
    total = 0
    for batch in np.split(np.random.default_rng(0).permutation(53), [16, 32, 48]):
        x = features(embeddings[batch].float() / 256)
        total += singly.step(x, labels[batch].float()).double().numpy() * len(batch)
    assert np.allclose(means[0], total / 53)
    assert torch.equal(trainer.stack.flat, singly.stack.flat)
