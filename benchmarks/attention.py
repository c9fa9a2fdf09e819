"""What fully connected layers cost the attention network, against 1x1 convolutions: steps in turns.

A step is forward, backward and Adam, on one core, with random clips.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.ratios import alternate, ratios, spread
from benchmarks.results import Result
from tagging.base.progress import Progress
from tagging.data.spec import InputSpec
from tagging.learning.losses import LOSSES
from tagging.networks.attention import Network, Settings

TURNS = 7
STEPS = 30
BATCH = 64
LABELS = 10
SPEC = InputSpec(1, 10, 128, 1 / 256)
SETTINGS = Settings(hidden=512, layers=3, dropout=0.3, pooling="decision")  # the root's `attention`

Step = Callable[[torch.Tensor, torch.Tensor], object]


class Convolutions(nn.Module):
    """The same network as 1x1 convolutions over (batch, channels, frames), with its weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.norm = network.norm
        layers = [(layer.linear, layer.norm, layer.dropout) for layer in network.layers]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(_convolution(linear), norm, nn.ReLU(), nn.Dropout1d(dropout))
                for linear, norm, dropout in layers
            )
        )
        (level,) = network.levels
        self.attend, self.decide = _convolution(level.attend), _convolution(level.classify)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, 1, frames, bins) to logits (batch, labels)."""
        h = self.layers(self.norm(x.squeeze(1).transpose(1, 2)))  # (batch, hidden, frames)
        decisions = self.decide(h)
        log_p = self.attend(h).log_softmax(2) + nn.functional.logsigmoid(decisions)
        return log_p.logsumexp(2) - (log_p - decisions).logsumexp(2)


def _convolution(linear: nn.Linear) -> nn.Conv1d:
    made = nn.Conv1d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    with torch.no_grad():
        made.weight.copy_(linear.weight.unsqueeze(2))
    made.bias = linear.bias
    return made


def training_step(network: nn.Module, bfloat16: bool = False) -> Step:
    """Return one step of a training: of inputs and what they should give."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001, fused=True)
    loss = LOSSES["msml"]()

    def step(x: torch.Tensor, targets: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = network(x)
        loss(outputs.float(), targets).backward()
        optimizer.step()

    return step


def measure(turns: int = TURNS, steps: int = STEPS) -> Result:
    """Time all ways in turns of so many steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = SPEC.as_input(torch.randint(0, 256, (BATCH, *SPEC[:3]), dtype=torch.uint8))
    clips = x, (torch.rand(BATCH, LABELS) < 0.15).float()
    frames = x.flatten(0, 2), torch.zeros(BATCH * SPEC.frames, LABELS)

    def network() -> Network:
        return Network(SETTINGS, SPEC, LABELS)

    def timed(step: Step, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], float]:
        def turn() -> float:
            begin = time.perf_counter()
            for _ in range(steps):
                step(*batch)
            return (time.perf_counter() - begin) / steps * 1000

        return turn

    built = network()
    linears = [layer.linear for layer in built.layers] + [built.levels[0].classify]
    convolutions = "1x1 convolutions"
    ways = {
        convolutions: timed(training_step(Convolutions(network())), clips),
        "linear layers, as attention has them": timed(training_step(network()), clips),
        "the same under bfloat16": timed(training_step(network(), bfloat16=True), clips),
        "multiplications alone": timed(training_step(nn.Sequential(*linears)), frames),
    }
    with Progress("attention", (turns + 1) * len(ways), "run") as progress:
        alternate(ways, 1, progress)  # warms up
        found = alternate(ways, turns, progress)
    torch.set_num_threads(threads)
    rows = [
        {
            "way": name,
            "milliseconds a step": spread(times),
            "its time / the convolutions'": spread(ratios(times, found[convolutions])),
        }
        for name, times in found.items()
    ]
    about = (
        f"The root's `attention` at batch {BATCH}, hidden {SETTINGS.hidden}, {SETTINGS.layers} "
        "layers, on one core; convolutions and linear layers are the same function. bfloat16 is a "
        "setting, `train.precision`: its results hang on the processor. tasks/ablation has what it "
        "costs in accuracy."
    )
    return Result("A step of the attention network", about, rows, [])
