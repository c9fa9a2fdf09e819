"""The command `tagging tag`, and `tagging.load`."""

import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tagging.base.errors import UserError
from tagging.commands import models, tag
from tagging.commands.embedding_checks import check_embeddings
from tagging.commands.inputs import find_input_files
from tagging.commands.main import run
from tagging.commands.prediction import Prediction
from tagging.commands.spectrogram import SpectrogramImage
from tagging.commands.tag_formats import label_times
from tagging.commands.tagger import Tagger, load_tagger
from tagging.commands.windows import Windows
from tagging.data.classes import Class
from tagging.data.spec import InputSpec
from tagging.learning.model import Model, ModelSpec, build, save_network
from tagging.sources.audioset.records import Clip, write_clip
from tests.archives import ROOT

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
RATE = 8000
SOUND = Model(
    architecture="cnn",
    network={"channels": [4, 8], "strides": [[2, 2], [2, 2]], "dropout": 0.1},
)
MEL = {"name": "log_mel", "sample_rate": RATE, "window": 256, "hop": 128, "bins": 16, "floor": 1e-5}


def classes(number: int) -> list[Class]:
    return [Class(f"/m/{k}", f"label {k}, a name") for k in range(number)]


def save(path: Path, model: Model, shape: ModelSpec, thresholds: dict | None = None) -> Path:
    torch.manual_seed(1)
    network = build(model, shape.spec, len(shape.classes), "test").eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    save_network(path, network.state_dict(), model, shape)
    if thresholds:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["model"]) | {"thresholds": thresholds}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        save_file(tensors, path, {"model": json.dumps(about)})
    return path


