"""The command `tagging tag`, and `tagging.load`."""

import csv
import errno
import io
import json
import multiprocessing
import os
import platform
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
from tagging.commands.main import main, run
from tagging.commands.prediction import Prediction
from tagging.commands.tag_formats import label_times
from tagging.commands.tagger import Tagger, load_tagger
from tagging.commands.windows import Windows
from tagging.data.spec import InputSpec
from tagging.learning.model import Model, ModelSpec
from tagging.reports.spectrogram import SpectrogramImage
from tagging.sources.audioset.records import Clip, write_clip
from tests.archives import ROOT
from tests.commands import run_tag, track_with_dvc
from tests.recordings import encoded
from tests.small_models import RATE, classes, embedding, noise, save, sound_model, yac_model

MIRROR = os.environ.get("DOWNLOAD_MIRROR")


def clip(number: int, frames: int = 10) -> Clip:
    return Clip(f"clip{number:07}", 30.0, 40.0, [0], embedding(frames, number).tobytes())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with default models, a short and a long recording, and records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        models, "DEFAULT_SOUND_MODEL", str(sound_model(tmp_path / "ears.safetensors"))
    )
    monkeypatch.setattr(
        models, "DEFAULT_EMBEDDING_MODEL", yac_model(tmp_path / "records.safetensors")
    )
    soundfile.write("short.wav", noise(0.8), RATE, "FLOAT")
    soundfile.write("long.flac", noise(3.5, 1), RATE)
    Path("clips.tfrecord").write_bytes(b"".join(write_clip(clip(k)) for k in range(3)))
    return tmp_path


def test_each_file_is_tagged_by_the_default_of_its_kind(workspace: Path, capsys):
    status, results, stderr = run_tag(
        capsys, "short.wav", "clips.tfrecord", "long.flac", "--top", "2"
    )
    assert (status, stderr) == (0, "")
    assert [entry["file"] for entry in results] == [
        "short.wav",
        *["clips.tfrecord"] * 3,
        "long.flac",
    ]
    assert [entry["model"] for entry in results] == ["ears", *["records"] * 3, "ears"]
    assert results[1]["clip"] == "clip0000000"
    assert (results[1]["windows"][0]["start"], results[1]["windows"][0]["end"]) == (30.0, 40.0)
    for entry in results:
        assert list(entry)[-3:] == ["duration", "labels", "windows"]
        first, second = entry["labels"]
        assert first["probability"] >= second["probability"]
        assert first["confident"] is None


def test_printed_probabilities_are_the_network_s(workspace: Path, capsys):
    tagger = Tagger(workspace / "ears.safetensors")
    whole = noise(3.5, 1)
    soundfile.write("long.wav", whole, RATE, "FLOAT")
    (entry,) = run_tag(capsys, "long.wav", "--top", "all")[1]
    # Windows of a second, and a last one that ends with the recording.
    starts = [0, 1, 2, 2.5]
    assert [window["start"] for window in entry["windows"]] == starts
    cut = np.stack([whole[round(s * RATE) :][:RATE] for s in starts])
    with torch.inference_mode():
        expected = tagger.network(tagger.frontend(torch.from_numpy(cut))).sigmoid().numpy()
    sections = [*entry["windows"], entry]
    for section, row in zip(sections, [*expected, expected.mean(0)], strict=True):
        probabilities = {label["label"]: label["probability"] for label in section["labels"]}
        assert [probabilities[name] for name in tagger.classes] == pytest.approx(
            row.tolist(), abs=2e-6
        )


def test_python_and_the_command_return_equal_results(workspace: Path, capsys):
    (entry,) = run_tag(capsys, "short.wav", "--top", "all")[1]
    del entry["file"]
    ears = load_tagger(str(workspace / "ears.safetensors"))
    assert ears(noise(0.8), RATE) == entry
    stereo = np.stack([noise(0.8)] * 2, 1)
    assert ears(stereo, RATE)["labels"][0]["label"] == entry["labels"][0]["label"]
    assert ears(noise(1.6, rate=2 * RATE), 2 * RATE)["duration"] == 1.6
    records = load_tagger(str(workspace / "records.safetensors"))
    (first, *_) = run_tag(capsys, "clips.tfrecord", "--top", "all")[1]
    assert records(embedding())["labels"] == first["labels"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((np.zeros(0), RATE), "shape"),
        ((np.zeros((2, 3, 4)), RATE), "shape"),
        ((np.zeros(RATE),), "needs the waveform's sample rate, got None"),
        (
            (np.zeros((1, RATE)), RATE),
            r"shape \(samples,\) or \(samples, channels\), got \(1, 8000\)",
        ),
        ((np.zeros((2, RATE)), RATE), "shape"),
        ((np.full(RATE, np.nan), RATE), "must have finite samples, got NaN"),
        (
            (np.full(RATE, 30_000.0), RATE),
            r"floats in \[-1, 1\], got a peak of 30000; pass integers",
        ),
        ((np.full(RATE, "loud"), RATE), "must have floats or integers, got <U4"),
        ((np.zeros(RATE), 0), "sample rate must be a number from 1,000 to 1,000,000 Hz, got 0"),
        ((np.zeros(RATE), -5), "got -5"),
        ((np.zeros(RATE), "44100"), "got '44100'"),
        ((np.zeros(RATE), np.nan), "got nan"),
    ],
)
def test_invalid_waveforms_are_refused(workspace: Path, arguments: tuple, sentence: str):
    with pytest.raises(UserError, match=sentence):
        load_tagger(str(workspace / "ears.safetensors"))(*arguments)


