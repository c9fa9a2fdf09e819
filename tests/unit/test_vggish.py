"""VGGish against Google's published code: the frontend, the layers, PCA and quantization."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch.nn import functional

import tagging
from tagging.base.errors import UserError
from tagging.commands import check_vggish
from tagging.commands.main import run
from tagging.features import vggish
from tests.commands import run_tag
from tests.small_models import sound_model, yac_model

RATE = 16000


def log_mel_examples(x: np.ndarray) -> np.ndarray:
    """Return examples, (n, 96, 64), of a waveform at 16 kHz, by the algorithm of mel_features.py.

    Each frame of 25 ms, 10 ms apart, is multiplied by a Hann window whose period is its length; the
    magnitudes of its FFT of 512 are weighted by triangles that are straight on HTK's mel scale, of
    peak 1, without the lowest frequency; then log(m + 0.01). 96 frames that do not overlap are an
    example; what is left is dropped.
    """
    size, hop = round(0.025 * RATE), round(0.010 * RATE)
    frames = np.stack([x[i : i + size] for i in range(0, len(x) - size + 1, hop)])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / size * np.arange(size))
    magnitudes = np.abs(np.fft.rfft(frames * hann, 512))

    def mel(hertz: np.ndarray | float) -> np.ndarray | float:
        return 1127.0 * np.log(1.0 + hertz / 700.0)

    edges = np.linspace(mel(125.0), mel(7500.0), 64 + 2)
    places = mel(np.linspace(0, RATE / 2, 257))
    weights = np.empty((257, 64))
    for band in range(64):
        lower, centre, upper = edges[band : band + 3]
        rising, falling = (places - lower) / (centre - lower), (upper - places) / (upper - centre)
        weights[:, band] = np.maximum(0, np.minimum(rising, falling))
    weights[0] = 0
    logs = np.log(magnitudes @ weights + 0.01)
    return logs[: len(logs) // 96 * 96].reshape(-1, 96, 64)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * 440 * np.arange(samples) / RATE)
    return (0.3 * tone + 0.1 * rng.normal(size=samples)).astype(np.float32)


# One more sample than 96 frames take, one less than 192, ten seconds.
@pytest.mark.parametrize("samples", [15_601, 30_959, 160_000])
@pytest.mark.parametrize("loudness", [1.0, 1e-3, 0.0])
def test_the_front_end_is_google_s(samples: int, loudness: float) -> None:
    x = loudness * noise(samples)
    expected = log_mel_examples(x.astype(np.float64))
    (output,) = vggish.LogMel()(torch.from_numpy(x)[None]).numpy()
    assert output.shape == expected.shape == (vggish.LogMel.examples(samples), 96, 64)
    np.testing.assert_allclose(output, expected, atol=2e-5)


def test_a_short_waveform_is_padded_with_zeros() -> None:
    x = noise(5000)
    (output,) = vggish.LogMel()(torch.from_numpy(x)[None]).numpy()
    expected = log_mel_examples(np.pad(x.astype(np.float64), (0, 15_600 - 5000)))
    np.testing.assert_allclose(output, expected, atol=2e-5)


def test_the_network_has_the_sizes_and_names_of_the_published_one() -> None:
    with torch.device("meta"):
        tensors = vggish.Network().state_dict()
    layers = {
        0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512),
    }  # fmt: skip
    expected = {f"features.{k}.weight": (*channels, 3, 3) for k, channels in layers.items()}
    expected |= {f"embeddings.{k}.weight": shape for k, shape in
               {0: (4096, 12288), 2: (4096, 4096), 4: (128, 4096)}.items()}  # fmt: skip
    expected |= {
        f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in expected.items()
    }
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert sum(tensor.numel() for tensor in tensors.values()) == 72_141_184


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Random tensors of a small VGGish."""
    monkeypatch.setattr(vggish, "BLOCKS", ((4,), (5,), (6, 6), (7, 7)))
    monkeypatch.setattr(vggish, "HIDDEN", 16)
    torch.manual_seed(0)
    tensors = vggish.Network().state_dict()
    tensors["pca_eigen_vectors"] = torch.randn(128, 128)
    tensors["pca_means"] = torch.randn(128) / 10
    return tensors


