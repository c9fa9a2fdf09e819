"""What fully connected layers cost the attention network, against 1x1 convolutions: steps in turns.

A step is forward, backward and Adam, on one core, with random clips.
"""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.ratios import after_a_warm_up, ratios, spread, timed
from benchmarks.results import Result
from benchmarks.stack import LABELS, SPEC, Step, training_step
from tagging.networks.attention import Network, Settings

TURNS = 7
STEPS = 30
BATCH = 64
SETTINGS = Settings(hidden=512, layers=3, dropout=0.3, pooling="decision")  # the root's `attention`


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


def under_bfloat16(network: nn.Module) -> nn.Module:
    """Have a network multiply in bfloat16, as `train.precision` does."""
    forward = torch.autocast("cpu", torch.bfloat16)(network.forward)
    network.forward = lambda x: forward(x).float()
    return network


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

    def milliseconds(step: Step, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], float]:
        def all_steps() -> None:
            for _ in range(steps):
                step(*batch)

        return lambda: timed(all_steps) / steps * 1000

    built = network()
    linears = [layer.linear for layer in built.layers] + [built.levels[0].classify]
    convolutions = "1x1 convolutions"
    ways = {
        convolutions: milliseconds(training_step(Convolutions(network())), clips),
        "linear layers, as attention has them": milliseconds(training_step(network()), clips),
        "the same under bfloat16": milliseconds(training_step(under_bfloat16(network())), clips),
        "multiplications alone": milliseconds(training_step(nn.Sequential(*linears)), frames),
    }
    found = after_a_warm_up("attention", ways, turns)
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
        "setting, `train.precision`; tasks/ablation has what it costs in accuracy."
    )
    return Result("A step of the attention network", about, rows, [])