def sound_model(path: Path, thresholds: dict | None = None) -> Path:
    """A network that hears windows of a second."""
    spec = InputSpec(1, 1 + RATE // 128, 16)
    return save(path, SOUND, ModelSpec(spec, classes(6), "sigmoid", MEL), thresholds)


def yac_model(path: Path) -> Path:
    spec = InputSpec(1, 10, 128, scale=1 / 256)
    model = Model(architecture="yac", network={"head": "logits"})
    return save(path, model, ModelSpec(spec, classes(10), "sigmoid", {"name": "vggish"}))


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Noise whose loudness rises and falls."""
    n = round(seconds * rate)
    swell = 0.3 + 0.2 * np.sin(np.arange(n) / rate * 2)
    return (np.random.default_rng(seed).standard_normal(n) * swell * 0.3).astype(np.float32)


def embedding(frames: int = 10, seed: int = 0) -> np.ndarray:
    """Bytes with AudioSet's statistic: a common part, and one of each frame."""
    rng = np.random.default_rng(seed)
    values = 126 + 75 * (0.7 * rng.standard_normal(128) + 0.7 * rng.standard_normal((frames, 128)))
    return values.clip(0, 255).astype(np.uint8)


def clip(number: int, frames: int = 10) -> Clip:
    return Clip(f"clip{number:07}", 30.0, 40.0, [0], embedding(frames, number).tobytes())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models as defaults, a short and a long recording, and records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", str(sound_model(tmp_path / "ears.safetensors")))
    monkeypatch.setattr(models, "DEFAULT_EMBEDDING_MODEL", yac_model(tmp_path / "records.safetensors"))
    soundfile.write("short.wav", noise(0.8), RATE, "FLOAT")
    soundfile.write("long.flac", noise(3.5, 1), RATE)
    Path("clips.tfrecord").write_bytes(b"".join(write_clip(clip(k)) for k in range(3)))
    return tmp_path


def answers(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, list[dict], str]:
    status = run(["tag", "--json", *arguments])
    said = capsys.readouterr()
    return status, json.loads(said.out), said.err


def test_each_file_is_tagged_by_the_default_of_its_kind(here: Path, capsys):
    status, found, said = answers(capsys, "short.wav", "clips.tfrecord", "long.flac", "--top", "2")
    assert (status, said) == (0, "")
    assert [entry["file"] for entry in found] == ["short.wav", *["clips.tfrecord"] * 3, "long.flac"]
    assert [entry["model"] for entry in found] == ["ears", *["records"] * 3, "ears"]
    assert found[1]["clip"] == "clip0000000"
    assert (found[1]["windows"][0]["start"], found[1]["windows"][0]["end"]) == (30.0, 40.0)
    for entry in found:
        assert list(entry)[-3:] == ["duration", "labels", "windows"]
        first, second = entry["labels"]
        assert first["probability"] >= second["probability"]
        assert first["confident"] is None


def test_what_the_network_says_is_what_is_printed(here: Path, capsys):
    tagger = Tagger(here / "ears.safetensors")
    whole = noise(3.5, 1)
    soundfile.write("long.wav", whole, RATE, "FLOAT")
    (entry,) = answers(capsys, "long.wav", "--top", "all")[1]
    # Windows of a second, and a last one that ends with the recording.
    starts = [0, 1, 2, 2.5]
    assert [of["start"] for of in entry["windows"]] == starts
    cut = np.stack([whole[round(s * RATE) :][:RATE] for s in starts])
    with torch.inference_mode():
        expected = tagger.network(tagger.frontend(torch.from_numpy(cut))).sigmoid().numpy()
    for of, row in zip([*entry["windows"], entry], [*expected, expected.mean(0)], strict=True):
        found = {label["label"]: label["probability"] for label in of["labels"]}
        assert [found[name] for name in tagger.classes] == pytest.approx(row.tolist(), abs=2e-6)


def test_python_gives_the_answer_of_the_command(here: Path, capsys):
    (entry,) = answers(capsys, "short.wav", "--top", "all")[1]
    del entry["file"]
    ears = load_tagger(str(here / "ears.safetensors"))
    assert ears(noise(0.8), RATE) == entry
    stereo = np.stack([noise(0.8)] * 2, 1)
    assert ears(stereo, RATE)["labels"][0]["label"] == entry["labels"][0]["label"]
    assert ears(noise(1.6, rate=2 * RATE), 2 * RATE)["duration"] == 1.6
    records = load_tagger(str(here / "records.safetensors"))
    (first, *_) = answers(capsys, "clips.tfrecord", "--top", "all")[1]
    assert records(embedding())["labels"] == first["labels"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((np.zeros(0), RATE), "shape"),
        ((np.zeros((2, 3, 4)), RATE), "shape"),
        ((np.zeros(RATE),), "needs the waveform's sample rate, got None"),
        ((np.zeros((1, RATE)), RATE), r"shape \(samples,\) or \(samples, channels\), got \(1, 8000\)"),
        ((np.zeros((2, RATE)), RATE), "shape"),
        ((np.full(RATE, np.nan), RATE), "must have finite samples, got NaN"),
        ((np.full(RATE, 30_000.0), RATE), r"floats in \[-1, 1\], got a peak of 30000; pass integers"),
        ((np.full(RATE, "loud"), RATE), "must have floats or integers, got <U4"),
        ((np.zeros(RATE), 0), "sample rate must be a number from 1,000 to 1,000,000 Hz, got 0"),
        ((np.zeros(RATE), -5), "got -5"),
        ((np.zeros(RATE), "44100"), "got '44100'"),
        ((np.zeros(RATE), np.nan), "got nan"),
    ],
)
def test_waveforms_that_are_none_are_refused(here: Path, given: tuple, sentence: str):
    with pytest.raises(UserError, match=sentence):
        load_tagger(str(here / "ears.safetensors"))(*given)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32])
def test_whole_numbers_of_any_type_are_answered_as_floats_are(here: Path, kind: type):
    ears = load_tagger(str(here / "ears.safetensors"))
    floats = np.round(noise(1) * 100) / 128
    full = 2.0 ** (8 * np.dtype(kind).itemsize - 1)
    middle = full if np.issubdtype(kind, np.unsignedinteger) else 0
    assert ears((floats * full + middle).astype(kind), np.int64(RATE)) == ears(floats, RATE)


def test_windows_cover_all_of_a_recording():
    def cut(samples: int, **how: int) -> list[tuple[int, list[int]]]:
        whole = np.arange(1, samples + 1, dtype=np.float32)
        parts = np.split(whole, range(7, samples, 7))
        return [
            (start, piece.astype(int).tolist())
            for start, piece in Windows(**({"size": 10, "step": 10} | how)).cut(parts)
        ]

    assert cut(4) == [(0, [1, 2, 3, 4])]
    assert cut(20) == [(0, [*range(1, 11)]), (10, [*range(11, 21)])]
    assert cut(25)[2] == (15, [*range(16, 26)])
    assert [start for start, _ in cut(25, drop_last=True)] == [0, 10]
    assert [start for start, _ in cut(25, step=4)] == [0, 4, 8, 12, 15]
    around = cut(23, context=2)
    assert [len(piece) for _, piece in around] == [14] * 3
    assert around[0][1][:3] == [0, 0, 1] and around[1][1][0] == 9
    assert around[2] == (13, [*range(12, 24), 0, 0])