def predict_in_fork(tagger: Tagger, connection) -> None:
    connection.send(tagger(noise(3.5), RATE))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork"
)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12
def test_a_loaded_model_predicts_in_forked_processes(workspace: Path):
    tagger = load_tagger(str(workspace / "ears.safetensors"))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = tagger(noise(3.5), RATE)  # starts the threads, which a fork does not have
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=predict_in_fork, args=(tagger, sender), daemon=True)
        child.start()
        try:
            assert receiver.poll(30)
            assert receiver.recv() == expected
        finally:
            child.kill()
            child.join()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32])
def test_integers_of_any_type_are_scaled_to_floats(workspace: Path, kind: type):
    ears = load_tagger(str(workspace / "ears.safetensors"))
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


def test_window_and_hop_are_options(workspace: Path, capsys):
    (entry,) = run_tag(capsys, "long.flac", "--window", "1.5", "--hop", "0.5")[1]
    assert [window["start"] for window in entry["windows"]] == [0, 0.5, 1, 1.5, 2]
    assert entry["windows"][0]["end"] == 1.5
    for window in ([], ["--window", "1"]):
        status, results, stderr = run_tag(capsys, "long.flac", *window, "--hop", "2")
        assert (status, results) == (1, [])
        assert stderr.startswith("error: --hop must be at most the window's 1 s")


def test_results_come_in_the_order_of_the_files(workspace: Path, capsys, monkeypatch):
    monkeypatch.setenv("TAGGING_WORKERS", "4")
    names = []
    for k in range(12):
        names.append(f"file{k:02}.wav")
        soundfile.write(names[-1], noise(4 if k % 3 == 0 else 0.3, k), RATE)
    parallel = run_tag(capsys, *names)[1]
    assert [entry["file"] for entry in parallel] == names
    monkeypatch.setenv("TAGGING_WORKERS", "1")
    for one, other in zip(run_tag(capsys, *names)[1], parallel, strict=True):
        assert one["labels"][0]["probability"] == pytest.approx(
            other["labels"][0]["probability"], abs=1e-5
        )


