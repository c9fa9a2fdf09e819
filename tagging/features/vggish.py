"""VGGish: what AudioSet's released embeddings are made of, from waveforms to whole numbers.

Hershey et al. (2017), "CNN architectures for large-scale audio classification", arXiv 1609.09430,
as Google published it in tensorflow/models (research/audioset/vggish): 96 frames of log-mel spectra
are an example, a VGG of four blocks and three linear layers gives 128 numbers of it, which PCA with
whitening and 8 bits turn into an embedding. An example lasts 0.96 s; ten are a clip of AudioSet.

The last layer has no ReLU, and numbers are cut to whole ones, not rounded: as in Google's code of
2023, unlike in older code and in PyTorch ports. Weights are not here: see `read_weights`.
"""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from tagging.base.errors import UserError
from tagging.features.mel import FilteredSpectrum, mel_corners, to_mel, triangles

RATE = 16000  # Hz
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 and 10 ms
BINS, LOW, HIGH = 64, 125.0, 7500.0  # of the mel spectrum; Hz
OFFSET = 0.01  # added before the logarithm
FRAMES = 96  # of an example
SIZE, HIDDEN = 128, 4096  # of an embedding, and of the layers before it
LIMIT = 2.0  # whitened numbers from -2 to 2 become 0 to 255
EXAMPLES_AT_A_TIME = 16
# The numbers of channels of the convolutions, block by block, each followed by a pooling.
BLOCKS = ((64,), (128,), (256, 256), (512, 512))
PCA = {"pca_eigen_vectors": (SIZE, SIZE), "pca_means": (SIZE,)}
TAKES = (
    "it takes a folder with vggish-10086976.pth and vggish_pca_params-970ea276.pth (of "
    "harritaylor/torchvggish), or one file .safetensors with the tensors of both"
)


class LogMel(nn.Module):
    """Waveforms, float32 (batch, samples), to examples (batch, examples, 96, 64).

    What is left at the end is dropped; a waveform too short for one example is continued by zeros.
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
        """Return how many examples so many samples give, 1 or more."""
        return max(1, (1 + (samples - WINDOW) // HOP) // FRAMES)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the examples."""
        number = self.examples(waveform.shape[1])
        needed = (number * FRAMES - 1) * HOP + WINDOW
        lacks = max(0, needed - waveform.shape[1])
        x = self.spectrum(nn.functional.pad(waveform, (0, lacks))[:, :needed])
        return (x + OFFSET).log().unflatten(1, (number, FRAMES))


class Network(nn.Module):
    """Examples, (n, 96, 64), to 128 numbers each, with the names of tensors of the PyTorch port."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = 1
        for block in BLOCKS:
            for channels in block:
                layers += [nn.Conv2d(last, channels, 3, padding=1), nn.ReLU()]
                last = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = last * FRAMES * BINS // 4 ** len(BLOCKS)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
            nn.Linear(HIDDEN, SIZE),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what PCA takes: float32 (n, 128)."""
        maps = self.features(x[:, None])
        return self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))  # channels last, as TensorFlow


class Quantized(nn.Module):
    """What the network gives, (n, 128), to AudioSet's numbers: whole ones, 0 to 255, as float32."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in PCA.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return PCA's components, whitened, clipped and cut to whole numbers."""
        whitened = (x - self.pca_means) @ self.pca_eigen_vectors.T
        return ((whitened.clamp(-LIMIT, LIMIT) + LIMIT) * (255 / (2 * LIMIT))).floor()


class Transform(nn.Module):
    """Waveforms, float32 (batch, samples) at 16 kHz, to embeddings (batch, 1, frames, 128).

    Args:
        path: of the weights, as `read_weights` takes them.

    Raises:
        UserError: if there are none.
    """

    channels, bins, sample_rate = 1, SIZE, RATE

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.log_mel = LogMel()
        with torch.device("meta"):  # 72 million numbers are not to be drawn first
            self.network = Network()
        self.quantized = Quantized()
        tensors = read_weights(path)
        self.quantized.load_state_dict({name: tensors.pop(name) for name in PCA})
        self.network.load_state_dict(tensors, assign=True)
        self.eval()

    def frames(self, samples: int) -> int:
        """Return how many frames (of 0.96 s) so many samples give, 1 or more."""
        return LogMel.examples(samples)

    @torch.inference_mode()
    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the embeddings."""
        examples = self.log_mel(waveform)
        parts = examples.flatten(0, 1).split(EXAMPLES_AT_A_TIME)
        found = torch.cat([self.quantized(self.network(part)) for part in parts])
        return found.unflatten(0, examples.shape[:2])[:, None]


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the network's tensors and PCA's: float32, by the names that they have in the port.

    Nothing is unpickled but tensors and arrays.

    Args:
        path: a folder with the two files of the PyTorch port, or a safetensors file.

    Raises:
        UserError: if a tensor is missing, or of another shape.
    """
    if path.is_dir():
        files = sorted(path.glob("vggish*.pth"))
        if len(files) != 2:
            held = ", ".join(file.name for file in files) or "no vggish*.pth"
            raise UserError(f"{path} holds {held}; {TAKES}")
        found = {name: tensor for file in files for name, tensor in _read(file).items()}
    else:
        found = _read(path)
    with torch.device("meta"):
        shapes = {name: tuple(of.shape) for name, of in Network().state_dict().items()} | PCA
    for name, shape in shapes.items():
        if name not in found or math.prod(found[name].shape) != math.prod(shape):
            had = f"a {name} of {tuple(found[name].shape)}" if name in found else f"no {name}"
            raise UserError(f"{path} has {had}, where VGGish has one of {shape}; {TAKES}")
    return {name: found[name].reshape(shape).float() for name, shape in shapes.items()}


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # PCA's are NumPy arrays, written when NumPy's modules had other names.
        old = "numpy.core.multiarray"
        kinds = [type(np.dtype(kind)) for kind in (np.float32, np.float64)]
        rebuild = np.zeros(0).__reduce__()[0]
        scalar = np.float64(0).__reduce__()[0]
        allowed = [
            np.ndarray, np.dtype, *kinds, rebuild, scalar,
            (rebuild, f"{old}._reconstruct"), (scalar, f"{old}.scalar"),
        ]  # fmt: skip
        with torch.serialization.safe_globals(allowed):
            found = torch.load(path, map_location="cpu", weights_only=True)
        return {name: torch.as_tensor(value) for name, value in found.items()}
    except FileNotFoundError:
        raise UserError(f"{path} is not there; {TAKES}") from None
    except Exception as error:  # of torch.load, any
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read as tensors ({first}); {TAKES}") from None