def test_windows_and_hops_are_as_asked_for(here: Path, capsys):
    (entry,) = answers(capsys, "long.flac", "--window", "1.5", "--hop", "0.5")[1]
    assert [of["start"] for of in entry["windows"]] == [0, 0.5, 1, 1.5, 2]
    assert entry["windows"][0]["end"] == 1.5
    for window in ([], ["--window", "1"]):
        status, found, said = answers(capsys, "long.flac", *window, "--hop", "2")
        assert (status, found) == (1, [])
        assert said.startswith("error: --hop must be at most the window's 1 s")


def test_many_files_come_in_their_order(here: Path, capsys, monkeypatch):
    monkeypatch.setenv("TAGGING_WORKERS", "4")
    names = []
    for k in range(12):
        names.append(f"of{k:02}.wav")
        soundfile.write(names[-1], noise(4 if k % 3 == 0 else 0.3, k), RATE)
    many = answers(capsys, *names)[1]
    assert [entry["file"] for entry in many] == names
    monkeypatch.setenv("TAGGING_WORKERS", "1")
    for one, other in zip(answers(capsys, *names)[1], many, strict=True):
        assert one["labels"][0]["probability"] == pytest.approx(
            other["labels"][0]["probability"], abs=1e-5
        )


def test_folders_patterns_and_lists_are_taken(here: Path, capsys, monkeypatch):
    Path("more/.hidden").mkdir(parents=True)
    for name in ("more/b.wav", "more/.hidden/c.wav", "more/a.FLAC"):
        soundfile.write(name, noise(0.2), RATE, format="WAV")
    Path("more/notes.txt").write_text("no sound")
    monkeypatch.setattr(sys, "stdin", io.StringIO("short.wav\n\nmore/b.wav\n"))
    found = answers(capsys, "more", "*.wav", "-")[1]
    assert [entry["file"] for entry in found] == ["more/a.FLAC", "more/b.wav", "short.wav"]
    Path("empty").mkdir()
    assert find_input_files(["empty"])[1] == ["empty is a folder without recordings or records"]


def test_brackets_in_a_name_are_not_only_a_pattern(here: Path):
    Path("a [live]").mkdir()
    shutil.copy("short.wav", "a [live]/b.wav")
    for name in ("a [live]/*.wav", "a [live]/b.wav", "a [[]live]/*.wav", "* [[k-l]live]/b.wav"):
        assert [given.path for given in find_input_files([name])[0]] == [Path("a [live]/b.wav")], name


def test_what_is_no_file_is_one_sentence(here: Path):
    os.mkfifo("pipe")
    for name, sentence in (("pipe", "must be a file"), ("a" * 300, "does not exist; use a file")):
        found, (problem,) = find_input_files([name])
        assert not found and problem.startswith(f"{name} {sentence}")


def test_an_empty_list_is_told(here: Path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match=r"^no file is named; standard input must list files"):
        run(["tag", "-"])


@pytest.mark.parametrize("given", ["abc", "0", "nan"])
def test_what_is_no_time_is_told(here: Path, capsys, given: str):
    with pytest.raises(SystemExit):
        run(["tag", "short.wav", "--window", given])
    said = f"--window: must be seconds from 0.01 to 3600, got '{given}'"
    assert said in capsys.readouterr().err


def test_a_file_is_taken_for_what_it_is_whatever_its_name(here: Path):
    Path("clips.tfrecord").rename("clips.wav")
    Path("short.wav").rename("short")
    found = find_input_files(["clips.wav", "short"])[0]
    assert [file.format for file in found] == ["tfrecord", "sound"]


