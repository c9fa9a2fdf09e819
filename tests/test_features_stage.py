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
from tagging.data.clips import Index, read_features, write_features, write_index
from tagging.data.spec import InputSpec
from tagging.data.splits import Fold
from tagging.features import log_mel
from tagging.learning import embedding
from tagging.learning.model import Model, ModelSpec, build, load_network, save_network
from tagging.networks import linear, untrained
from tagging.sources import published
from tagging.sources.weights import PUBLISHED
from tests.archives import assert_one_sentence, run_stage

RATE = 16000
MEL = {"sample_rate": 8000, "window": 256, "hop": 128, "bins": 16}
LENGTHS = [4000, 16000, 9001, 16000, 12345] * 4
CLASSES = ["chord", "clicks", "sweep"]
NET = {"channels": [4], "dropout": 0.0}


def params(**changed: Any) -> dict[str, Any]:
    return {
        "features": {"mel": {"transform": "log_mel", "settings": MEL}},
        "embeddings": {"said": {"weights": "net", "gives": "embedding"}},
        "run": {"device": "cpu", "progress": "none"},
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
    shape = (len(clips), 1, max(LENGTHS), 1)
    with write_features("waveform", (shape, np.int16), spec, about) as (values, frames):
        for place, clip in enumerate(clips):
            values[place, 0, : len(clip), 0] = clip
            frames[place] = len(clip)
    return clips


def write_net(path: Path, classes: list[str], **features: Any) -> None:
    """Write a small untrained network of log-mel spectrograms."""
    torch.manual_seed(0)
    spec = InputSpec(1, 100, MEL["bins"], any_length=True)
    model = Model(architecture="cnn", network=NET)
    network = build(model, spec, len(classes), "net")
    about = {"name": "log_mel", **MEL} | features
    shape = ModelSpec(spec, [Class(name, name) for name in classes], "sigmoid", about)
    save_network(path, network.state_dict(), model, shape)


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


def content(name: str) -> dict[str, bytes]:
    files = (Path("data/features") / name).iterdir()
    return {path.name: path.read_bytes() for path in files if path.is_file()}


def change(folder: Path, **changed: Any) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params(**changed)))


def mel_of(clip: np.ndarray) -> torch.Tensor:
    transform = log_mel.Transform(log_mel.Settings(**MEL))
    waveform = soxr.resample(clip.astype(np.float32) / 32768, RATE, MEL["sample_rate"])
    return transform(torch.from_numpy(waveform)[None])[0]


def test_each_clip_is_computed_at_its_own_length(clips: list[np.ndarray]) -> None:
    stage.main("mel")
    found = read_features("mel")
    most = max(found.frames)
    assert found.values.shape == (20, 1, most, 16)
    assert found.spec == InputSpec(1, most, 16, any_length=True)
    assert found.settings == {"name": "log_mel", **MEL}
    for place, clip in enumerate(clips):
        wanted = mel_of(clip)
        assert found.frames[place] == wanted.shape[1]
        np.testing.assert_allclose(
            found.values[place, :, : wanted.shape[1]], wanted, rtol=0, atol=1e-4
        )
        assert not found.values[place, :, wanted.shape[1] :].any()


def test_filled_clips_end_in_silence_and_have_one_length(
    folder: Path, clips: list[np.ndarray]
) -> None:
    change(folder, features={"mel": {"transform": "log_mel", "settings": MEL, "filled": True}})
    stage.main("mel")
    found = read_features("mel")
    assert set(found.frames) == {found.spec.frames}
    assert not found.spec.any_length
    wanted = mel_of(np.pad(clips[0], (0, max(LENGTHS) - LENGTHS[0])))
    np.testing.assert_allclose(found.values[0], wanted, rtol=0, atol=1e-4)
    # What a network's file keeps are the transform's own settings.
    assert found.settings == {"name": "log_mel", **MEL}


