import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch.nn import functional

from tagging.base.errors import UserError
from tagging.data.parameters import parse
from tagging.data.spec import InputSpec
from tagging.networks.musicnn import FrontendConv, Network, Settings
from tagging.sources.weights import convert_weights, find_published

MIRROR = os.environ.get("DOWNLOAD_MIRROR")

SMALL = {"filters": 2, "middle": 4, "hidden": 6, "dropout": 0.0}
LONG = {**SMALL, "timbral": 7, "temporal": [32, 16, 8], "middle_frames": 7, "eps": 1e-3}
FRAMES = torch.tensor([20, 1, 7])


def network(spec: InputSpec, labels: int = 5, **settings: object) -> Network:
    torch.manual_seed(0)
    net = Network(Settings(**settings), spec, labels)
    generator = torch.Generator().manual_seed(1)
    for name, values in net.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            values.normal_(std=0.5, generator=generator)
    return net


def clips(channels: int, length: int, bins: int) -> torch.Tensor:
    x = torch.rand(3, channels, 20, bins, generator=torch.Generator().manual_seed(2))
    x = functional.pad(x, (0, 0, 0, length - 20))
    return x * (torch.arange(length) < FRAMES.unsqueeze(1))[:, None, :, None]


@pytest.mark.parametrize("settings", [SMALL, LONG, {**LONG, "normalize": "channels"}])
@pytest.mark.parametrize("length", [20, 45])
def test_padding_has_no_effect_in_evaluation(settings: dict, length: int):
    net = network(InputSpec(2, 20, 16), **settings).eval()
    x = clips(2, length, 16)
    with torch.inference_mode():
        padded = net(x, FRAMES)
        for k, frames in enumerate(FRAMES.tolist()):
            alone = net(x[k : k + 1, :, :frames])[0]
            torch.testing.assert_close(padded[k], alone, rtol=1e-4, atol=1e-5)
    assert padded.std(0).min() > 1e-3  # outputs differ between clips


LONGER_THAN_THE_CLIP = """
import torch
from tagging.networks.musicnn import FrontendConv
torch.manual_seed(0)
conv = FrontendConv(1, 6, (25, 1), 1e-5)
x, weights = torch.randn(4, 1, 10, 64), torch.randn(4, 6, 10)
gradients = []
for dtype in [torch.float32] * 20 + [torch.float64]:
    conv.zero_grad()
    (conv.to(dtype)(x.to(dtype), None) * weights).sum().backward()
    gradients.append(conv.conv.weight.grad.double())
torch.testing.assert_close(*gradients[-2:], rtol=1e-3, atol=1e-3)
"""


def test_kernels_longer_than_the_clip_can_be_trained():
    # In its own process, which the bug of PyTorch would end without a message.
    subprocess.run([sys.executable, "-c", LONGER_THAN_THE_CLIP], check=True)


def test_timbral_kernels_have_the_published_heights():
    for bins, heights in ((96, [38, 67]), (128, [51, 89]), (2, [1, 1])):
        net = network(InputSpec(1, 10, bins), **SMALL)
        assert [conv.conv.kernel_size for conv in net.front] == [
            (3, heights[0]), (3, heights[1]), (9, 1), (5, 1), (3, 1),
        ]  # fmt: skip
    net = network(InputSpec(1, 187, 96), **LONG, heights=[1.0, 0.5, 0.25])
    assert [conv.conv.kernel_size for conv in net.front] == [
        (7, 96), (7, 48), (7, 24), (32, 1), (16, 1), (8, 1),
    ]  # fmt: skip
    assert net(torch.rand(2, 1, 187, 96)).shape == (2, 5)


@pytest.mark.parametrize("kernel", [1, 3, 4, 8])
def test_kernels_are_centred_or_see_one_frame_less_before(kernel: int):
    conv = FrontendConv(1, 1, (kernel, 1), eps=1e-5).eval()
    torch.nn.init.ones_(conv.conv.weight)
    torch.nn.init.zeros_(conv.conv.bias)
    x = torch.zeros(1, 1, 21, 1)
    x[0, 0, 10] = 1
    seen = conv(x, None)[0, 0].nonzero().flatten().tolist()
    before, after = (kernel - 1) // 2, kernel // 2
    assert seen == list(range(10 - after, 10 + before + 1))


