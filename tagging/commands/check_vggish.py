"""`tagging check-vggish`: whether weights of VGGish reproduce Google's numbers."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tagging.features.vggish import RATE, Transform

DURATION, FREQUENCY = 3, 1000  # of the sine (seconds, Hz)
# Mean and standard deviation by vggish_smoke_test.py (2023), and its relative tolerance.
EXPECTED = {"embedding": (0.000657, 0.343), "quantized": (126.0, 89.3)}
TOLERANCE = 0.1


@torch.inference_mode()
def layer_outputs(transform: Transform) -> dict[str, torch.Tensor]:
    """Return the outputs of each step for a sine of 1 kHz and three seconds: three examples."""
    times = np.arange(DURATION * RATE) / RATE
    sine = np.sin(2 * np.pi * FREQUENCY * times).astype(np.float32)
    examples = transform.log_mel(torch.from_numpy(sine)[None]).flatten(0, 1)
    outputs = {"log-mel": examples}
    x = examples[:, None]
    for layer in transform.network.features:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            outputs[f"block {len(outputs)}"] = x
    outputs["embedding"] = transform.network(examples)
    outputs["quantized"] = transform.quantized(outputs["embedding"])
    return outputs


def check_vggish(path: Path) -> bool:
    """Print mean and standard deviation after each step; return whether Google's are equal.

    Args:
        path: of the weights.

    Raises:
        UserError: if there are no weights at `path`.
    """
    all_equal = True
    print(f"{'step':<10}{'shape':<20}{'mean':>12}{'std':>12}  Google's mean, std")
    for name, values in layer_outputs(Transform(path)).items():
        mean, std = float(values.mean()), float(values.std(correction=0))
        shape = " x ".join(map(str, values.shape))
        line = f"{name:<10}{shape:<20}{mean:>12.6g}{std:>12.6g}"
        if name in EXPECTED:
            equal = bool(np.allclose((mean, std), EXPECTED[name], rtol=TOLERANCE, atol=0))
            all_equal &= equal
            expected_mean, expected_std = EXPECTED[name]
            line += f"  {expected_mean:g}, {expected_std:g}: {'equal' if equal else 'different'}"
        print(line)
    return all_equal
