import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tagging
from tagging.base.errors import UserError
from tagging.data.spec import InputSpec
from tagging.learning.published_models import fetch_published
from tagging.sources.weights import (
    ALLOW_UNVERIFIED,
    PUBLISHED,
    convert_weights,
    find_published,
)
from tests.published import as_efficientat, as_transformers, built, transformers_ast

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
SMALLEST = "mn01_as"  # its hash is not known, so that any file is read


@pytest.fixture(autouse=True)
def allow_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_UNVERIFIED, f"ast_as, {SMALLEST},musicnn_mtt")


def refusal(name: str, path: Path) -> str:
    with pytest.raises(UserError) as refused:
        convert_weights(name, path)
    sentence = str(refused.value)
    assert "\n" not in sentence and str(path) in sentence
    return sentence


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_are_those_of_our_networks(name: str):
    published = find_published(name)
    with torch.device("meta"):
        state = built(published).state_dict()
    numbers = sum(tensor.numel() for key, tensor in state.items() if "num_batches" not in key)
    # Our network adds the tokens and their positions.
    added = 2 * 768 if published.architecture == "ast" else 0
    assert numbers + added == published.parameters
    assert published.verified or "never downloaded" in published.note


UNVERIFIED = sorted(name for name in PUBLISHED if not PUBLISHED[name].verified)


def test_eight_of_eleven_are_unverified():
    assert (len(UNVERIFIED), len(PUBLISHED)) == (8, 11)
    assert {"mn04_as", "musicnn_mtt", "musicnn_msd"}.isdisjoint(UNVERIFIED)