def ported(tensors: dict[str, torch.Tensor], folder: Path, numpy: bool = False) -> Path:
    """Write tensors in the layout of the PyTorch port: PCA in its own file, means as a column."""
    folder.mkdir()
    network = {name: tensor for name, tensor in tensors.items() if not name.startswith("pca")}
    pca = {name: tensor for name, tensor in tensors.items() if name.startswith("pca")}
    pca["pca_means"] = pca["pca_means"][:, None]
    if numpy:
        pca = {name: tensor.double().numpy() for name, tensor in pca.items()}
    file = folder / "vggish_pca_params-970ea276.pth"
    torch.save(pca, file, _use_new_zipfile_serialization=not numpy)
    # NumPy's modules had other names when the port's files were written.
    file.write_bytes(file.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    torch.save(network, folder / "vggish-10086976.pth")
    return folder


def embeddings(tensors: dict[str, torch.Tensor], x: np.ndarray) -> np.ndarray:
    """Return the embeddings of Google's code, computed step by step: uint8 (frames, 128)."""
    maps = torch.from_numpy(log_mel_examples(x.astype(np.float64))).float()[:, None]
    for number, pooled in ((0, True), (3, True), (6, False), (8, True), (11, False), (13, True)):
        kernel, bias = (tensors[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
        maps = functional.conv2d(maps, kernel, bias, padding="same").relu()
        maps = functional.max_pool2d(maps, 2, 2) if pooled else maps
    flat = np.moveaxis(maps.numpy(), 1, 3).reshape(len(maps), -1)
    for number in (0, 2, 4):
        kernel, bias = (tensors[f"embeddings.{number}.{kind}"].numpy() for kind in ("weight", "bias"))  # fmt: skip  # noqa: E501
        flat = flat @ kernel.T + bias
        flat = np.maximum(flat, 0) if number < 4 else flat
    matrix, means = (tensors[name].double().numpy() for name in ("pca_eigen_vectors", "pca_means"))
    components = np.clip((matrix @ (flat.T - means[:, None])).T, -2, 2)
    return ((components + 2) * (255 / 4)).astype(np.uint8)


@pytest.mark.parametrize("layout", ["tensors", "arrays", "safetensors"])
def test_waveforms_become_google_s_numbers(weights, layout: str, tmp_path: Path) -> None:
    path = tmp_path / "vggish.safetensors"
    if layout == "safetensors":
        save_file(weights, path)
    else:
        path = ported(weights, tmp_path / "weights", numpy=layout == "arrays")
    transform = vggish.Transform(path)
    x = np.stack([noise(160_000), noise(160_000, 1)])
    output = transform(torch.from_numpy(x)).numpy()
    assert output.shape == (2, 1, 10, 128)
    expected = np.stack([embeddings(weights, one) for one in x])[:, None]
    # A value at the border of two integers may be truncated to either.
    assert (output != expected).mean() < 1e-3 and np.abs(output - expected).max() <= 1
    assert expected.std() > 20


@pytest.mark.parametrize("change", ["missing", "other", "no files", "no folder", "code"])
def test_files_that_are_not_vggish_are_refused(weights, change: str, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    said = {
        "missing": r"embeddings.4.bias must have the shape \(128,\), got no such tensor",
        "other": r"features.0.weight must have the shape .*, got \(4, 1, 5, 5\)",
        "no files": r"has no vggish\*.pth; it must be a folder with vggish-10086976.pth",
        "no folder": "does not exist; it must be",
        "code": "cannot be read as tensors",
    }[change]
    if change == "missing":
        del weights["embeddings.4.bias"]
    if change == "other":
        weights["features.0.weight"] = torch.zeros(4, 1, 5, 5)
    if change == "no files":
        path.mkdir()
    elif change == "code":
        torch.save({"pca_means": Path}, ported(weights, path) / "vggish_pca_params-970ea276.pth")
    elif change != "no folder":
        ported(weights, path)
    with pytest.raises(UserError, match=said) as refused:
        vggish.Transform(path)
    assert "\n" not in str(refused.value)


def test_a_model_of_embeddings_hears_recordings(
    weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    model, path = yac_model(Path("records.safetensors")), ported(weights, Path("weights"))
    x = noise(25 * RATE)
    soundfile.write("x.wav", x, RATE, subtype="FLOAT")
    given = ["x.wav", "--model", str(model), "--vggish", str(path), "--top", "all"]
    status, (entry,), _ = run_tag(capsys, *given)
    assert status == 0
    assert [window["start"] for window in entry["windows"]] == [0, 10, 15]
    tagger = tagging.load(str(model))
    parts = [x[at * RATE : (at + 10) * RATE] for at in (0, 10, 15)]
    for part, window in zip(parts, entry["windows"], strict=True):
        expected = tagger(vggish.Transform(path)(torch.from_numpy(part)[None])[0, 0].numpy())
        # Batches of several windows are rounded otherwise.
        for label, alone in zip(window["labels"], expected["labels"], strict=True):
            assert label["label"] == alone["label"]
            assert label["probability"] == pytest.approx(alone["probability"], abs=2e-6)
    hearing = tagging.load(str(model), vggish=path)
    assert hearing(x, RATE)["labels"] == entry["labels"]
    # Beside recordings it still takes records; and sound takes no VGGish.
    assert run_tag(capsys, "x.wav", "--vggish", str(path))[1][0]["model"] == "yac_distilled"
    sound = sound_model(Path("ears.safetensors"))
    with pytest.raises(
        UserError, match="--vggish must come with a model of AudioSet's embeddings, got ears"
    ):
        run(["tag", "x.wav", "--model", str(sound), "--vggish", str(path)])


def test_embeddings_of_wrong_weights_are_refused(weights, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = yac_model(Path("records.safetensors"))
    weights["pca_eigen_vectors"] /= 100
    ported(weights, Path("weights"))
    soundfile.write("x.wav", noise(RATE), RATE, subtype="FLOAT")
    status, output, said = run_tag(capsys, "x.wav", "--model", str(model), "--vggish", "weights")
    assert (status, output) == (1, [])
    assert said.startswith("error: weights: embeddings by these weights cannot be AudioSet's (")
    assert (
        said.endswith("; check the weights with tagging check-vggish weights\n")
        and said.count("\n") == 1
    )


def test_the_self_check_prints_each_step_and_compares_with_google_s(
    weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path = ported(weights, tmp_path / "weights")
    assert run(["check-vggish", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "step", "log-mel", *["block"] * 4, "embedding", "quantized",
    ]  # fmt: skip
    assert lines[-2].endswith("0.000657, 0.343: different")
    output = check_vggish.layer_outputs(vggish.Transform(path))
    sine = np.sin(2 * np.pi * 1000 * np.arange(3 * RATE) / RATE)
    np.testing.assert_allclose(output["log-mel"], log_mel_examples(sine), atol=1e-3)
    for name in check_vggish.EXPECTED:
        values = output[name].numpy()
        monkeypatch.setitem(check_vggish.EXPECTED, name, (values.mean(), values.std()))
    assert run(["check-vggish", str(path)]) == 0
