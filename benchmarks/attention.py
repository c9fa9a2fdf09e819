"""Training steps of the attention network, with linear layers and with 1x1 convolutions.

A step is forward, backward and Adam, on one core. Clips are random.
"""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.results import Result
from benchmarks.stack import LABELS, SPEC, Step, training_step
from benchmarks.timing import interleave_after_warm_up, measure_seconds, ratios, spread
from tagging.networks.attention import Network, Settings

ROUNDS = 7
STEPS = 30
BATCH = 64
SETTINGS = Settings(hidden=512, layers=3, dropout=0.3, pooling="decision")  # the root's `attention`


class Convolutions(nn.Module):
    """`network` as 1x1 convolutions over (batch, channels, frames), with its weights."""

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
    convolution = nn.Conv1d(
        linear.in_features, linear.out_features, 1, bias=linear.bias is not None
    )
    with torch.no_grad():
        convolution.weight.copy_(linear.weight.unsqueeze(2))
    convolution.bias = linear.bias
    return convolution


def with_bfloat16(network: nn.Module) -> nn.Module:
    """Return a network that multiplies in bfloat16, as `train.precision` sets it."""
    forward = torch.autocast("cpu", torch.bfloat16)(network.forward)
    network.forward = lambda x: forward(x).float()
    return network


def measure(rounds: int = ROUNDS, steps: int = STEPS) -> Result:
    """Time all implementations, `steps` steps each in every round."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = SPEC.as_input(torch.randint(0, 256, (BATCH, *SPEC[:3]), dtype=torch.uint8))
    clips = x, (torch.rand(BATCH, LABELS) < 0.15).float()
    frames = x.flatten(0, 2), torch.zeros(BATCH * SPEC.frames, LABELS)

    def network() -> Network:
        return Network(SETTINGS, SPEC, LABELS)

    def milliseconds(step: Step, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], float]:
        def all_steps() -> None:
            for _ in range(steps):
                step(*batch)

        return lambda: measure_seconds(all_steps) / steps * 1000

    reference = network()
    linears = [layer.linear for layer in reference.layers] + [reference.levels[0].classify]
    convolutions = "1x1 convolutions"
    implementations = {
        convolutions: milliseconds(training_step(Convolutions(network())), clips),
        "linear layers (the project)": milliseconds(training_step(network()), clips),
        "linear layers, bfloat16": milliseconds(training_step(with_bfloat16(network())), clips),
        "matrix multiplications only": milliseconds(training_step(nn.Sequential(*linears)), frames),
    }
    times_of = interleave_after_warm_up("attention", implementations, rounds)
    torch.set_num_threads(threads)
    rows = [
        {
            "implementation": name,
            "ms per step": spread(times),
            "time / convolutions'": spread(ratios(times, times_of[convolutions])),
        }
        for name, times in times_of.items()
    ]
    description = (
        f"The root's `attention` at batch {BATCH}, hidden {SETTINGS.hidden}, {SETTINGS.layers} "
        "layers, on one core; convolutions and linear layers compute the same function. bfloat16 "
        "is the setting `train.precision`; tasks/ablation reports its accuracy."
    )
    return Result("A step of the attention network", description, rows, [])