def test_short_recordings_share_batches(workspace: Path, capsys, monkeypatch):
    """Damaged and longer recordings between them change neither the results nor their order."""
    monkeypatch.setenv("TAGGING_WORKERS", "2")
    names = [f"file{k:02}.wav" for k in range(18)]
    for k, name in enumerate(names):
        soundfile.write(name, noise({4: 2.7, 9: 0.5}.get(k, 0.8), k), RATE)
    Path(names[6]).write_bytes(Path(names[6]).read_bytes()[:-1000])
    sizes = []
    real = Tagger._outputs

    def outputs(self, x, *arguments):
        sizes.append(len(x))
        return real(self, x, *arguments)

    monkeypatch.setattr(Tagger, "_outputs", outputs)
    status, results, stderr = run_tag(capsys, *names)
    assert status == 1
    assert stderr.startswith(f"error: {names.pop(6)} is truncated")
    assert [entry["file"] for entry in results] == names
    assert sum(sizes) == 19  # windows; those of a batch have one length
    assert len(sizes) <= 10
    for name, entry in zip(names, results, strict=True):
        _, [alone], _ = run_tag(capsys, name)
        assert len(alone["windows"]) == len(entry["windows"])
        for one, other in zip([alone, *alone["windows"]], [entry, *entry["windows"]], strict=True):
            expected = {label["label"]: label["probability"] for label in one["labels"]}
            actual = {label["label"]: label["probability"] for label in other["labels"]}
            assert actual == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_not_returned():
    """Without the call, each of the 18 rounds has some 1,000 page faults."""
    code = """
import resource
import threading
import torch
from tagging.commands.memory import keep_freed_memory

def allocate():
    for number in range(20):
        if number == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.zeros(5 << 20, dtype=torch.uint8) for _ in range(8)]
        del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

keep_freed_memory()
thread = threading.Thread(target=allocate)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500


def test_files_are_named_by_folders_patterns_and_lists(workspace: Path, capsys, monkeypatch):
    Path("more/.hidden").mkdir(parents=True)
    for name in ("more/b.wav", "more/.hidden/c.wav", "more/a.FLAC"):
        soundfile.write(name, noise(0.2), RATE, format="WAV")
    Path("more/notes.txt").write_text("no sound")
    monkeypatch.setattr(sys, "stdin", io.StringIO("short.wav\n\nmore/b.wav\n"))
    results = run_tag(capsys, "more", "*.wav", "-")[1]
    assert [entry["file"] for entry in results] == ["more/a.FLAC", "more/b.wav", "short.wav"]
    Path("empty").mkdir()
    assert find_input_files(["empty"])[1] == ["empty is a folder without recordings or records"]


def test_files_left_out_of_folders_are_counted_by_their_endings(workspace: Path, capsys):
    Path("all/.hidden").mkdir(parents=True)
    shutil.copy("short.wav", "all/a.WAV")
    for name in ("b.txt", "c.TXT", "d.jpg", "README", ".e.txt", ".hidden/f.txt"):
        Path("all", name).touch()
    note = "note: files left out because of their endings: 2 .txt, 1 .jpg, 1 without an ending\n"
    status, results, stderr = run_tag(capsys, "all", "all", "short.wav")
    assert (status, len(results), stderr) == (0, 2, note)
    # A file that is named is read whatever its ending.
    assert find_input_files(["all", "all/*"]).note == ""
    for letter in "ghijk":
        Path(f"all/{letter}.{letter}").touch()
    note = find_input_files(["all"]).note
    assert note.endswith(": 2 .txt, 1 .g, 1 .h, 1 .i, 1 .j, 3 with other endings")
    assert run(["search", "short.wav", "--corpus", "all", "--model", "ears.safetensors"]) == 0
    assert capsys.readouterr().err == f"note: {note}\n"


def test_folders_behind_links_are_read_once(workspace: Path):
    for name in ("all/b/c", "other/far"):
        Path(name).mkdir(parents=True)
    for name in ("all/b/c/x.wav", "other/far/y.wav"):
        shutil.copy("short.wav", name)
    Path("all/a").symlink_to("b")  # is listed with its own name
    Path("all/b/c/up").symlink_to("../..")
    Path("all/itself").symlink_to("itself")
    Path("all/out").symlink_to("../other")
    Path("other/far/back").symlink_to("../../all/b")
    Path("link").symlink_to("all")
    for folder in ("all", "link"):
        files, problems, _ = find_input_files([folder])
        names = [file.path.as_posix() for file in files]
        assert (names, problems) == ([f"{folder}/b/c/x.wav", f"{folder}/out/far/y.wav"], [])


def test_unreadable_folders_are_errors(workspace: Path, capsys, monkeypatch):
    Path("all/locked").mkdir(parents=True)
    Path("closed").mkdir()
    shutil.copy("short.wav", "all/a.wav")
    real = os.scandir

    def scandir(path: str):
        if str(path).endswith(("locked", "closed")):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    status, results, stderr = run_tag(capsys, "all", "closed")
    assert (status, len(results)) == (1, 1)
    assert stderr == (
        "error: all/locked cannot be read: Permission denied\n"
        "error: closed cannot be read: Permission denied\n"
    )


def test_a_pipe_in_a_folder_is_an_error(workspace: Path):
    Path("all").mkdir()
    os.mkfifo("all/a.wav")
    assert find_input_files(["all"])[1] == [
        "all/a.wav must be a file, which is read twice, got a pipe or device"
    ]


def run_main(monkeypatch, encoding: str, stdin: bytes, *arguments: str) -> tuple[int, bytes]:
    """Run the command with streams of an encoding; return its status and output."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding=encoding))
    monkeypatch.setattr(sys, "argv", ["tagging", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    stdout.flush()
    return ended.value.code, stdout.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("format_", ["text", "json", "csv"])
def test_names_that_are_not_utf_8_are_printed(
    workspace: Path, monkeypatch, encoding: str, format_: str
):
    latin, unicode = os.fsdecode(b"caf\xe9.wav"), "caf\u00e9\u266b\u2028.wav"
    try:
        shutil.copy("short.wav", latin)
    except OSError:
        pytest.skip("file names are Unicode here")
    shutil.copy("short.wav", unicode)
    options = [] if format_ == "text" else [f"--{format_}"]
    status, output = run_main(monkeypatch, encoding, b"", "tag", latin, unicode, *options)
    assert status == 0
    names = os.fsencode(f"{latin}\r\n{unicode}\n")
    assert run_main(monkeypatch, encoding, names, "tag", "-", *options) == (0, output)
    text = output.decode(encoding)
    if format_ == "json":
        assert [entry["file"] for entry in json.loads(text)] == [latin, unicode]
        return
    assert r"caf\udce9.wav" in text
    assert (unicode if encoding == "utf-8" else r"caf\xe9\u266b\u2028.wav") in text


def test_names_that_are_not_utf_8_are_in_reports(workspace: Path, monkeypatch):
    sound, records, table = (
        os.fsdecode(b"caf\xe9." + end) for end in (b"wav", b"tfrecord", b"parquet")
    )
    try:
        shutil.copy("short.wav", sound)
    except OSError:
        pytest.skip("file names are Unicode here")
    shutil.copy("clips.tfrecord", records)
    pq.write_table(pa.table({"audio_embedding": [embedding().tobytes()]}), "clips.parquet")
    Path("clips.parquet").rename(table)
    arguments = ("tag", sound, records, table, "--report", "out.html")
    assert run_main(monkeypatch, "utf-8", b"", *arguments)[0] == 0
    page = Path("out.html").read_text(encoding="utf-8")
    assert 'src="caf%E9.wav"' in page
    for end in ("wav", "tfrecord", "parquet"):
        assert rf"<h2>caf\udce9.{end}</h2>" in page


def test_long_names_of_reports(workspace: Path, capsys):
    name = f"{'é' * 125}.html"
    assert len(name.encode()) == 255
    for _ in range(2):
        assert run(["tag", "short.wav", "--report", name]) == 0
    assert Path(name).read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not [path for path in workspace.iterdir() if path.suffix in (".partial", ".mode")]
    capsys.readouterr()
    with pytest.raises(UserError, match=r"^--report: .* is too long .*; choose a shorter name$"):
        run(["tag", "short.wav", "--report", f"x{name}"])
    assert capsys.readouterr().out == ""


def test_channels_that_cancel_are_warned_of(workspace: Path, capsys):
    left = noise(2)
    soundfile.write("stereo.wav", np.stack([left, left / 2], axis=1), RATE)
    soundfile.write("opposite.wav", np.stack([left, -left], axis=1), RATE, subtype="FLOAT")
    soundfile.write("near.wav", np.stack([left, -0.99 * left], axis=1), RATE, subtype="FLOAT")
    status, results, stderr = run_tag(capsys, "stereo.wav", "opposite.wav", "near.wav")
    assert (status, len(results)) == (0, 3)
    warnings = (
        "warning: opposite.wav: the mean of its 2 channels is silent\n"
        "warning: near.wav: the mean of its 2 channels is 46 dB below channel 1\n"
    )
    assert stderr == warnings
    assert run(["tag", "--report", "a.html", "opposite.wav", "near.wav"]) == 0
    assert warnings in capsys.readouterr().err
    assert run(["search", "stereo.wav", "--corpus", "opposite.wav", "near.wav"]) == 0
    assert capsys.readouterr().err == warnings


def test_a_user_without_a_home_folder(workspace: Path, capsys, monkeypatch):
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert run_tag(capsys, "short.wav")[0] == 0
    assert models.path_in_project(workspace / "ears.safetensors") == workspace / "ears.safetensors"
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", "mn04_as")
    status, results, stderr = run_tag(capsys, "short.wav", "clips.tfrecord")
    assert (status, len(results)) == (1, 3)
    assert stderr == (
        "error: short.wav: its default model is not available: the folder of downloaded models is "
        "unknown, because this user has no home folder; set XDG_CACHE_HOME to a folder\n"
    )


def test_brackets_are_a_pattern_or_a_part_of_a_name(workspace: Path):
    Path("a [live]").mkdir()
    shutil.copy("short.wav", "a [live]/b.wav")
    for name in ("a [live]/*.wav", "a [live]/b.wav", "a [[]live]/*.wav", "* [[k-l]live]/b.wav"):
        assert [file.path for file in find_input_files([name])[0]] == [Path("a [live]/b.wav")], name


def test_missing_files_and_pipes_are_one_sentence(workspace: Path):
    os.mkfifo("pipe")
    for name, sentence in (("pipe", "must be a file"), ("a" * 300, "does not exist; use a file")):
        files, (problem,), _ = find_input_files([name])
        assert not files and problem.startswith(f"{name} {sentence}")


def test_an_empty_list_of_files_is_refused(workspace: Path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match=r"^no file is named; standard input must list files"):
        run(["tag", "-"])


@pytest.mark.parametrize("value", ["abc", "0", "nan"])
def test_an_invalid_duration_is_refused(workspace: Path, capsys, value: str):
    with pytest.raises(SystemExit):
        run(["tag", "short.wav", "--window", value])
    sentence = f"--window: must be seconds from 0.01 to 3600, got '{value}'"
    assert sentence in capsys.readouterr().err


def test_formats_are_detected_by_content(workspace: Path):
    Path("clips.tfrecord").rename("clips.wav")
    Path("short.wav").rename("short")
    files = find_input_files(["clips.wav", "short"])[0]
    assert [file.format for file in files] == ["tfrecord", "sound"]


def test_damaged_files_do_not_affect_others(workspace: Path, capsys):
    Path("text.wav").write_text("hello")
    Path("cut.tfrecord").write_bytes(Path("clips.tfrecord").read_bytes()[:-100])
    Path("none.parquet").write_bytes(b"PAR1 and no more")
    Path("nothing.mp3").touch()
    status, results, stderr = run_tag(
        capsys, "text.wav", "gone.wav", "cut.tfrecord", "none.parquet", "nothing.mp3", "short.wav"
    )
    assert status == 1
    # Two of three records are whole.
    assert [entry["file"] for entry in results] == ["cut.tfrecord", "cut.tfrecord", "short.wav"]
    lines = stderr.splitlines()
    assert len(lines) == 5
    for name in ("text.wav", "gone.wav", "cut.tfrecord", "none.parquet", "nothing.mp3"):
        (line,) = [line for line in lines if name in line]
        assert line.startswith(f"error: {name}")


def test_files_that_fail_while_they_are_read_do_not_affect_others(
    workspace: Path, capsys, monkeypatch
):
    shutil.copy("short.wav", "gone.wav")
    shutil.copy("short.wav", "bad.wav")
    real = tag.decode_blocks

    def blocks(path: Path, *arguments):
        if path.name == "bad.wav":
            raise OSError(errno.EIO, "Input/output error")
        yield from real(path, *arguments)

    def find_and_lose(names: list[str]):
        files = find_input_files(names)
        Path("gone.wav").unlink()
        return files

    monkeypatch.setattr(tag, "find_input_files", find_and_lose)
    monkeypatch.setattr(tag, "decode_blocks", blocks)
    status, results, stderr = run_tag(capsys, "gone.wav", "bad.wav", "clips.tfrecord", "short.wav")
    assert (status, len(results)) == (1, 4)
    assert stderr == (
        "error: gone.wav cannot be read: No such file or directory\n"
        "error: bad.wav cannot be read: Input/output error\n"
    )


@pytest.mark.parametrize("form", ["tfrecord", "parquet"])
def test_invalid_clips_do_not_affect_others(workspace: Path, capsys, form: str):
    embeddings = [embedding(10, k).tobytes() for k in range(600)]
    embeddings[300] = bytes(1280)
    if form == "tfrecord":
        clips = [
            Clip(f"clip{k:07}", 0.0, 10.0, [0], content) for k, content in enumerate(embeddings)
        ]
        Path("some.tfrecord").write_bytes(b"".join(map(write_clip, clips)))
        first, bad = "clip0000300: all numbers are 0", 1
    else:
        embeddings[200], bad = None, 3
        embeddings[210] = bytes(127)
        pq.write_table(pa.table({"audio_embedding": embeddings}), "some.parquet")
        first = "200: the embedding is empty"
    status, results, stderr = run_tag(capsys, f"some.{form}", "short.wav", "--top", "1")
    assert (status, len(results)) == (1, 601 - bad)
    start = f"error: some.{form}: {bad} of 600 clips are not valid and were skipped, first {first}"
    assert stderr.startswith(start) and stderr.count("\n") == 1


def test_a_cache_without_a_folder_does_not_affect_records(workspace: Path, capsys, monkeypatch):
    Path("cache").write_text("a file")
    monkeypatch.setattr(models, "DEFAULT_SOUND_MODEL", "mn04_as")
    status, results, stderr = run_tag(capsys, "short.wav", "clips.tfrecord")
    assert (status, len(results)) == (1, 3)
    assert "mn04_as.safetensors cannot be written to" in stderr
    assert "set XDG_CACHE_HOME to another folder" in stderr and stderr.count("\n") == 1


def test_a_model_of_other_inputs_is_refused(workspace: Path, capsys):
    status, results, stderr = run_tag(capsys, "short.wav", "--model", "records.safetensors")
    assert (status, results) == (1, [])
    assert stderr == (
        "error: short.wav: records reads AudioSet's embeddings (TFRecord or parquet), got a "
        "recording\n"
    )
    status, results, stderr = run_tag(capsys, "clips.tfrecord", "--model", "ears.safetensors")
    assert (status, results) == (1, [])
    assert stderr == "error: clips.tfrecord: ears reads recordings, got a file of records\n"


@pytest.mark.parametrize("name", ["gone", "gone.safetensors", "../gone/x", "text.wav"])
def test_a_missing_model_is_refused_before_any_work(workspace: Path, capsys, name: str):
    Path("text.wav").write_text("hello")
    with pytest.raises(UserError, match=r"does not exist|must be a trained network"):
        run(["tag", "short.wav", "--model", name])
    assert capsys.readouterr().out == ""


def damage(path: Path, how: str) -> None:
    """Damage a model's file."""
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
def test_a_damaged_model_is_refused_in_one_sentence(workspace: Path, how: str, kind: str):
    path = sound_model(workspace / "models/broken.safetensors")
    name = "models"
    if kind == "its embedding":
        about = {"name": "embedding", "weights": str(path), "output": "embedding", "classes": None}
        shape = ModelSpec(InputSpec(1, 1, 4), classes(2), "sigmoid", about)
        name = str(save(workspace / "probe.safetensors", Model(architecture="linear"), shape))
    damage(path, how)
    refusal = "( must be a trained network.* but is not: .*|' does not exist; use a file)"
    with pytest.raises(UserError, match=rf"broken\.safetensors{refusal}") as refused:
        run(["tag", "short.wav", "--model", name])
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_a_model_of_an_unknown_feature_is_refused(workspace: Path):
    path = save(
        workspace / "odd.safetensors",
        Model(architecture="linear"),
        ModelSpec(InputSpec(1, 1, 4), classes(2), "sigmoid", {"name": "smell"}),
    )
    with pytest.raises(UserError, match="'smell'"):
        run(["tag", "short.wav", "--model", str(path)])


def test_a_missing_default_model_does_not_affect_other_files(workspace: Path, capsys, monkeypatch):
    monkeypatch.setattr(models, "DEFAULT_EMBEDDING_MODEL", Path("gone.safetensors"))
    status, results, stderr = run_tag(capsys, "clips.tfrecord", "short.wav")
    assert (status, len(results)) == (1, 1)
    assert stderr.startswith("error: clips.tfrecord: its default model is not available")


def test_models_are_found_by_name_run_and_folder(workspace: Path):
    Path(".dvc").mkdir()
    for name in ("models/yac/seed1", "models/yac/seed0", "tasks/a/models/cnn/fold10-seed0",
                 "tasks/a/models/cnn/fold2-seed0", "tasks/a/models/twice/seed0",
                 "models/twice/seed0"):  # fmt: skip
        sound_model(Path(f"{name}.safetensors"))
    root = workspace.resolve()
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


def track_removed_model(path: str) -> bytes:
    """Track a model's file or folder that is not checked out; return the file's bytes."""
    model = sound_model(Path("models/kept/seed0.safetensors"))
    track_with_dvc(path)
    content = model.read_bytes()
    model.unlink()
    return content


DVC_NAMES = ("models/kept/seed0.safetensors", "models/kept/seed0", "models/kept", "kept")


@pytest.mark.parametrize("path", ["models/kept/seed0.safetensors", "models/kept"])
def test_a_model_that_is_not_checked_out_comes_from_dvc(workspace: Path, path: str):
    content = track_removed_model(path)
    for name in DVC_NAMES:
        path = models.find_model(name)
        assert path.read_bytes() == content
        assert models.display_name(path) == "kept/seed0"


def test_a_model_missing_in_dvc_s_cache_asks_for_dvc_pull(workspace: Path):
    track_removed_model("models/kept")
    shutil.rmtree(".dvc/cache")
    for name in DVC_NAMES:
        with pytest.raises(UserError, match=f"{name}.*; run dvc pull or dvc repro$"):
            models.find_model(name)


def test_clips_too_short_for_the_network_are_skipped(workspace: Path, capsys):
    records = [write_clip(clip(0)), write_clip(clip(1, 7)), write_clip(clip(2))]
    Path("clips.tfrecord").write_bytes(b"".join(records))
    status, results, stderr = run_tag(capsys, "clips.tfrecord")
    assert status == 1
    assert [entry["clip"] for entry in results] == ["clip0000000", "clip0000002"]
    assert stderr == (
        "error: clips.tfrecord: 1 of 3 clips were skipped, as records needs 10 frames or more\n"
    )


def test_predictions_do_not_depend_on_other_clips_of_a_batch(workspace: Path):
    network = {"hidden": 8, "layers": 1, "dropout": 0.1, "pooling": "decision"}
    path = save(
        workspace / "any.safetensors",
        Model(architecture="attention", network=network),
        ModelSpec(InputSpec(1, 10, 128, scale=1 / 256), classes(5), "sigmoid", {"name": "vggish"}),
    )
    tagger = Tagger(path)
    clips = [embedding(10, 0), embedding(4, 1), embedding(23, 2)]
    batch = tagger.predict_clips(clips, "a")
    assert batch[2].starts == [0, 10, 13]
    for alone, beside in zip(clips, batch, strict=True):
        (prediction,) = tagger.predict_clips([alone], "a")
        np.testing.assert_allclose(prediction.probabilities, beside.probabilities, atol=1e-6)


def test_parquet_of_bytes_and_of_numbers_is_read(workspace: Path, capsys):
    clips = [embedding(10, k) for k in range(3)]
    columns = {
        "bytes": [clip.tobytes() for clip in clips],
        "flat": [clip.ravel().tolist() for clip in clips],
        "frames": [clip.tolist() for clip in clips],
    }
    results = {}
    for name, column in columns.items():
        pq.write_table(pa.table({"audio_embedding": column}), f"{name}.parquet")
        status, entries, _ = run_tag(capsys, f"{name}.parquet")
        assert status == 0
        results[name] = [entry["labels"] for entry in entries]
    assert results["bytes"] == results["flat"] == results["frames"]
    pq.write_table(pa.table({"numbers": [1]}), "other.parquet")
    assert "must have the column audio_embedding" in run_tag(capsys, "other.parquet")[2]


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
    with pytest.raises(
        UserError, match=r"^clips: neighbouring frames .* not stored frame by frame"
    ):
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
        clips = [np.frombuffer(value, np.uint8).reshape(-1, 128) for value in values]
        assert not any(check_embeddings(clips, "eval"))


def test_text_is_aligned_and_within_100_columns(workspace: Path, capsys):
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


def test_csv_has_rows_of_the_whole_and_of_windows(workspace: Path, capsys):
    assert run(["tag", "long.flac", "short.wav", "--csv", "--top", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    of_long = [row for row in rows if row["file"] == "long.flac"]
    assert [row["window"] for row in of_long] == ["", "", "1", "1", "2", "2", "3", "3", "4", "4"]
    assert len(rows) == 12
    assert rows[0]["label"].startswith("label") and rows[0]["confident"] == ""


def test_labels_are_confident_from_their_threshold_on(workspace: Path, capsys):
    limits = {
        f"label {k}, a name": {"threshold": t, "recall": 0.5} for k, t in ((0, 0.0), (1, 1.0))
    }
    path = sound_model(workspace / "thresholds.safetensors", limits)
    (entry,) = run_tag(capsys, "long.flac", "--model", str(path), "--top", "all")[1]
    (short,) = run_tag(capsys, "short.wav", "--model", str(path), "--top", "all")[1]
    for section in (short, *entry["windows"]):
        confident = {label["label"][:7]: label["confident"] for label in section["labels"]}
        assert [confident[f"label {k}"] for k in range(3)] == [True, False, None]
    assert {label["confident"] for label in entry["labels"]} == {None}


def test_a_window_s_threshold_says_nothing_of_several_windows(workspace: Path):
    path = sound_model(
        workspace / "thresholds.safetensors", {"label 0, a name": {"threshold": 0.6}}
    )
    tagger = Tagger(path)
    p = np.full((3, 6), 0.1, np.float32)
    p[1, 0] = 0.7

    def predict() -> Prediction:
        return Prediction(30.0, [0, 10, 20], [10, 20, 30], p, p.mean(0))

    label = {"label": "label 0, a name", "probability": 0.3, "confident": None}
    assert tagger.top_labels(predict(), 1) == [label]
    assert tagger.as_json(predict(), 1)["windows"][1]["labels"] == [
        {**label, "probability": 0.7, "confident": True}
    ]
    assert label_times(tagger, predict(), "label 0, a name", 60) == "0:10-0:20"
    assert label_times(tagger, predict(), "label 1, a name", 60) == "maximum 0.10 at 0:00"
    p[[0, 2], 0] = 0.8
    assert label_times(tagger, predict(), "label 0, a name", 60) == "0:00-0:30"


def test_the_report_is_one_page_that_loads_nothing(workspace: Path):
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


def test_the_sound_of_videos_is_tagged_and_the_report_says_what_browsers_play(
    workspace: Path, capsys
):
    Path("videos").mkdir()
    for name, container in (("a.mkv", "matroska"), ("b.mp4", "mp4")):
        content = encoded(noise(2), RATE, container, "aac", video=True)
        Path("videos", name).write_bytes(content)
    status, results, stderr = run_tag(capsys, "videos")
    assert (status, len(results), stderr) == (0, 2, "")
    notes = "Browsers play WAV, MP3, FLAC, Ogg, Opus, AAC"
    for name, count in (("a.mkv", 1), ("b.mp4", 0)):
        assert run(["tag", f"videos/{name}", "--report", "out.html"]) == 0
        assert Path("out.html").read_text().count(notes) == count
    capsys.readouterr()
    Path("videos/a.mkv").write_bytes(Path("videos/a.mkv").read_bytes()[:-9000])
    status, results, stderr = run_tag(capsys, "videos")
    assert (status, len(results)) == (1, 1)
    assert "videos/a.mkv is truncated" in stderr


def test_the_report_says_what_a_threshold_promises_and_marks_events(workspace: Path):
    limits = {f"label {k}, a name": {"threshold": t} for k, t in ((0, 0.0), (1, 1.0))}
    path = sound_model(workspace / "thresholds.safetensors", limits)
    run(["tag", "long.flac", "--model", str(path), "--report", "out.html"])
    page = Path("out.html").read_text()
    tracks = dict(re.findall('<span class="name">(.*?)</span>(.*?)</svg>', page, re.DOTALL))
    assert tracks["label 0, a name"].count("<rect") == 6  # a window each half second
    assert tracks["label 0, a name"].count('<rect class="event"') == 6
    assert 'class="event"' not in tracks.get("label 1, a name", "")
    text = " ".join(page.split())
    assert "80% of all confident labels of clips of 1 s together are right" in text
    assert "nothing for windows of another length" in text
    assert "no confidence thresholds" not in text
    assert "0:03, 4 windows of 1 s, by thresholds; timeline: 6 windows of 1 s every 0.5 s" in text


def test_a_spectrogram_has_at_most_2400_columns():
    piece = noise(5)
    for pieces, columns in ((2, 500), (11, 1375), (22, 1375)):
        image = SpectrogramImage(RATE)
        for _ in image.watch(piece for _ in range(pieces)):
            pass
        png = image.png()
        width = int.from_bytes(png[16:20], "big")
        assert png.startswith(b"\x89PNG") and abs(width - columns) <= 1


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (".", ": . must be a file, got a folder"),
        (
            "short.wav/x.html",
            "cannot be created, .*/short.wav must be a folder with write permission",
        ),
        ("short.wav", ": short.wav exists and is not an HTML page, .* choose a new name"),
        ("clips.tfrecord", ": clips.tfrecord exists and is not an HTML page"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_any_work(
    workspace: Path, capsys, page: str, sentence: str
):
    before = Path("short.wav").read_bytes()
    with pytest.raises(UserError, match=f"^--report.*{sentence}"):
        run(["tag", "short.wav", "--report", page])
    assert capsys.readouterr().out == ""
    assert Path("short.wav").read_bytes() == before


def test_a_report_replaces_an_earlier_one(workspace: Path):
    for _ in range(2):
        assert run(["tag", "short.wav", "--report", "out.html"]) == 0


def test_an_error_of_a_full_disk_names_the_report(workspace: Path, monkeypatch):
    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: 'out\.html'"):
        run(["tag", "short.wav", "--report", "out.html"])
    assert not Path("out.html").exists() and not Path("out.html.partial").exists()


def test_ctrl_c_ends_work_under_way(workspace: Path, monkeypatch):
    """Raise it where results are printed, while other files are being tagged."""
    soundfile.write("hour.wav", np.tile(noise(60), 60), RATE)
    durations = []
    real = Tagger.predict_all

    def predict_all(self, recordings, *arguments):
        predictions = real(self, recordings, *arguments)
        durations.extend(prediction.duration for prediction in predictions)
        return predictions

    monkeypatch.setattr(Tagger, "predict_all", predict_all)
    monkeypatch.setenv("TAGGING_WORKERS", "2")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tagging.commands.tag_formats.print_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["tag", "short.wav", "hour.wav", "--window", "0.1"])
    assert 3600.0 not in durations


@pytest.mark.parametrize("command", [[], ["tag"], ["search"], ["export"], ["check-vggish"]])
def test_help_does_not_import_pytorch(command: list[str]):
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
        words = (
            "a label is confident where", "a single label near its threshold is right less often",
            "have no thresholds", "true or false; null", "audacity", "1 s every 0.5 s",
        )  # fmt: skip
        assert all(word in " ".join(done.stdout.split()) for word in words)


def test_the_exit_status_is_1_after_a_failure(workspace: Path):
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
def test_published_weights_predict_as_the_reference(
    name: str, theirs: str, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = json.loads(Path(MIRROR, "../pretrained/expected.json").read_text())[theirs]
    names = [clip for clip in expected if clip.endswith(".ogg")]
    status, results, _ = run_tag(capsys, *esc_clips(names), "--model", name, "--top", "all")
    assert (status, len(results)) == (0, 3)
    assert (tmp_path / f"tagging/{name}.safetensors").is_file()
    labels = Tagger(models.find_model(name)).classes
    for entry, clip in zip(results, names, strict=True):
        probability = {label["label"]: label["probability"] for label in entry["labels"]}
        reference = expected[clip]
        if "logits" in reference:
            answer = torch.tensor(reference["logits"]).sigmoid().tolist()
        else:
            answer = reference["mean_probabilities"]
            assert len(entry["windows"]) == reference["windows"]
        assert [probability[label] for label in labels] == pytest.approx(answer, abs=1e-4)