def test_good_files_are_answered_beside_bad_ones(here: Path, capsys):
    Path("text.wav").write_text("hello")
    Path("cut.tfrecord").write_bytes(Path("clips.tfrecord").read_bytes()[:-100])
    Path("none.parquet").write_bytes(b"PAR1 and no more")
    Path("nothing.mp3").touch()
    status, found, said = answers(
        capsys, "text.wav", "gone.wav", "cut.tfrecord", "none.parquet", "nothing.mp3", "short.wav"
    )
    assert status == 1
    # Two of three records are whole.
    assert [entry["file"] for entry in found] == ["cut.tfrecord", "cut.tfrecord", "short.wav"]
    lines = said.splitlines()
    assert len(lines) == 5
    for name in ("text.wav", "gone.wav", "cut.tfrecord", "none.parquet", "nothing.mp3"):
        (line,) = [line for line in lines if name in line]
        assert line.startswith(f"error: {name}")


def test_a_file_that_is_gone_or_fails_while_read_leaves_others_alone(
    here: Path, capsys, monkeypatch
):
    shutil.copy("short.wav", "gone.wav")
    shutil.copy("short.wav", "bad.wav")
    real = tag.blocks

    def blocks(path: Path, *arguments):
        if path.name == "bad.wav":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *arguments)

    def find_and_lose(names: list[str]):
        found = find_input_files(names)
        Path("gone.wav").unlink()
        return found

    monkeypatch.setattr(tag, "find_input_files", find_and_lose)
    monkeypatch.setattr(tag, "blocks", blocks)
    status, found, said = answers(capsys, "gone.wav", "bad.wav", "clips.tfrecord", "short.wav")
    assert (status, len(found)) == (1, 4)
    assert said == (
        "error: gone.wav cannot be read: No such file or directory\n"
        "error: bad.wav cannot be read: Input/output error\n"
    )


@pytest.mark.parametrize("form", ["tfrecord", "parquet"])
def test_good_clips_are_answered_beside_bad_ones(here: Path, capsys, form: str):
    embeddings = [embedding(10, k).tobytes() for k in range(600)]
    embeddings[300] = bytes(1280)
    if form == "tfrecord":
        clips = [Clip(f"clip{k:07}", 0.0, 10.0, [0], of) for k, of in enumerate(embeddings)]
        Path("some.tfrecord").write_bytes(b"".join(map(write_clip, clips)))
        first, bad = "clip0000300: all numbers are 0", 1
    else:
        embeddings[200], bad = None, 3
        embeddings[210] = bytes(127)
        pq.write_table(pa.table({"audio_embedding": embeddings}), "some.parquet")
        first = "200: the embedding is empty"
    status, found, said = answers(capsys, f"some.{form}", "short.wav", "--top", "1")
    assert (status, len(found)) == (1, 601 - bad)
    start = f"error: some.{form}: {bad} of 600 clips are not valid and were skipped, first {first}"
    assert said.startswith(start) and said.count("\n") == 1


def test_a_cache_that_cannot_be_made_leaves_records_alone(here: Path, capsys, monkeypatch):
    Path("cache").write_text("a file")
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", "mn04_as")
    status, found, said = answers(capsys, "short.wav", "clips.tfrecord")
    assert (status, len(found)) == (1, 3)
    assert "mn04_as.safetensors cannot be written to" in said
    assert "set XDG_CACHE_HOME to another folder" in said and said.count("\n") == 1


def test_a_model_of_another_kind_is_refused_in_a_sentence(here: Path, capsys):
    status, found, said = answers(capsys, "short.wav", "--model", "records.safetensors")
    assert (status, found) == (1, [])
    assert said == (
        "error: short.wav: records reads AudioSet's embeddings (TFRecord or parquet), got a recording\n"
    )
    status, found, said = answers(capsys, "clips.tfrecord", "--model", "ears.safetensors")
    assert (status, found) == (1, [])
    assert said == "error: clips.tfrecord: ears reads recordings, got a file of records\n"


@pytest.mark.parametrize("name", ["gone", "gone.safetensors", "../gone/x", "text.wav"])
def test_a_model_that_is_none_is_refused_before_anything_is_done(here: Path, capsys, name: str):
    Path("text.wav").write_text("hello")
    with pytest.raises(UserError, match=r"does not exist|is no trained network"):
        run(["tag", "short.wav", "--model", name])
    assert capsys.readouterr().out == ""


