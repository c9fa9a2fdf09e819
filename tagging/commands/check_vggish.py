"""`tagging vggish`: whether weights of VGGish give what Google's do."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tagging.features.vggish import RATE, Transform

SECONDS, HERTZ = 3, 1000
# Mean and standard deviation that vggish_smoke_test.py states (2023), and how far it lets them be.
STATED = {"embedding": (0.000657, 0.343), "quantized": (126.0, 89.3)}
TOLERANCE = 0.1


@torch.inference_mode()
def steps(transform: Transform) -> dict[str, torch.Tensor]:
    """Return what each step gives of a sine of 1 kHz, three seconds: three examples."""
    times = np.arange(SECONDS * RATE) / RATE
    sine = np.sin(2 * np.pi * HERTZ * times).astype(np.float32)
    examples = transform.log_mel(torch.from_numpy(sine)[None]).flatten(0, 1)
    found = {"log-mel": examples}
    x = examples[:, None]
    for layer in transform.network.features:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            found[f"block {len(found)}"] = x
    found["embedding"] = transform.network(examples)
    found["quantized"] = transform.quantized(found["embedding"])
    return found


def check(path: Path) -> bool:
    """Print mean and standard deviation after each step; return whether Google's are the same.

    Raises:
        UserError: if there are no weights at `path`.
    """
    same = True
    print(f"{'step':<10}{'shape':<20}{'mean':>12}{'deviation':>12}  Google's")
    for name, values in steps(Transform(path)).items():
        found = (float(values.mean()), float(values.std(correction=0)))
        shape = " x ".join(map(str, values.shape))
        line = f"{name:<10}{shape:<20}{found[0]:>12.6g}{found[1]:>12.6g}"
        if name in STATED:
            close = bool(np.allclose(found, STATED[name], rtol=TOLERANCE, atol=0))
            same &= close
            mean, deviation = STATED[name]
            line += f"  {mean:g}, {deviation:g}: {'the same' if close else 'others'}"
        print(line)
    return same
