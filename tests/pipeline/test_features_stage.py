"""`features` and `weights`: features of all clips, embeddings of published networks, and probes."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
import yaml

from stages import features as stage
from tagging import features
from tagging.base.errors import UserError
from tagging.data.classes import Class
from tagging.data.clips import Features, Fold, Index, read_features, write_features, write_index
from tagging.data.parameters import Params
from tagging.data.spec import InputSpec
from tagging.data.task_folder import TaskFolder
from tagging.features import log_mel
from tagging.features.waveform_augmentation import time_stretch
from tagging.learning import embedding
from tagging.learning import published_models as published
from tagging.learning.dataset import ClipDataset
from tagging.learning.factory import build_network
from tagging.learning.model import Model, ModelSpec
from tagging.learning.model_file import load_network, save_network
from tagging.networks import identity, linear
from tagging.sources.weights import ALLOW_UNVERIFIED, PUBLISHED
from tests import small_models
from tests.archives import assert_one_sentence, run_stage

RATE = 16000
MEL = {key: small_models.MEL[key] for key in ("sample_rate", "window", "hop", "bins")}
LENGTHS = [4000, 16000, 9001, 16000, 12345] * 4
CLASSES = ["chord", "clicks", "sweep"]
FOLDER = TaskFolder(Path())


def params(**changed: Any) -> dict[str, Any]:
    return {
        "features": {"mel": {"transform": "log_mel", "settings": MEL}},
        "embeddings": {"embedded": {"weights": "net", "output": "embedding"}},
        "runtime": {"device": "cpu", "progress": "none"},
    } | changed


def write_waveforms() -> list[np.ndarray]:
    """Write clips of noise of several lengths, louder from one to the next; return them."""
    rng = np.random.default_rng(1)
    clips = [
        (rng.standard_normal(length) * 300 * (1 + place)).clip(-32768, 32767).astype(np.int16)
        for place, length in enumerate(LENGTHS)
    ]
    spec = InputSpec(1, max(LENGTHS), 1, scale=2**-15)
    about = {"name": "waveform", "sample_rate": RATE}
    feature = FOLDER.feature("waveform")
    with write_features(feature, len(clips), np.int16, spec, about) as (values, frames):
        for place, clip in enumerate(clips):
            values[place, 0, : len(clip), 0] = clip
            frames[place] = len(clip)
    return clips


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params()))
    return tmp_path


@pytest.fixture
def clips(folder: Path) -> list[np.ndarray]:
    return write_waveforms()


def write_classes(folder: Path) -> None:
    labels = np.eye(len(CLASSES), dtype=np.uint8)
    none = np.zeros(0, np.int64)
    fold = Fold(np.arange(2), none, np.arange(2, 3))
    index = Index(np.array([b"a", b"b", b"c"]), labels, [Class(n, n) for n in CLASSES], [fold])
    write_index(index, folder / "data/clips.safetensors")


def compute(name: str) -> Features:
    """Run the stage for a feature; return what it wrote."""
    stage.main(".", name)
    return read_features(FOLDER.feature(name))


def load_extractor(name: str) -> stage.Extractor:
    return stage.load_extractor(name, Params.read(FOLDER.params), FOLDER)


def content(name: str) -> dict[str, bytes]:
    files = FOLDER.feature(name).iterdir()
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def change(folder: Path, **changed: Any) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params(**changed)))


def mel_features(clip: np.ndarray) -> torch.Tensor:
    transform = log_mel.Transform(log_mel.Settings(**MEL))
    waveform = soxr.resample(clip.astype(np.float32) / 32768, RATE, MEL["sample_rate"])
    return transform(torch.from_numpy(waveform)[None])[0]


def test_each_clip_is_computed_at_its_own_length(clips: list[np.ndarray]) -> None:
    computed = compute("mel")
    most = max(computed.frames)
    assert computed.values.shape == (20, 1, most, 16)
    assert computed.spec == InputSpec(1, most, 16, any_length=True)
    assert computed.settings == {"name": "log_mel", **MEL}
    for place, clip in enumerate(clips):
        expected = mel_features(clip)
        assert computed.frames[place] == expected.shape[1]
        np.testing.assert_allclose(
            computed.values[place, :, : expected.shape[1]], expected, rtol=0, atol=1e-4
        )
        assert not computed.values[place, :, expected.shape[1] :].any()


def test_values_are_multiplied_by_their_clips_scales(clips: list[np.ndarray]) -> None:
    compute("mel")
    plain = content("mel")
    waveforms = read_features(FOLDER.feature("waveform"))
    scales = np.float32(2.0) ** -np.arange(1, 1 + len(clips))
    with write_features(
        FOLDER.feature("waveform"),
        len(clips),
        np.float32,
        waveforms.spec._replace(scale=1.0),
        waveforms.settings,
        scales,
    ) as (values, frames):
        values[:] = waveforms.values / 32768 / scales[:, None, None, None]
        frames[:] = waveforms.frames
    compute("mel")
    assert content("mel") == plain
    # A network can also be trained on the waveforms themselves.
    scaled = read_features(FOLDER.feature("waveform"))
    labels, places = np.zeros((len(clips), 2), np.uint8), np.array([3, 1, 17])
    dataset = ClipDataset.select(scaled, labels, places, torch.device("cpu"))
    batch = dataset.read(np.array([2, 0]))
    for x, place in zip(batch.x, (17, 3), strict=True):
        assert np.array_equal(x[0, : len(clips[place]), 0], clips[place] / np.float32(32768))


def test_padded_clips_end_in_silence_and_have_one_length(
    folder: Path, clips: list[np.ndarray]
) -> None:
    change(folder, features={"mel": {"transform": "log_mel", "settings": MEL, "pad_to_clip": True}})
    computed = compute("mel")
    assert set(computed.frames) == {computed.spec.frames}
    assert not computed.spec.any_length
    expected = mel_features(np.pad(clips[0], (0, max(LENGTHS) - LENGTHS[0])))
    np.testing.assert_allclose(computed.values[0], expected, rtol=0, atol=1e-4)
    # A network's file has the settings of the transform alone.
    assert computed.settings == {"name": "log_mel", **MEL}


def test_augmented_copies_are_features_beside_the_unchanged_clips(
    folder: Path, clips: list[np.ndarray]
) -> None:
    compute("mel")
    plain = content("mel")
    copying = {
        "copies": 2, "prob": 1, "noise_snr_db": [0, 10], "stretch_rates": [0.8, 1.25],
        "max_shift_seconds": 0.1,
    }  # fmt: skip
    entry = {"transform": "log_mel", "settings": MEL}
    change(folder, features={"mel": entry | {"augmented_copies": [copying]}})
    compute("mel")
    assert content("mel") == plain
    copies = [content(f"mel/augmented{number}") for number in (1, 2)]
    assert plain["values.npy"] not in [copies[0]["values.npy"], copies[1]["values.npy"]]
    assert copies[0]["values.npy"] != copies[1]["values.npy"]
    for copy in copies:  # lengths, and the input of networks
        assert copy["frames.npy"] == plain["frames.npy"]
        assert copy["spec.json"] == plain["spec.json"]
    compute("mel")
    assert [content(f"mel/augmented{number}") for number in (1, 2)] == copies
    change(folder, features={"mel": entry | {"augmented_copies": [copying | {"prob": 0}]}})
    compute("mel")
    assert content("mel/augmented1") == plain


def test_copies_have_one_change_each_where_items_have_one(
    folder: Path, clips: list[np.ndarray]
) -> None:
    changes = [
        {"noise_snr_db": [10, 10]}, {"max_shift_seconds": 0.1}, {"stretch_rates": [0.8]},
        {"stretch_rates": [1.25]},
    ]  # fmt: skip
    items = [{"prob": 1, **change_} for change_ in changes]
    entry = {"transform": "log_mel", "settings": MEL, "augmented_copies": items}
    change(folder, features={"mel": entry})
    compute("mel")
    assert len(list(folder.glob("data/features/mel/augmented*"))) == 4
    for number, rate in ((3, 0.8), (4, 1.25)):
        computed = read_features(folder / f"data/features/mel/augmented{number}")
        for place, clip in enumerate(clips):
            stretched = 32768 * time_stretch(clip.astype(np.float32) / 32768, rate)[: len(clip)]
            expected = mel_features(np.pad(stretched, (0, len(clip) - len(stretched))))
            values = computed.values[place, :, : expected.shape[1]]
            np.testing.assert_allclose(values, expected, rtol=0, atol=0.01)


def test_one_thread_and_three_write_the_same_bytes(clips, monkeypatch) -> None:
    written = []
    for threads in ("1", "3"):
        monkeypatch.setenv("TAGGING_WORKERS", threads)
        compute("mel")
        written.append(Path("data/features/mel/values.npy").read_bytes())
    assert written[0] == written[1]


def test_an_embedding_is_the_network_s_of_each_clip(folder: Path, clips: list[np.ndarray]) -> None:
    path = folder / "data/weights/net.safetensors"
    small_models.write_net(path, CLASSES)
    computed = compute("embedded")
    network = load_network(path, torch.device("cpu")).network
    assert computed.values.shape == (20, 1, 1, network.classify.in_features)
    assert not computed.spec.any_length
    with torch.inference_mode():
        for place in (0, 1, 4):
            expected = network.embed(mel_features(clips[place])[None])[0]
            np.testing.assert_allclose(computed.values[place, 0, 0], expected, rtol=1e-3, atol=1e-4)
    assert computed.settings["weights"] == "net"


def test_probabilities_are_of_the_classes_that_ours_are_mapped_to(
    folder: Path, clips: list[np.ndarray]
) -> None:
    write_classes(folder)
    path = folder / "data/weights/net.safetensors"
    small_models.write_net(path, ["rest", "Glissando", "Click", "Harmony"])
    mapping = {"sweep": "Glissando", "chord": "Harmony", "clicks": "Click"}
    entry = {"weights": "net", "output": "probabilities"}
    change(folder, embeddings={"some": entry | {"classes": mapping}, "all": entry})
    some_classes, all_classes = compute("some").values, compute("all").values
    assert all_classes.shape == (20, 1, 1, 4)
    np.testing.assert_array_equal(some_classes, all_classes[..., [3, 2, 1]])
    with torch.inference_mode():
        expected = load_network(path, torch.device("cpu")).network(mel_features(clips[3])[None])[0]
    np.testing.assert_allclose(all_classes[3, 0, 0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"chord": "A", "clicks": "A"}, "'sweep' is missing"),
        ({"chord": "A", "clicks": "A", "sweep": "A", "tone": "A"}, "'tone' is not one of them"),
        ({"chord": "A", "clicks": "A", "sweep": "B"}, "has no class 'B'"),
    ],
)
def test_a_mapping_has_the_classes_of_the_task_and_no_other(
    folder: Path, clips, mapping: dict[str, str], sentence: str
) -> None:
    write_classes(folder)
    small_models.write_net(folder / "data/weights/net.safetensors", ["A"])
    entry = {"weights": "net", "output": "probabilities", "classes": mapping}
    change(folder, embeddings={"mapped": entry})
    with pytest.raises(UserError, match=sentence):
        load_extractor("mapped")


def test_wrong_features_are_refused_by_name(folder: Path, clips) -> None:
    for wrong, sentence in (
        ({"features": {}}, "features.mel is missing.*embedded"),
        ({"features": {"mel": {"transform": "cepstrum"}}}, "log_mel.*'cepstrum'"),
        ({"features": {"mel": {"transform": "decoding"}}}, "log_mel.*'decoding'"),
        (
            {"features": {"mel": {"transform": "log_mel", "settings": MEL | {"bins": 0}}}},
            "features.mel.settings.bins must be .*, got 0",
        ),
    ):
        change(folder, **wrong)
        with pytest.raises(UserError, match=sentence):
            load_extractor("mel")
    change(folder)
    with pytest.raises(UserError, match=r"net\.safetensors is missing"):
        load_extractor("embedded")


def test_an_architecture_other_than_that_of_the_weights_is_refused(folder: Path, clips) -> None:
    small_models.write_net(folder / "data/weights/net.safetensors", CLASSES)
    entry = {"weights": "net", "output": "embedding", "architecture": "cnn"}
    change(folder, embeddings={"embedded": entry})
    assert load_extractor("embedded").transform.architecture == "cnn"
    change(folder, embeddings={"embedded": entry | {"architecture": "mobilenet"}})
    sentence = r"embedded.architecture must be cnn, .*, got 'mobilenet'$"
    with pytest.raises(UserError, match=sentence):
        load_extractor("embedded")


def test_a_network_whose_input_is_not_sound_has_no_embedding_of_clips(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    model = Model(architecture="cnn", network=small_models.NET)
    spec = InputSpec(1, 10, 128)
    network = build_network(model, spec, 1, "net")
    model_spec = ModelSpec(spec, [Class("a", "a")], "sigmoid", {"name": "vggish"})
    save_network(path, network.state_dict(), model, model_spec)
    with pytest.raises(UserError, match="must be a network of sound, but its input is vggish"):
        embedding.Transform(path, "embedding")


def test_a_missing_import_of_a_feature_s_file_is_not_an_unknown_feature(
    tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "hum.py").write_text("import no_such_package")
    monkeypatch.setattr(embedding, "FEATURES", tmp_path)
    monkeypatch.setattr(features, "__path__", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        embedding.build_transform("hum", {}, "features.hum")
    with pytest.raises(UserError, match=r"features\.buzz\.transform must be .*, got 'buzz'"):
        embedding.build_transform("buzz", {}, "features.buzz")


@pytest.mark.parametrize("name", ["base", "vggish"])
def test_a_file_of_features_without_settings_is_no_transform(name: str) -> None:
    with pytest.raises(UserError, match=rf"features\.x\.transform must be .*, got '{name}'"):
        embedding.build_transform(name, {}, "features.x")


def test_the_stage_is_a_command_and_names_what_is_missing(folder: Path, clips) -> None:
    done = run_stage(folder, "features", "mel")
    assert done.returncode == 0, done.stderr
    assert read_features(FOLDER.feature("mel")).spec.bins == 16
    assert_one_sentence(run_stage(folder, "features", "nothing"), "features.nothing is missing")


def test_an_unknown_name_of_weights_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"must be one of mn01_as, .*, got 'mn99_as'"):
        published.fetch_published("mn99_as", folder, "none")


@pytest.mark.parametrize("own", [False, True])
def test_refused_weights_are_removed_and_their_hash_is_printed(
    tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture, own: bool
) -> None:
    """mn01_as has no pinned hash: any file is fetched, and is checked for its tensors."""
    monkeypatch.setenv(ALLOW_UNVERIFIED, "mn01_as")
    monkeypatch.setenv("DOWNLOAD_MIRROR", str(tmp_path / "mirror"))
    file = tmp_path / "mirror" / PUBLISHED["mn01_as"].address.removeprefix("https://")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"junk")
    sha256 = hashlib.sha256(b"junk").hexdigest()
    if own:
        file.with_name(f"{file.name}.sha256").write_text(sha256)
    with pytest.raises(UserError, match="is damaged"):
        published.fetch_published("mn01_as", tmp_path / "weights", "none")
    assert list((tmp_path / "weights").iterdir()) == []
    whose = "the mirror's own; none is pinned" if own else "not pinned"
    assert capfd.readouterr().err == f"{file.name}: {file}: SHA-256 {sha256}, {whose}\n"


@pytest.mark.skipif("DOWNLOAD_MIRROR" not in os.environ, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize(
    ("name", "classes", "frames"), [("mn04_as", 527, 1000), ("musicnn_mtt", 50, 187)]
)
def test_published_weights_become_a_network(
    folder: Path, clips, name: str, classes: int, frames: int
) -> None:
    done: subprocess.CompletedProcess = run_stage(folder, "weights", name)
    assert done.returncode == 0, done.stderr
    path = folder / f"data/weights/{name}.safetensors"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    trained = load_network(path, torch.device("cpu"))
    assert len(trained.model_spec.classes) == classes
    assert trained.model_spec.activation == "sigmoid"
    assert (trained.model_spec.spec.frames, trained.model_spec.spec.any_length) == (frames, True)
    names = [label.name for label in trained.model_spec.classes[:2]]
    transform = embedding.Transform(path, "probabilities", names)
    noise = torch.from_numpy(clips[1].astype(np.float32) / 32768)
    logits = transform(
        torch.from_numpy(soxr.resample(noise.numpy(), RATE, transform.sample_rate))[None]
    )
    assert logits.shape == (1, 1, 1, 2)
    assert logits.isfinite().all()


def test_a_probe_standardizes_by_all_training_batches() -> None:
    torch.manual_seed(0)
    probe = linear.Network(linear.Settings(), InputSpec(2, 3, 4), 5)
    x = torch.randn(64, 2, 3, 4) * 7 + 3
    probe.train()
    for batch in x.split(16):
        probe(batch)
    probe.eval()
    standard = probe.embed(x)
    assert standard.shape == (64, 8)
    assert standard.mean(0).abs().max() < 1e-4
    assert (standard.std(0) - 1).abs().max() < 0.1
    assert probe(x).shape == (64, 5)


def test_a_probe_averages_the_frames_of_a_clip_without_its_padding() -> None:
    torch.manual_seed(0)
    probe = linear.Network(linear.Settings(), InputSpec(1, 6, 4, any_length=True), 3).eval()
    x = torch.randn(1, 1, 2, 4)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 4))
    torch.testing.assert_close(probe(padded, torch.tensor([2])), probe(x))


def test_identity_returns_the_features() -> None:
    network = identity.Network(identity.Settings(), InputSpec(1, 1, 5), 5)
    x = torch.randn(3, 1, 1, 5)
    assert not list(network.parameters())
    torch.testing.assert_close(network(x), x[:, 0, 0])
    x = torch.randn(1, 1, 2, 5)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 4))
    torch.testing.assert_close(network(padded, torch.tensor([2])), x[:, 0].mean(1))


def test_identity_refuses_features_that_are_not_scores() -> None:
    with pytest.raises(UserError, match=r"1 channel and 5 bins, one for each class, got 1 x 64"):
        identity.Network(identity.Settings(), InputSpec(1, 10, 64), 5)