def damaged(path: Path, how: str) -> None:
    """Spoil a model's file."""
    with safe_open(path, "pt") as file:
        about = file.metadata()["model"]
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    first = next(iter(tensors))
    path.unlink()
    if how == "a folder":
        path.mkdir()
        return
    if how == "without a tensor":
        del tensors[first]
    elif how == "of another shape":
        tensors[first] = torch.zeros(7, 7)
    elif how == "no JSON":
        about = about[:-1]
    else:
        described = json.loads(about)
        del described[how]
        about = json.dumps(described)
    save_file(tensors, path, {"model": about})


@pytest.mark.parametrize(
    "how", ["without a tensor", "of another shape", "no JSON", "input", "features", "a folder"]
)
@pytest.mark.parametrize("kind", ["itself", "its embedding"])
def test_a_damaged_model_is_refused_in_a_sentence(here: Path, how: str, kind: str):
    path = sound_model(here / "models/broken.safetensors")
    name = "models"
    if kind == "its embedding":
        about = {"name": "embedding", "weights": str(path), "gives": "embedding", "classes": None}
        shape = ModelSpec(InputSpec(1, 1, 4), classes(2), "sigmoid", about)
        name = str(save(here / "probe.safetensors", Model(architecture="linear"), shape))
    damaged(path, how)
    with pytest.raises(UserError, match=r"broken\.safetensors.*; (it takes|use) a file") as refused:
        run(["tag", "short.wav", "--model", name])
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_a_model_of_an_unknown_feature_is_refused(here: Path):
    path = save(
        here / "odd.safetensors",
        Model(architecture="linear"),
        ModelSpec(InputSpec(1, 1, 4), classes(2), "sigmoid", {"name": "smell"}),
    )
    with pytest.raises(UserError, match="'smell'"):
        run(["tag", "short.wav", "--model", str(path)])


def test_a_default_that_cannot_be_had_leaves_other_files_alone(here: Path, capsys, monkeypatch):
    monkeypatch.setattr(models, "DEFAULT_EMBEDDING_MODEL", Path("gone.safetensors"))
    status, found, said = answers(capsys, "clips.tfrecord", "short.wav")
    assert (status, len(found)) == (1, 1)
    assert said.startswith("error: clips.tfrecord: its default model is not available")


def test_models_are_found_by_name_run_and_folder(here: Path):
    Path(".dvc").mkdir()
    for name in ("models/yac/seed1", "models/yac/seed0", "tasks/a/models/cnn/fold10-seed0",
                 "tasks/a/models/cnn/fold2-seed0", "tasks/a/models/twice/seed0",
                 "models/twice/seed0"):  # fmt: skip
        sound_model(Path(f"{name}.safetensors"))
    root = here.resolve()
    assert models.find_model("yac") == root / "models/yac/seed0.safetensors"
    assert models.find_model("yac/seed1") == root / "models/yac/seed1.safetensors"
    assert models.find_model("cnn").name == "fold2-seed0.safetensors"
    assert models.find_model("tasks/a/models/cnn").name == "fold2-seed0.safetensors"
    assert models.display_name(models.find_model("yac")) == "yac/seed0"
    with pytest.raises(UserError, match="several models are called 'twice'"):
        models.find_model("twice")
    sound_model(Path("two/a.safetensors"))
    sound_model(Path("two/b.safetensors"))
    with pytest.raises(UserError, match=r"two has several models \(a.safetensors, b.safetensors\)"):
        models.find_model("two")
    with pytest.raises(UserError, match="model 'tasks' does not exist"):
        models.find_model("tasks")


def keep_with_dvc(path: str) -> None:
    """Have DVC keep a file or a folder, in a new repository here."""
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "add", "-q", path]):
        subprocess.run(command, check=True, capture_output=True)


def lack_model(path: str) -> bytes:
    """Have DVC keep a model's file or folder that is not checked out; return the file's bytes."""
    model = sound_model(Path("models/kept/seed0.safetensors"))
    keep_with_dvc(path)
    content = model.read_bytes()
    model.unlink()
    return content


DVC_NAMES = ("models/kept/seed0.safetensors", "models/kept/seed0", "models/kept", "kept")


@pytest.mark.parametrize("path", ["models/kept/seed0.safetensors", "models/kept"])
def test_a_model_that_dvc_keeps_is_had_from_it(here: Path, path: str):
    content = lack_model(path)
    for name in DVC_NAMES:
        found = models.find_model(name)
        assert found.read_bytes() == content
        assert models.display_name(found) == "kept/seed0"


