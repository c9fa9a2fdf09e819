"""What makes the grid's stack of networks fast: steps at the study's batch, timed in turns.

On one core, with random clips.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.ratios import after_a_warm_up, ratios, spread
from benchmarks.results import Result
from replication import conv_block
from replication.yac_stack import StackTrainer, features
from tagging.data.spec import InputSpec
from tagging.learning.losses import Msml
from tagging.networks.yac import Network, Settings

TURNS = 7
STEPS = 60
BATCH = 16
STEPS_AN_EPOCH = 18_064 // BATCH  # of the study's training split
LABELS = 10
SPEC = InputSpec(1, 10, 128, 1 / 256)

Step = Callable[[torch.Tensor, torch.Tensor], object]


def training_step(network: nn.Module) -> Step:
    """Return a step of a plain loop in PyTorch."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    loss = Msml()

    def step(x: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(network(x), labels).backward()
        optimizer.step()

    return step


def build() -> Network:
    return Network(Settings(head="logits"), SPEC, LABELS)


def stack(networks: int) -> Step:
    built = [build() for _ in range(networks)]
    return StackTrainer(built, ["msml"] * networks, [0.001] * networks).step


def without_kernels(step: Step) -> Step:
    def slow(x: torch.Tensor, labels: torch.Tensor) -> None:
        compiled = conv_block.kernels
        conv_block.kernels = lambda: None
        try:
            step(x, labels)
        finally:
            conv_block.kernels = compiled

    return slow


def measure(turns: int = TURNS, steps: int = STEPS) -> Result:
    """Time all ways in turns of so many steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    embeddings = torch.randint(0, 256, (2048, 10, 128), dtype=torch.uint8)
    labels = (torch.rand(2048, LABELS) < 0.15).float()
    rows_of_stack = features(embeddings)

    def timed(networks: int, step: Step, x: torch.Tensor) -> Callable[[], float]:
        def turn() -> float:
            batches = torch.randint(0, len(labels), (steps, BATCH))
            begin = time.perf_counter()
            for batch in batches:
                step(SPEC.as_input(x[batch]), labels[batch])
            return (time.perf_counter() - begin) / steps * STEPS_AN_EPOCH / networks

        return turn

    plain = "plain loop in PyTorch, 1 network"
    ways = {
        plain: timed(1, training_step(build()), embeddings.unsqueeze(1)),
        "stack of 5, PyTorch's convolutions": timed(5, without_kernels(stack(5)), rows_of_stack),
        "stack of 1, own convolutions": timed(1, stack(1), rows_of_stack),
        "stack of 5, own convolutions": timed(5, stack(5), rows_of_stack),
        "stack of 10, own convolutions": timed(10, stack(10), rows_of_stack),
    }
    seconds = after_a_warm_up("stack", ways, turns)
    torch.set_num_threads(threads)
    rows = [
        {
            "way": name,
            "s an epoch and network": statistics.median(times),
            "times as fast as the plain loop": spread(ratios(seconds[plain], times)),
        }
        for name, times in seconds.items()
    ]
    compiled = "compiled here" if conv_block.kernels() else "not compiled here: PyTorch's instead"
    about = (
        f"YoutubeAudioClassifier at batch {BATCH} on one core; seconds are for the "
        f"{STEPS_AN_EPOCH:,} steps of an epoch, from {steps} at a time. Own convolutions are "
        f"{compiled}."
    )
    return Result("What makes the stack fast", about, rows, [])