def test_input_is_normalized_by_bin_or_by_channel():
    x = torch.rand(4, 2, 10, 16) * torch.arange(1, 17)
    by_bin = network(InputSpec(2, 10, 16), **SMALL)
    by_channel = network(InputSpec(2, 10, 16), **SMALL, normalize="channels")
    for net in (by_bin, by_channel):
        net.norm.reset_running_stats()
        net(x)
    torch.testing.assert_close(by_bin.norm.running_mean, 0.1 * x.mean((0, 2)).flatten())
    torch.testing.assert_close(by_channel.norm.running_mean, 0.1 * x.mean((0, 2, 3)))


def test_classifier_reads_the_embedding():
    net = network(InputSpec(2, 20, 16), **SMALL).eval()
    x = clips(2, 20, 16)
    with torch.inference_mode():
        embedded = net.embed(x, FRAMES)
        assert embedded.shape == (3, 6)
        assert torch.equal(net(x, FRAMES), net.classify(embedded))


@pytest.mark.parametrize("name", ["timbral", "middle_frames"])
def test_even_kernels_are_refused(name: str):
    with pytest.raises(UserError, match=rf"network\.{name} must be an odd number, got 4"):
        parse(Settings, SMALL | {name: 4}, "network")


def log_mel(waveform: np.ndarray) -> torch.Tensor:
    """Return musicnn's features of a waveform at 16 kHz, written out: (frames, 96)."""
    power = torch.stft(
        torch.from_numpy(waveform), 512, 256, 512, torch.hann_window(512), pad_mode="constant",
        return_complex=True,
    ).abs().square()  # (257, frames)  # fmt: skip
    # Slaney's mel scale: 15 of 66.7 Hz each up to 1 kHz, then 27 for every factor of 6.4.
    mel = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 98)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))[:, None]
    bins = np.arange(257) * 31.25
    rising = (bins - edges[:-2]) / np.diff(edges, axis=0)[:-1]
    falling = (edges[2:] - bins) / np.diff(edges, axis=0)[1:]
    filters = np.minimum(rising, falling).clip(0) * 2 / (edges[2:] - edges[:-2])  # (96, 257)
    return (10000 * (torch.from_numpy(filters).float() @ power).half().float() + 1).log10().T


def recordings(names: list[str]) -> dict[str, np.ndarray]:
    """Return clips of ESC-10 and notes of NSynth at 16 kHz."""
    files = {}
    (archive,) = Path(MIRROR, "github.com/karoldvl/ESC-10/archive").glob("*.zip")
    with zipfile.ZipFile(archive) as clips:
        for member in clips.namelist():
            files[member.partition("/")[2]] = clips.read(member)
    (archive,) = Path(MIRROR, "download.magenta.tensorflow.org/datasets/nsynth").glob("*.tar.gz")
    with tarfile.open(archive) as notes:
        for member in notes:
            if (name := f"nsynth {Path(member.name).stem}") in names:
                files[name] = notes.extractfile(member).read()
    waveforms = {}
    for name in names:
        waveform, rate = soundfile.read(io.BytesIO(files[name]), dtype="float32")
        waveforms[name] = soxr.resample(waveform, rate, 16000, "HQ")
    return waveforms


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
def test_published_weights_reproduce_published_probabilities():
    expected = json.loads(Path(MIRROR, "../pretrained/expected.json").read_text())
    sounds = recordings(list(expected["MTT_musicnn"]))
    for ours, theirs in (("musicnn_mtt", "MTT_musicnn"), ("musicnn_msd", "MSD_musicnn")):
        published = find_published(ours)
        net = Network(Settings(**published.network), InputSpec(1, 187, 96), 50).eval()
        net.load_state_dict(convert_weights(ours, Path(MIRROR, published.address.split("//")[1])))
        for name, prediction in expected[theirs].items():
            frames = log_mel(sounds[name])
            windows = frames[: len(frames) // 187 * 187].reshape(-1, 1, 187, 96)
            assert len(windows) == prediction["windows"]
            with torch.inference_mode():
                mean = net(windows).sigmoid().mean(0)
            torch.testing.assert_close(
                mean, torch.tensor(prediction["mean_probabilities"]), rtol=0, atol=1e-3
            )
