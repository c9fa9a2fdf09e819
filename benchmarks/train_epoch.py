"""Ways to train YoutubeAudioClassifier at the study's batch of 16, timed in turns on one core.

    python -m benchmarks.train_epoch

Seconds are for an epoch of 18,064 clips and one network, from some hundred steps on random clips. A
ratio is how many times faster a way is than the plain loop of the same turn.
"""

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.ratios import summary
from tagging import conv_block
from tagging.architectures.yac import Network, Settings
from tagging.batches import as_input
from tagging.errors import entry_point
from tagging.losses import LOSSES
from tagging.progress import Progress
from tagging.tables import to_markdown
from tagging.yac_stack import StackTrainer, features

TURNS = 7
STEPS = 60
BATCH = 16
STEPS_AN_EPOCH = 18_064 // BATCH
LABELS = 10

Step = Callable[[torch.Tensor, torch.Tensor], object]


def plain_loop() -> Step:
    network = Network(Settings(head="logits"), 10, LABELS)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)

    def step(x: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        LOSSES["msml"](network(x), labels).backward()
        optimizer.step()

    return step


def stack(networks: int) -> Step:
    built = [Network(Settings(head="logits"), 10, LABELS) for _ in range(networks)]
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


@entry_point
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    embeddings = torch.randint(0, 256, (2048, 10, 128), dtype=torch.uint8)
    labels = (torch.rand(2048, LABELS) < 0.15).float()
    rows = features(embeddings)
    ways = {
        "plain loop in PyTorch, 1 network": (1, plain_loop(), embeddings),
        "stack of 5, PyTorch's convolutions": (5, without_kernels(stack(5)), rows),
        "stack of 1, own convolutions": (1, stack(1), rows),
        "stack of 5, own convolutions": (5, stack(5), rows),
        "stack of 10, own convolutions": (10, stack(10), rows),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with Progress("train", (TURNS + 1) * len(ways), "turn") as progress:
        for turn in range(TURNS + 1):
            for name, (networks, step, x) in ways.items():
                batches = torch.randint(0, 2048, (STEPS, BATCH))
                begin = time.perf_counter()
                for batch in batches:
                    step(as_input(x[batch]), labels[batch])
                spent = time.perf_counter() - begin
                if turn:  # the first turn warms up
                    seconds[name].append(spent / STEPS * STEPS_AN_EPOCH / networks)
                progress.advance()
    base = seconds[next(iter(ways))]
    table = []
    for name, times in seconds.items():
        ratios = (b / t for b, t in zip(base, times, strict=True))
        table.append([name, f"{statistics.median(times):.2f}", *summary(ratios, 1)])
    print(to_markdown(["way", "s an epoch and network", "ratio", "spread"], table, right=1))


if __name__ == "__main__":
    main()