def test_a_model_that_dvc_knows_but_cannot_give_asks_for_dvc_pull(here: Path):
    lack_model("models/kept")
    shutil.rmtree(".dvc/cache")
    for name in DVC_NAMES:
        with pytest.raises(UserError, match=f"{name}.*; run dvc pull or dvc repro$"):
            models.find_model(name)


def test_short_clips_of_a_network_of_one_length_are_left_out(here: Path, capsys):
    records = [write_clip(clip(0)), write_clip(clip(1, 7)), write_clip(clip(2))]
    Path("clips.tfrecord").write_bytes(b"".join(records))
    status, found, said = answers(capsys, "clips.tfrecord")
    assert status == 1
    assert [entry["clip"] for entry in found] == ["clip0000000", "clip0000002"]
    assert said == (
        "error: clips.tfrecord: 1 of 3 clips were skipped, as records needs 10 frames or more\n"
    )


def test_clips_of_any_length_do_not_depend_on_their_neighbours(here: Path):
    network = {"hidden": 8, "layers": 1, "dropout": 0.1, "pooling": "decision"}
    path = save(
        here / "any.safetensors",
        Model(architecture="attention", network=network),
        ModelSpec(InputSpec(1, 10, 128, scale=1 / 256), classes(5), "sigmoid", {"name": "vggish"}),
    )
    tagger = Tagger(path)
    clips = [embedding(10, 0), embedding(4, 1), embedding(23, 2)]
    together = tagger.predict_clips(clips, "a")
    assert together[2].starts == [0, 10, 13]
    for alone, beside in zip(clips, together, strict=True):
        (found,) = tagger.predict_clips([alone], "a")
        np.testing.assert_allclose(found.probabilities, beside.probabilities, atol=1e-6)


def test_parquet_of_bytes_and_of_numbers_is_read(here: Path, capsys):
    clips = [embedding(10, k) for k in range(3)]
    columns = {
        "bytes": [of.tobytes() for of in clips],
        "flat": [of.ravel().tolist() for of in clips],
        "frames": [of.tolist() for of in clips],
    }
    found = {}
    for name, column in columns.items():
        pq.write_table(pa.table({"audio_embedding": column}), f"{name}.parquet")
        status, entries, _ = answers(capsys, f"{name}.parquet")
        assert status == 0
        found[name] = [entry["labels"] for entry in entries]
    assert found["bytes"] == found["flat"] == found["frames"]
    pq.write_table(pa.table({"numbers": [1]}), "other.parquet")
    assert "must have the column audio_embedding" in answers(capsys, "other.parquet")[2]


def quantized_without_pca() -> np.ndarray:
    relu = np.maximum(np.random.default_rng(0).normal(0, 0.6, (10, 128)), 0).clip(0, 2)
    return (relu * 63.75 + 127.5).astype(np.uint8)


