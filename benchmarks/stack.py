"""Training steps of the grid's stack of networks at the study's batch size, on one core.

Clips are random.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.results import Result
from benchmarks.timing import interleave_after_warm_up, ratios, spread
from replication import conv_block
from replication.yac_stack import StackTrainer, features
from tagging.data.spec import InputSpec
from tagging.learning.losses import Msml
from tagging.networks.yac import Network, Settings

ROUNDS = 7
STEPS = 60
BATCH = 16
STEPS_PER_EPOCH = 18_064 // BATCH  # of the study's training split
LABELS = 10
SPEC = InputSpec(1, 10, 128, 1 / 256)

Step = Callable[[torch.Tensor, torch.Tensor], object]


def training_step(network: nn.Module) -> Step:
    """Return the training step of a plain loop in PyTorch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    loss = Msml()

    def step(x: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(network(x), labels).backward()
        optimizer.step()

    return step


def build_network() -> Network:
    """Return a network of the study."""
    return Network(Settings(head="logits"), SPEC, LABELS)


def stack_step(size: int) -> Step:
    """Return the training step of a stack of `size` networks."""
    networks = [build_network() for _ in range(size)]
    return StackTrainer(networks, ["msml"] * size, [0.001] * size).step


def without_kernels(step: Step) -> Step:
    """Return a step that uses PyTorch's convolutions."""

    def step_in_pytorch(x: torch.Tensor, labels: torch.Tensor) -> None:
        compiled = conv_block.kernels
        conv_block.kernels = lambda: None
        try:
            step(x, labels)
        finally:
            conv_block.kernels = compiled

    return step_in_pytorch


def measure(rounds: int = ROUNDS, steps: int = STEPS) -> Result:
    """Time all implementations, `steps` steps each in every round."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    embeddings = torch.randint(0, 256, (2048, 10, 128), dtype=torch.uint8)
    labels = (torch.rand(2048, LABELS) < 0.15).float()
    stack_input = features(embeddings)

    def epoch_seconds(networks: int, step: Step, x: torch.Tensor) -> Callable[[], float]:
        def run() -> float:
            batches = torch.randint(0, len(labels), (steps, BATCH))
            begin = time.perf_counter()
            for batch in batches:
                step(SPEC.as_input(x[batch]), labels[batch])
            return (time.perf_counter() - begin) / steps * STEPS_PER_EPOCH / networks

        return run

    plain = "plain loop in PyTorch, 1 network"
    implementations = {
        plain: epoch_seconds(1, training_step(build_network()), embeddings.unsqueeze(1)),
        "stack of 5, PyTorch's convolutions": epoch_seconds(
            5, without_kernels(stack_step(5)), stack_input
        ),
        "stack of 1, the project's convolutions": epoch_seconds(1, stack_step(1), stack_input),
        "stack of 5, the project's convolutions": epoch_seconds(5, stack_step(5), stack_input),
        "stack of 10, the project's convolutions": epoch_seconds(10, stack_step(10), stack_input),
    }
    seconds = interleave_after_warm_up("stack", implementations, rounds)
    torch.set_num_threads(threads)
    rows = [
        {
            "implementation": name,
            "s per epoch and network": statistics.median(times),
            "speedup over the plain loop": spread(ratios(seconds[plain], times)),
        }
        for name, times in seconds.items()
    ]
    kernels = "compiled here" if conv_block.kernels() else "replaced by PyTorch's here"
    description = (
        f"YoutubeAudioClassifier at batch {BATCH} on one core; seconds are those of "
        f"the {STEPS_PER_EPOCH:,} steps of an epoch, extrapolated from {steps}. The project's "
        f"convolutions are {kernels}."
    )
    return Result("The stack of the grid", description, rows, [])
