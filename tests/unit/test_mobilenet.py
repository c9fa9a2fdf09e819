import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from tagging.data.spec import InputSpec
from tagging.layers.convolutions import round_channels
from tagging.networks.mobilenet import Network, Settings
from tagging.sources.weights import convert_weights, find_published

MIRROR = os.environ.get("DOWNLOAD_MIRROR")

SPEC = InputSpec(channels=2, frames=70, bins=40)
FRAMES = torch.tensor([70, 1, 33, 64, 2])


def network(spec: InputSpec = SPEC, labels: int = 6, **settings: object) -> Network:
    torch.manual_seed(0)
    return Network(Settings(**{"width": 0.1, "dropout": 0.0, **settings}), spec, labels)


def randomize(network: Network) -> Network:
    """Draw statistics and biases, which are zero or one at the start."""
    generator = torch.Generator().manual_seed(1)
    for name, values in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            values.normal_(std=0.5, generator=generator)
        elif name.endswith("running_var"):
            values.uniform_(0.5, 2, generator=generator)
        elif name.startswith(("hidden", "classify")) or "squeeze" in name or "excite" in name:
            values.normal_(std=0.3, generator=generator)
    return network


def clips(frames: torch.Tensor, length: int) -> torch.Tensor:
    x = torch.randn(len(frames), 2, 70, 40, generator=torch.Generator().manual_seed(2))
    x = torch.cat([x, torch.zeros(len(frames), 2, length - 70, 40)], 2)
    return x * (torch.arange(length) < frames.unsqueeze(1))[:, None, :, None]


@pytest.mark.parametrize(
    ("width", "millions"),
    [(0.4, 0.983599), (0.5, 1.43), (1.0, 4.88), (2.0, 17.91), (3.0, 39.09), (4.0, 68.43)],
)
def test_parameter_counts_match_the_published_widths(width: float, millions: float):
    with torch.device("meta"):
        sized = network(InputSpec(1, 1000, 128), 527, width=width)
    digits = len(str(millions).partition(".")[2])
    assert round(sum(p.numel() for p in sized.parameters()) / 1e6, digits) == millions


def test_channels_round_to_multiples_of_eight():
    assert [round_channels(channels) for channels in (1, 8, 9.6, 12, 25.6, 44.8, 160)] == [
        8, 8, 16, 16, 24, 48, 160,
    ]  # fmt: skip


@pytest.mark.parametrize("length", [70, 71, 100, 130])
def test_padding_has_no_effect_in_evaluation(length: int):
    net = randomize(network()).eval()
    x = clips(FRAMES, length)
    with torch.inference_mode():
        padded, embedded = net(x, FRAMES), net.embed(x, FRAMES)
        for k, frames in enumerate(FRAMES.tolist()):
            alone = x[k : k + 1, :, :frames]
            torch.testing.assert_close(padded[k], net(alone)[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(embedded[k], net.embed(alone)[0], rtol=1e-4, atol=1e-5)
    assert padded.std(0).min() > 1e-3  # outputs differ between clips


def test_padding_has_no_effect_in_training():
    short, long = randomize(network()), randomize(network())
    torch.testing.assert_close(
        short(clips(FRAMES, 70), FRAMES), long(clips(FRAMES, 120), FRAMES), rtol=1e-3, atol=1e-4
    )
    for name, values in short.state_dict().items():
        torch.testing.assert_close(values, long.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_last_layers_classify_the_embedding():
    x = clips(FRAMES, 70)
    for head, hidden in (("mlp", 128), ("linear", 96)):
        net = randomize(network(head=head)).eval()
        with torch.inference_mode():
            embedded = net.embed(x, FRAMES)
            assert embedded.shape == (5, 96)  # six times the 16 channels of the last block
            assert net.classify.in_features == hidden
            assert torch.equal(net(x, FRAMES), net.classify(net.hidden(embedded)))


def test_gradients_reach_every_parameter():
    net = randomize(network())
    net(clips(FRAMES, 70), FRAMES).square().mean().backward()
    assert [name for name, p in net.named_parameters() if not p.grad.abs().sum() > 0] == []


def test_momentum_is_the_share_of_a_batch_in_the_statistics():
    x = clips(FRAMES, 70)
    whole, tenth = network(momentum=1.0), network(momentum=0.1)
    whole(x, FRAMES), tenth(x, FRAMES)
    torch.testing.assert_close(
        tenth.features[0].norm.running_mean, whole.features[0].norm.running_mean / 10
    )


def test_blocks_of_equal_shape_are_residual():
    residual = 0
    for block in network().features[1:-1]:
        projection = block.layers[-1].norm
        torch.nn.init.zeros_(projection.weight)
        if block.residual:
            x = torch.randn(2, projection.num_features, 6, 5)
            assert torch.equal(block(x, None)[0], x)
            residual += 1
    assert residual == 10  # of 15 blocks, four have a stride, one has more channels


def log_mel(waveform: np.ndarray) -> torch.Tensor:
    """Return EfficientAT's features of a waveform at 32 kHz, written out: (1, 1, frames, 128)."""
    x = torch.from_numpy(waveform)
    power = torch.stft(
        x[1:] - 0.97 * x[:-1], 1024, 320, 800, torch.hann_window(800, periodic=False),
        return_complex=True,
    ).abs().square()  # (513, frames)  # fmt: skip
    edges = np.linspace(0, 1127 * np.log1p(15000 / 700), 130)[:, None]
    bins = 1127 * np.log1p(np.arange(512) * 31.25 / 700)
    rising = (bins - edges[:-2]) / np.diff(edges, axis=0)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges, axis=0)[1:]
    filters = torch.from_numpy(np.minimum(rising, falling).clip(0)).float()  # (128, 512)
    return (((filters @ power[:512] + 1e-5).log() + 4.5) / 5).T[None, None]


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
def test_published_weights_reproduce_published_logits():
    expected = json.loads(Path(MIRROR, "../pretrained/expected.json").read_text())["mn04_as"]
    published = find_published("mn04_as")
    net = Network(Settings(**published.network), InputSpec(1, 500, 128), 527).eval()
    net.load_state_dict(convert_weights("mn04_as", Path(MIRROR, published.address.split("//")[1])))
    (archive,) = Path(MIRROR, "github.com/karoldvl/ESC-10/archive").glob("*.zip")
    with zipfile.ZipFile(archive) as clips, torch.inference_mode():
        for name, prediction in expected.items():
            (member,) = [member for member in clips.namelist() if member.endswith(name)]
            waveform, rate = soundfile.read(io.BytesIO(clips.read(member)), dtype="float32")
            logits = net(log_mel(soxr.resample(waveform, rate, 32000, "HQ")))[0]
            expected_logits = torch.tensor(prediction["logits"])
            torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-3)