@pytest.mark.parametrize(
    ("clips", "cause"),
    [
        ([embedding().astype(float) / 64 - 2], "before PCA and quantization"),
        ([embedding().astype(int) - 128], "signed bytes"),
        ([quantized_without_pca()], "quantized without PCA"),
        ([np.full((10, 128), 128, np.uint8)], "never filled"),
        ([embedding() // 8], "another network or quantization"),
        ([embedding()[:, :64]], "must be \\(frames, 128\\), got"),
        ([np.full((10, 128), np.nan)], "finite numbers"),
        ([np.zeros((0, 128))], "the embedding is empty"),
    ],
)
def test_embeddings_that_cannot_be_audioset_s_are_refused(clips: list, cause: str):
    (problem,) = check_embeddings(clips, "clips")
    assert re.search(cause, problem) and "\n" not in problem


def test_embeddings_that_are_noise_together_are_refused():
    clips = [embedding(10, k).T.reshape(10, 128) for k in range(20)]
    with pytest.raises(UserError, match=r"^clips: neighbouring frames .* not stored frame by frame"):
        check_embeddings(clips, "clips")


def test_embeddings_like_audioset_s_pass():
    clips = [embedding(1 + k % 10, k) for k in range(50)]
    assert check_embeddings(clips, "clips") == [None] * 50
    assert check_embeddings([clips[0].astype(float)], "clips") == [None]


@pytest.mark.skipif("AUDIOSET_MIRROR" not in os.environ, reason="AUDIOSET_MIRROR is not set")
def test_audioset_s_own_embeddings_pass():
    path = ROOT / "data/parquet/eval.parquet"
    if not path.is_file():
        pytest.skip("data/parquet/eval.parquet is not there")
    for batch in pq.ParquetFile(path).iter_batches(2048, columns=["audio_embedding"]):
        values = batch["audio_embedding"].to_pylist()
        clips = [np.frombuffer(of, np.uint8).reshape(-1, 128) for of in values]
        assert not any(check_embeddings(clips, "eval"))


def test_text_is_aligned_and_within_100_columns(here: Path, capsys):
    name = f"{'a very long name ' * 8}.wav"
    Path("long.flac").rename(name)
    assert run(["tag", name, "short.wav"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].endswith("by ears") and "…" in lines[0]
    rows = [line for line in lines if line.startswith("  ")]
    assert len(rows) == 10
    assert len({re.search(r"\d\.\d{3}", row).start() for row in rows}) == 1
    assert re.search("maximum|0:0", rows[0]) and not re.search("maximum", rows[-1])


def test_csv_has_rows_of_the_whole_and_of_windows(here: Path, capsys):
    assert run(["tag", "long.flac", "short.wav", "--csv", "--top", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    of_long = [row for row in rows if row["file"] == "long.flac"]
    assert [row["window"] for row in of_long] == ["", "", "1", "1", "2", "2", "3", "3", "4", "4"]
    assert len(rows) == 12
    assert rows[0]["label"].startswith("label") and rows[0]["confident"] == ""


def test_labels_are_sure_from_their_threshold_on(here: Path, capsys):
    limits = {
        f"label {k}, a name": {"threshold": t, "recall": 0.5} for k, t in ((0, 0.0), (1, 1.0))
    }
    path = sound_model(here / "judged.safetensors", limits)
    (entry,) = answers(capsys, "long.flac", "--model", str(path), "--top", "all")[1]
    for of in (entry, *entry["windows"]):
        sure = {label["label"][:7]: label["confident"] for label in of["labels"]}
        assert [sure[f"label {k}"] for k in range(3)] == [True, False, None]


def test_a_label_of_one_window_is_sure_for_the_whole(here: Path):
    path = sound_model(here / "judged.safetensors", {"label 0, a name": {"threshold": 0.6}})
    tagger = Tagger(path)
    p = np.full((3, 6), 0.1, np.float32)
    p[1, 0] = 0.7
    prediction = Prediction(30.0, [0, 10, 20], [10, 20, 30], p)
    assert tagger.top_labels(prediction, 1) == [
        {"label": "label 0, a name", "probability": 0.3, "confident": True}
    ]
    assert label_times(tagger, prediction, "label 0, a name", 60) == "0:10-0:20"
    assert label_times(tagger, prediction, "label 1, a name", 60) == "maximum 0.10 at 0:00"
    p[[0, 2], 0] = 0.8
    assert label_times(tagger, prediction, "label 0, a name", 60) == "0:00-0:30"


def test_the_report_is_one_page_without_a_network(here: Path):
    name = "a & <b>.flac"
    Path("long.flac").rename(name)
    arguments = ["tag", name, "clips.tfrecord", "--report", "pages/out.html"]
    assert run(arguments) == 0
    page = Path("pages/out.html").read_text()
    assert "a &amp; &lt;b&gt;.flac" in page and "<b>.flac" not in page
    assert 'src="../a%20%26%20%3Cb%3E.flac"' in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//|@import|url\(""", page)
    assert "data:image/png;base64," in page
    assert "no confidence thresholds" in " ".join(page.split())
    assert page.count('class="track" viewBox') >= 1
    assert "clip0000002" in page


def test_the_report_shows_only_sure_labels_where_there_are_thresholds(here: Path):
    limits = {f"label {k}, a name": {"threshold": t} for k, t in ((0, 0.0), (1, 1.0))}
    path = sound_model(here / "judged.safetensors", limits)
    run(["tag", "long.flac", "--model", str(path), "--report", "out.html"])
    page = Path("out.html").read_text()
    rows = re.findall('<span class="name">(.*?)</span>', page)
    assert rows == ["label 0, a name"]
    assert "no confidence thresholds" not in " ".join(page.split())


def test_a_picture_of_a_recording_of_any_length_has_some_hundred_columns():
    piece = noise(5)
    for pieces, columns in ((2, 500), (11, 1375), (22, 1375)):
        picture = SpectrogramImage(RATE)
        for _ in picture.watch(piece for _ in range(pieces)):
            pass
        png = picture.png()
        width = int.from_bytes(png[16:20], "big")
        assert png.startswith(b"\x89PNG") and abs(width - columns) <= 1


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (".", ": . must be a file, got a folder"),
        ("short.wav/x.html", "cannot be created, .*/short.wav must be a folder with write permission"),
        ("short.wav", ": short.wav exists and is not an HTML page, .* choose a new name"),
        ("clips.tfrecord", ": clips.tfrecord exists and is not an HTML page"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_first(
    here: Path, capsys, page: str, sentence: str
):
    before = Path("short.wav").read_bytes()
    with pytest.raises(UserError, match=f"^--report.*{sentence}"):
        run(["tag", "short.wav", "--report", page])
    assert capsys.readouterr().out == ""
    assert Path("short.wav").read_bytes() == before


def test_a_report_replaces_an_earlier_one(here: Path):
    for _ in range(2):
        assert run(["tag", "short.wav", "--report", "out.html"]) == 0


def test_a_full_disk_is_told_with_the_report_s_name(here: Path, monkeypatch):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: 'out\.html'"):
        run(["tag", "short.wav", "--report", "out.html"])
    assert not Path("out.html").exists() and not Path("out.html.partial").exists()


def test_ctrl_c_ends_work_that_is_under_way(here: Path, monkeypatch):
    """Raised where answers are printed, while other files are being heard."""
    soundfile.write("hour.wav", np.tile(noise(60), 60), RATE)
    heard = []
    real = Tagger.predict

    def predict(self, pieces, *arguments):
        found = real(self, pieces, *arguments)
        heard.append(found.duration)
        return found

    monkeypatch.setattr(Tagger, "predict", predict)
    monkeypatch.setenv("TAGGING_WORKERS", "2")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tagging.commands.tag_formats._print", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["tag", "short.wav", "hour.wav", "--window", "0.1"])
    assert 3600.0 not in heard


@pytest.mark.parametrize("command", [[], ["tag"], ["search"], ["export"], ["check-vggish"]])
def test_help_is_there_without_pytorch(command: list[str]):
    code = (
        "import sys; from tagging.commands.main import run\n"
        "try: run([*sys.argv[1:], '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "usage: tagging" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    if command == ["tag"]:
        words = ("is confident where", "in any window", "have no thresholds", "true or false; null")
        assert all(word in done.stdout for word in words)


def test_the_command_ends_with_its_status(here: Path):
    command = [sys.executable, "-m", "tagging.commands.main", "tag", "gone.wav"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: gone.wav does not exist")


def esc_clips(names: list[str]) -> list[str]:
    (archive,) = Path(MIRROR, "github.com/karoldvl/ESC-10/archive").glob("*.zip")
    with zipfile.ZipFile(archive) as clips:
        for name in names:
            (member,) = [member for member in clips.namelist() if member.endswith(name)]
            Path(Path(name).name).write_bytes(clips.read(member))
    return [Path(name).name for name in names]


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
@pytest.mark.parametrize(
    ("name", "theirs"), [("mn04_as", "mn04_as"), ("musicnn_mtt", "MTT_musicnn")]
)
def test_published_weights_answer_as_the_reference(
    name: str, theirs: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = json.loads(Path(MIRROR, "../pretrained/expected.json").read_text())[theirs]
    names = [clip for clip in expected if clip.endswith(".ogg")]
    status, found, _ = answers(capsys, *esc_clips(names), "--model", name, "--top", "all")
    assert (status, len(found)) == (0, 3)
    assert (tmp_path / f"tagging/{name}.safetensors").is_file()
    labels = Tagger(models.find_model(name)).classes
    for entry, clip in zip(found, names, strict=True):
        probability = {of["label"]: of["probability"] for of in entry["labels"]}
        reference = expected[clip]
        if "logits" in reference:
            answer = torch.tensor(reference["logits"]).sigmoid().tolist()
        else:
            answer = reference["mean_probabilities"]
            assert len(entry["windows"]) == reference["windows"]
        assert [probability[label] for label in labels] == pytest.approx(answer, abs=1e-4)