def test_copies_are_features_beside_the_clips_that_stay_as_they_are(
    folder: Path, clips: list[np.ndarray]
) -> None:
    stage.main("mel")
    plain = content("mel")
    changed = {"copies": 2, "share": 1, "noise": [0, 10], "stretch": [0.8, 1.25], "shift": 0.1}
    entry = {"transform": "log_mel", "settings": MEL}
    change(folder, features={"mel": entry | {"changed": changed}})
    stage.main("mel")
    assert content("mel") == plain
    copies = [content(f"mel/changed{number}") for number in (1, 2)]
    assert plain["values.npy"] not in [copies[0]["values.npy"], copies[1]["values.npy"]]
    assert copies[0]["values.npy"] != copies[1]["values.npy"]
    for copy in copies:  # lengths, and what networks see
        assert copy["frames.npy"] == plain["frames.npy"]
        assert copy["spec.json"] == plain["spec.json"]
    stage.main("mel")
    assert [content(f"mel/changed{number}") for number in (1, 2)] == copies
    change(folder, features={"mel": entry | {"changed": changed | {"share": 0}}})
    stage.main("mel")
    assert content("mel/changed1") == plain


def test_one_thread_and_three_write_the_same_bytes(clips, monkeypatch) -> None:
    written = []
    for threads in ("1", "3"):
        monkeypatch.setenv("TAGGING_WORKERS", threads)
        stage.main("mel")
        written.append(Path("data/features/mel/values.npy").read_bytes())
    assert written[0] == written[1]


def test_an_embedding_is_what_the_network_says_of_each_clip(
    folder: Path, clips: list[np.ndarray]
) -> None:
    path = folder / "data/weights/net.safetensors"
    write_net(path, CLASSES)
    stage.main("said")
    found = read_features("said")
    network = load_network(path, torch.device("cpu")).network
    assert found.values.shape == (20, 1, 1, network.classify.in_features)
    assert not found.spec.any_length
    with torch.inference_mode():
        for place in (0, 1, 4):
            wanted = network.embed(mel_of(clips[place])[None])[0]
            np.testing.assert_allclose(found.values[place, 0, 0], wanted, rtol=1e-3, atol=1e-4)
    assert found.settings["weights"] == "net"


def test_scores_are_those_of_the_classes_that_ours_are_mapped_to(
    folder: Path, clips: list[np.ndarray]
) -> None:
    write_classes(folder)
    path = folder / "data/weights/net.safetensors"
    write_net(path, ["rest", "Glissando", "Click", "Harmony"])
    mapping = {"sweep": "Glissando", "chord": "Harmony", "clicks": "Click"}
    scores = {"weights": "net", "gives": "scores"}
    change(folder, embeddings={"some": scores | {"classes": mapping}, "all": scores})
    stage.main("some")
    stage.main("all")
    some, all_of = read_features("some").values, read_features("all").values
    assert all_of.shape == (20, 1, 1, 4)
    np.testing.assert_array_equal(some, all_of[..., [3, 2, 1]])
    with torch.inference_mode():
        wanted = load_network(path, torch.device("cpu")).network(mel_of(clips[3])[None])[0]
    np.testing.assert_allclose(all_of[3, 0, 0], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"chord": "A", "clicks": "A"}, "'sweep' is missing"),
        ({"chord": "A", "clicks": "A", "sweep": "A", "tone": "A"}, "'tone' is none of them"),
        ({"chord": "A", "clicks": "A", "sweep": "B"}, "without the class 'B'"),
    ],
)
def test_a_mapping_takes_all_classes_of_the_task_and_none_else(
    folder: Path, clips, mapping: dict[str, str], said: str
) -> None:
    write_classes(folder)
    write_net(folder / "data/weights/net.safetensors", ["A"])
    entry = {"weights": "net", "gives": "scores", "classes": mapping}
    change(folder, embeddings={"said": entry})
    with pytest.raises(UserError, match=said):
        stage.transform_of("said")


def test_what_does_not_fit_is_refused_by_its_name(folder: Path, clips) -> None:
    for wrong, said in (
        ({"features": {}}, "features.mel is missing.*said"),
        ({"features": {"mel": {"transform": "cepstrum"}}}, "'cepstrum'.*log_mel"),
        ({"features": {"mel": {"transform": "decoding"}}}, "'decoding'.*log_mel"),
        (
            {"features": {"mel": {"transform": "log_mel", "settings": MEL | {"bins": 0}}}},
            "features.mel.settings.bins is 0",
        ),
    ):
        change(folder, **wrong)
        with pytest.raises(UserError, match=said):
            stage.transform_of("mel")
    change(folder)
    with pytest.raises(UserError, match=r"net\.safetensors is missing"):
        stage.transform_of("said")