@pytest.mark.parametrize("allowed", [None, "", "mn04_as", "mn01_as,mn1"])
@pytest.mark.parametrize("name", ["mn10_as", "ast_as"])
def test_unverified_weights_are_refused_unless_named(
    name: str, allowed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOWNLOAD_MIRROR", str(tmp_path / "empty"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if allowed is None:
        monkeypatch.delenv(ALLOW_UNVERIFIED)
    else:
        monkeypatch.setenv(ALLOW_UNVERIFIED, allowed)
    sentence = (
        f"^{name} cannot be checked: the SHA-256 of its file is not known, and it was never run "
        f"here; set {ALLOW_UNVERIFIED}={name} to use it nevertheless$"
    )
    cached = tmp_path / f"cache/tagging/{name}.safetensors"
    cached.parent.mkdir(parents=True)
    cached.touch()
    for use in (
        lambda: convert_weights(name, tmp_path / "file"),
        lambda: fetch_published(name, tmp_path / "weights", "none"),
        lambda: tagging.load(name),
    ):
        with pytest.raises(UserError, match=sentence):
            use()
    monkeypatch.setenv(ALLOW_UNVERIFIED, f"mn04_as, {name}")
    with pytest.raises(UserError, match=r"is not available: .* does not exist"):
        fetch_published(name, tmp_path / "weights", "none")


def test_labels_of_a_set_are_fifty_different_ones():
    for name in ("musicnn_mtt", "musicnn_msd"):
        assert len(find_published(name).labels) == len(set(find_published(name).labels)) == 50


def test_an_unknown_name_is_refused():
    with pytest.raises(
        UserError,
        match=r"published weights must be one of mn01_as, .*, got .mn99_as.$",
    ):
        find_published("mn99_as")


def test_a_file_of_efficientat_s_layout_becomes_the_network_s_state(tmp_path: Path):
    network = built(find_published(SMALLEST)).eval()
    path = tmp_path / "mn01.pt"
    torch.save(as_efficientat(network), path)
    state = convert_weights(SMALLEST, path)
    assert list(state) != [] and all(tensor.is_contiguous() for tensor in state.values())
    other = built(find_published(SMALLEST)).eval()
    other.load_state_dict(state)
    for key, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key


@pytest.fixture
def transformer(monkeypatch: pytest.MonkeyPatch):
    """A small model in transformers' layout, which replaces the published AST."""
    spec = InputSpec(1, 96, 128)
    model = transformers_ast(labels=527, spec=spec)
    entry = find_published("ast_as")
    network = entry.network | {"width": 32, "heads": 4, "layers": 2}
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    entry = entry._replace(network=network, frames=spec.frames, parameters=parameters)
    monkeypatch.setitem(PUBLISHED, "ast_as", entry)
    return model


def test_an_ast_in_transformers_layout_is_fetched_and_tags(
    transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOWNLOAD_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "mirror" / find_published("ast_as").address.removeprefix("https://")
    path.parent.mkdir(parents=True)
    transformer.save_pretrained(path.parent)
    tagger = tagging.load("ast_as")
    waveform = np.random.default_rng(0).standard_normal(15_600).astype(np.float32) / 9  # 96 frames
    prediction = tagger.predict([waveform])
    frames = tagger.model_spec.spec.frames
    assert (tagger.sample_rate, frames, len(tagger.classes)) == (16_000, 96, 527)
    with torch.inference_mode():
        x = tagger.frontend(torch.from_numpy(waveform)[None])
        wanted = transformer(x[:, 0]).logits.sigmoid()
    torch.testing.assert_close(
        torch.from_numpy(prediction.probabilities), wanted, atol=1e-5, rtol=1e-4
    )
    assert tagger.metadata["published"]["licence"] == "BSD-3-Clause"


def test_damaged_safetensors_and_other_names_are_refused(transformer, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    state = as_transformers(transformer.state_dict())
    save_file(state, path)
    whole = path.read_bytes()
    for content in (b"", b"no weights", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert "but is damaged" in refusal("ast_as", path)
    for theirs in ("attention.query", "cls_token"):
        save_file({name.replace(theirs, "other"): tensor for name, tensor in state.items()}, path)
        sentence = refusal("ast_as", path)
        assert "but lacks '" in sentence and theirs in sentence


def test_another_width_s_weights_are_refused(tmp_path: Path):
    path = tmp_path / "mn02.pt"
    torch.save(as_efficientat(built(find_published("mn02_as"))), path)
    sentence = "must have the 126359 parameters of mn01_as, got 329687"
    assert sentence in refusal(SMALLEST, path)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path):
    path, ran = tmp_path / "evil.pt", tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (ran,)

    torch.save({"features.0.0.weight": Evil()}, path)
    assert "are not unpickled" in refusal(SMALLEST, path)
    path.write_bytes(pickle.dumps(Evil()))
    assert "are not unpickled" in refusal(SMALLEST, path)
    assert not ran.exists()
    pickle.loads(path.read_bytes())
    assert ran.exists()  # it would have


@pytest.mark.parametrize("content", [{"a": 1}, [torch.zeros(2)], {1: torch.zeros(2)}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    assert "must have the state_dict of a network" in refusal(SMALLEST, path)


def test_damaged_files_are_refused(tmp_path: Path):
    path = tmp_path / "mn01.pt"
    torch.save(as_efficientat(built(find_published(SMALLEST))), path)
    whole = path.read_bytes()
    for content in (b"", b"no weights", whole[: len(whole) // 2], whole[100:]):
        path.write_bytes(content)
        assert "but is damaged" in refusal(SMALLEST, path)


def test_a_file_of_another_hash_is_not_even_parsed(tmp_path: Path, monkeypatch):
    path = tmp_path / "mn04.pt"
    path.write_bytes(b"other")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    assert "it again from https://github.com/fschmid56/" in refusal("mn04_as", path)


def test_damaged_and_other_hdf5_files_are_refused(tmp_path: Path, monkeypatch):
    entry = find_published("musicnn_mtt")._replace(sha256=None)
    monkeypatch.setitem(PUBLISHED, "musicnn_mtt", entry)
    path = tmp_path / "musicnn.h5"
    path.write_bytes(b"no HDF5")
    assert "must be an HDF5 file of Keras, or is damaged" in refusal("musicnn_mtt", path)
    with h5py.File(path, "w") as file:
        file["model_weights/conv2d/conv2d/kernel_1:0"] = np.zeros((7, 38, 1, 204), np.float32)
        file["optimizer_weights/kernel:0"] = np.zeros(1000, np.float32)
    sentence = f"must have the 792079 parameters of musicnn_mtt, got {7 * 38 * 204}"
    assert sentence in refusal("musicnn_mtt", path)


def test_keras_s_layouts_become_pytorch_s(tmp_path: Path, monkeypatch):
    generator = np.random.default_rng(0)
    wide, thin = generator.random((7, 3, 2, 4)), generator.random((7, 5, 1, 4))
    pooled, dense = np.arange(6), np.arange(12).reshape(6, 2)
    kept = {
        "conv2d_2/conv2d_2/kernel_1:0": wide,  # frames, bins, in, out
        "midend_conv1/midend_conv1/kernel:0": thin,  # frames, channels, 1, out
        "bn_flatpool/bn_flatpool/moving_variance:0": pooled,  # maximum and mean of each channel
        "dense/dense/kernel_12:0": dense,
        "dense/dense/bias_12:0": np.arange(2),
    }
    with h5py.File(tmp_path / "musicnn.h5", "w") as file:
        for name, values in kept.items():
            file[f"model_weights/{name}"] = values
    entry = find_published("musicnn_mtt")._replace(sha256=None)
    entry = entry._replace(parameters=sum(values.size for values in kept.values()))
    monkeypatch.setitem(PUBLISHED, "musicnn_mtt", entry)
    state = convert_weights("musicnn_mtt", tmp_path / "musicnn.h5")
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == {
        "front.2.conv.weight": (4, 2, 7, 3),
        "adapt.conv.weight": (4, 5, 7),
        "penultimate.0.running_var": (6,),
        "penultimate.0.num_batches_tracked": (),
        "penultimate.2.weight": (2, 6),
        "penultimate.2.bias": (2,),
    }
    assert state["front.2.conv.weight"][3, 1, 6, 2] == np.float32(wide[6, 2, 1, 3])
    assert state["adapt.conv.weight"][3, 4, 6] == np.float32(thin[6, 4, 0, 3])
    assert state["penultimate.0.running_var"].tolist() == [0, 2, 4, 1, 3, 5]
    assert state["penultimate.2.weight"].tolist() == [[0, 4, 8, 2, 6, 10], [1, 5, 9, 3, 7, 11]]


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        convert_weights(SMALLEST, tmp_path / "none.pt")


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize("name", [name for name in PUBLISHED if PUBLISHED[name].verified])
def test_published_files_convert_to_safetensors_that_the_network_loads(name: str, tmp_path: Path):
    published = find_published(name)
    path = Path(MIRROR, published.address.removeprefix("https://"))
    assert path.is_file()
    state = convert_weights(name, path)
    save_file(state, tmp_path / "weights.safetensors")
    network = built(published)
    network.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert all(torch.equal(network.state_dict()[key], tensor) for key, tensor in state.items())
    # Variances stand where variances belong.
    assert all(tensor.min() >= 0 for key, tensor in state.items() if key.endswith("running_var"))
