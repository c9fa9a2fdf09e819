"""VGGish: AudioSet's released embeddings, computed from waveforms.

Hershey et al. (2017), "CNN architectures for large-scale audio classification", arXiv 1609.09430,
as Google published it in tensorflow/models (research/audioset/vggish): 96 frames of a log-mel
spectrogram are an example, a VGG of four blocks and three linear layers maps it to 128 values, and
PCA with whitening and quantization to 8 bits makes them an embedding. An example lasts 0.96 s; a
clip of AudioSet has ten.

The last layer has no ReLU, and values are truncated, not rounded: as in Google's code of 2023,
unlike older code and PyTorch ports. The weights are not included: see `read_weights`.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from tagging.base.errors import UserError
from tagging.features.base import WaveformTransform
from tagging.features.mel import FilteredSpectrum, mel_corners, to_mel, triangles

RATE = 16000  # Hz
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 and 10 ms
BINS, LOW, HIGH = 64, 125.0, 7500.0  # mel filters, from LOW to HIGH in Hz
OFFSET = 0.01  # added before the logarithm
FRAMES = 96  # of an example
SIZE, HIDDEN = 128, 4096  # of an embedding, and of the layers before it
LIMIT = 2.0  # whitened values from -2 to 2 become 0 to 255
BATCH_SIZE = 16  # examples
# The channels of the convolutions of each block, which ends with a pooling.
BLOCKS = ((64,), (128,), (256, 256), (512, 512))
PCA = {"pca_eigen_vectors": (SIZE, SIZE), "pca_means": (SIZE,)}
EXPECTED = (
    "it must be a folder with vggish-10086976.pth and vggish_pca_params-970ea276.pth (of "
    "harritaylor/torchvggish), or one file .safetensors with the tensors of both"
)


class LogMel(nn.Module):
    """Waveforms, float32 (batch, samples), to examples (batch, examples, 96, 64).

    An incomplete example at the end is dropped; a waveform too short for one is padded with zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        window = torch.hann_window(WINDOW, periodic=True, dtype=torch.float64)
        corners = to_mel(mel_corners(BINS, LOW, HIGH, "htk"), "htk")
        frequencies = torch.arange(FFT // 2 + 1, dtype=torch.float64) * RATE / FFT
        weights = triangles(corners, to_mel(frequencies, "htk"))
        self.spectrum = FilteredSpectrum(window, HOP, weights, "end", power=1.0)

    @staticmethod
    def examples(samples: int) -> int:
        """Return the number of examples of a waveform, 1 or more."""
        return max(1, (1 + (samples - WINDOW) // HOP) // FRAMES)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the examples."""
        number = self.examples(waveform.shape[1])
        needed = (number * FRAMES - 1) * HOP + WINDOW
        missing = max(0, needed - waveform.shape[1])
        x = self.spectrum(nn.functional.pad(waveform, (0, missing))[:, :needed])
        return (x + OFFSET).log().unflatten(1, (number, FRAMES))


class Network(nn.Module):
    """Map examples, (n, 96, 64), to 128 values each; tensors are named as in the PyTorch port."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for block in BLOCKS:
            for channels in block:
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = inputs * FRAMES * BINS // 4 ** len(BLOCKS)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, SIZE),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input of PCA: float32 (n, 128)."""
        maps = self.features(x[:, None])
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # channels last, as TensorFlow


class Quantized(nn.Module):
    """Map outputs of the network, (n, 128), to AudioSet's integers, 0 to 255, as float32."""

    pca_eigen_vectors: torch.Tensor
    pca_means: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shape in PCA.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return PCA's components, whitened, clipped and truncated to integers."""
        whitened = (x - self.pca_means) @ self.pca_eigen_vectors.T
        return ((whitened.clamp(-LIMIT, LIMIT) + LIMIT) * (255 / (2 * LIMIT))).floor()


class Transform(WaveformTransform):
    """Map waveforms, float32 (batch, samples) at 16 kHz, to embeddings (batch, 1, frames, 128).

    Args:
        path: of the weights, as for `read_weights`.

    Raises:
        UserError: if the weights are missing or not VGGish's.
    """

    channels, bins, sample_rate = 1, SIZE, RATE

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.log_mel = LogMel()
        with torch.device("meta"):  # without drawing 72 million random weights first
            self.network = Network()
        self.quantized = Quantized()
        tensors = read_weights(path)
        self.quantized.load_state_dict({name: tensors.pop(name) for name in PCA})
        self.network.load_state_dict(tensors, assign=True)
        self.eval()

    def frames(self, samples: int) -> int:
        """Return the number of frames (of 0.96 s) of a waveform, 1 or more."""
        return LogMel.examples(samples)

    @torch.inference_mode()
    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the embeddings."""
        examples = self.log_mel(waveform)
        batches = examples.flatten(0, 1).split(BATCH_SIZE)
        embeddings = torch.cat([self.quantized(self.network(batch)) for batch in batches])
        return embeddings.unflatten(0, examples.shape[:2])[:, None]


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of the network and of PCA: float32, by their names in the PyTorch port.

    Only tensors and arrays are unpickled.

    Args:
        path: a folder with the two files of the PyTorch port, or a safetensors file.

    Raises:
        UserError: if a tensor is missing or has another shape.
    """
    if path.is_dir():
        files = sorted(path.glob("vggish*.pth"))
        if len(files) != 2:
            names = ", ".join(file.name for file in files) or "no vggish*.pth"
            raise UserError(f"{path} has {names}; {EXPECTED}")
        tensors = {name: tensor for file in files for name, tensor in _read(file).items()}
    else:
        tensors = _read(path)
    with torch.device("meta"):
        state = Network().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()} | PCA
    for name, shape in shapes.items():
        if name not in tensors or math.prod(tensors[name].shape) != math.prod(shape):
            actual = f"{tuple(tensors[name].shape)}" if name in tensors else "no such tensor"
            raise UserError(f"{path}: {name} must have the shape {shape}, got {actual}; {EXPECTED}")
    return {name: tensors[name].reshape(shape).float() for name, shape in shapes.items()}


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # PCA's tensors are NumPy arrays, written when NumPy's modules had other names.
        old = "numpy.core.multiarray"
        kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
        rebuild = np.zeros(0).__reduce__()[0]
        scalar = np.float64(0).__reduce__()[0]
        allowed: list[Any] = [
            np.ndarray, np.dtype, *kinds, rebuild, scalar,
            (rebuild, f"{old}._reconstruct"), (scalar, f"{old}.scalar"),
        ]  # fmt: skip
        with torch.serialization.safe_globals(allowed):
            values = torch.load(path, map_location="cpu", weights_only=True)
        return {name: torch.as_tensor(value) for name, value in values.items()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {EXPECTED}") from None
    except Exception as error:  # torch.load may raise any
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read as tensors ({first}); {EXPECTED}") from None