def test_an_architecture_that_the_weights_are_not_of_is_refused(folder: Path, clips) -> None:
    write_net(folder / "data/weights/net.safetensors", CLASSES)
    entry = {"weights": "net", "gives": "embedding", "architecture": "cnn"}
    change(folder, embeddings={"said": entry})
    assert stage.transform_of("said")[0].architecture == "cnn"
    change(folder, embeddings={"said": entry | {"architecture": "mobilenet"}})
    with pytest.raises(UserError, match=r"said.architecture is 'mobilenet'; it takes cnn"):
        stage.transform_of("said")


def test_a_network_of_other_features_than_sound_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    model = Model(architecture="cnn", network=NET)
    spec = InputSpec(1, 10, 128)
    network = build(model, spec, 1, "net")
    shape = ModelSpec(spec, [Class("a", "a")], "sigmoid", {"name": "vggish"})
    save_network(path, network.state_dict(), model, shape)
    with pytest.raises(UserError, match="takes vggish, not sound"):
        embedding.Transform(path, "embedding")


def test_what_a_feature_s_own_file_lacks_is_no_unknown_feature(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "hum.py").write_text("import no_such_package")
    monkeypatch.setattr(embedding, "FEATURES", tmp_path)
    monkeypatch.setattr(features, "__path__", [str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        embedding.build_transform("hum", {}, "features.hum")
    with pytest.raises(UserError, match=r"features\.buzz is 'buzz'"):
        embedding.build_transform("buzz", {}, "features.buzz")


def test_the_stage_is_a_command_and_says_what_is_missing(folder: Path, clips) -> None:
    done = run_stage(folder, "features", "mel")
    assert done.returncode == 0, done.stderr
    assert read_features("mel").spec.bins == 16
    assert_one_sentence(run_stage(folder, "features", "nothing"), "features.nothing is missing")


def test_weights_are_refused_by_a_name_that_none_has(folder: Path) -> None:
    with pytest.raises(UserError, match=r"'mn99_as'; the names are mn01_as"):
        published.fetch_published("mn99_as", folder, "none")


@pytest.mark.parametrize("own", [False, True])
def test_weights_that_are_refused_do_not_stay_and_their_hash_is_told(
    tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture, own: bool
) -> None:
    """mn01_as has no pinned hash: any file comes, and is looked at."""
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
def test_published_weights_become_a_network_that_hears(
    folder: Path, clips, name: str, classes: int, frames: int
) -> None:
    done: subprocess.CompletedProcess = run_stage(folder, "weights", name)
    assert done.returncode == 0, done.stderr
    path = folder / f"data/weights/{name}.safetensors"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    trained = load_network(path, torch.device("cpu"))
    assert len(trained.shape.classes) == classes
    assert trained.shape.activation == "sigmoid"
    assert (trained.shape.spec.frames, trained.shape.spec.any_length) == (frames, True)
    transform = embedding.Transform(path, "scores", [of.name for of in trained.shape.classes[:2]])
    noise = torch.from_numpy(clips[1].astype(np.float32) / 32768)
    said = transform(
        torch.from_numpy(soxr.resample(noise.numpy(), RATE, transform.sample_rate))[None]
    )
    assert said.shape == (1, 1, 1, 2)
    assert said.isfinite().all()


def test_a_probe_standardizes_by_all_that_it_was_trained_on() -> None:
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


def test_a_probe_takes_the_mean_of_a_clips_own_frames() -> None:
    torch.manual_seed(0)
    probe = linear.Network(linear.Settings(), InputSpec(1, 6, 4, any_length=True), 3).eval()
    x = torch.randn(1, 1, 2, 4)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 4))
    torch.testing.assert_close(probe(padded, torch.tensor([2])), probe(x))


def test_untrained_says_what_the_features_say() -> None:
    network = untrained.Network(untrained.Settings(), InputSpec(1, 1, 5), 5)
    x = torch.randn(3, 1, 1, 5)
    assert not list(network.parameters())
    torch.testing.assert_close(network(x), x[:, 0, 0])
    x = torch.randn(1, 1, 2, 5)
    padded = torch.nn.functional.pad(x, (0, 0, 0, 4))
    torch.testing.assert_close(network(padded, torch.tensor([2])), x[:, 0].mean(1))


def test_untrained_refuses_features_that_are_no_scores() -> None:
    with pytest.raises(UserError, match=r"one number for each of the 5 classes.*1 x 64"):
        untrained.Network(untrained.Settings(), InputSpec(1, 10, 64), 5)
