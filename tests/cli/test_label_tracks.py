"""Events, label tracks and calibrated answers of `tagging tag`."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.special import expit, logit

from tagging.base.errors import UserError
from tagging.commands.frontends import build_frontend
from tagging.commands.main import run
from tagging.commands.prediction import Prediction, format_time
from tagging.commands.tagger import Tagger
from tagging.commands.track_files import Event, read_audacity, read_raven
from tagging.data.classes import Class
from tagging.data.spec import InputSpec
from tagging.learning.calibration import Calibration
from tagging.learning.inference import calibrate
from tagging.learning.model import Model, ModelSpec
from tagging.learning.model_file import save_network
from tagging.learning.thresholds import Confidence, Threshold

RATE, HOP = 8000, 0.5
TONES = {"low": 500.0, "high": 2000.0}  # Hz
MEL = {"name": "log_mel", "sample_rate": RATE, "window": 256, "hop": 128, "bins": 16, "floor": 1e-6}
# Sounds at stated times, which overlap: their windows are not those of the timeline.
SOUNDS = [("low", 2.0, 5.3), ("high", 4.1, 6.85), ("low", 8.6, 11.4)]


def recording(seconds: float = 13.2) -> np.ndarray:
    """Return silence with the tones of `SOUNDS`."""
    times = np.arange(round(seconds * RATE)) / RATE
    waveform = np.zeros(len(times))
    for label, start, end in SOUNDS:
        within = (times >= start) & (times < end)
        waveform += within * 0.3 * np.sin(2 * np.pi * TONES[label] * times)
    return waveform.astype(np.float32)


def detector(path: Path, confidence: Confidence | None = None) -> Path:
    """Save a network that is at 0.5 where a tone fills half of a window.

    The mean over frames of the log power in the tone's band grows linearly with the time it fills.
    """
    frontend = build_frontend(MEL, path)
    times = np.arange(RATE) / RATE
    tones = [torch.from_numpy(np.sin(2 * np.pi * f * times) * 0.3).float() for f in TONES.values()]
    silence, *heard = (frontend(x[None])[0, 0].mean(0) for x in (torch.zeros(RATE), *tones))
    weight = torch.zeros(len(TONES), MEL["bins"])
    bias = torch.zeros(len(TONES))
    for row, tone in enumerate(heard):
        band = int((tone - silence).argmax())
        span = float(tone[band] - silence[band])
        weight[row, band] = 20 / span
        bias[row] = -20 * (float(silence[band]) / span + 0.5)
    weights = {
        "standardize.running_mean": torch.zeros(MEL["bins"]),
        "standardize.running_var": torch.ones(MEL["bins"]),
        "standardize.num_batches_tracked": torch.tensor(1),
        "classify.weight": weight,
        "classify.bias": bias,
    }
    spec = InputSpec(1, 1 + RATE // MEL["hop"], MEL["bins"])
    classes = [Class(f"/m/{k}", name) for k, name in enumerate(TONES)]
    model = Model(architecture="linear")
    model_spec = ModelSpec(spec, classes, "sigmoid", MEL)
    save_network(path, weights, model, model_spec, confidence=confidence)
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a recording of known sounds and the network that detects them."""
    monkeypatch.chdir(tmp_path)
    detector(tmp_path / "detector.safetensors")
    soundfile.write("known sounds.wav", recording(), RATE, "FLOAT")
    return tmp_path


def run_tag(*arguments: str) -> int:
    return run(["tag", *arguments, "--model", "detector.safetensors"])


def check_times(events: list[Event], tolerance: float) -> None:
    """Compare the events that `tagging new` reads with the sounds of the recording."""
    assert [event.labels for event in events] == [(label,) for label, *_ in SOUNDS]
    for event, (_, start, end) in zip(events, SOUNDS, strict=True):
        assert abs(event.start - start) < tolerance + 1e-6
        assert abs(event.end - end) < tolerance + 1e-6


def test_events_begin_and_end_within_half_a_hop_of_the_sounds(workspace: Path, capsys):
    assert run_tag("known sounds.wav", "--format", "audacity") == 0
    assert capsys.readouterr().out == "known sounds.txt: 3 events\n"
    check_times(read_audacity(Path("known sounds.txt")), HOP / 2)


@pytest.mark.parametrize(("window", "hop"), [(2.0, 0.25), (1.0, 1.0), (0.5, 0.1)])
def test_windows_and_hops_of_any_length_give_the_times(workspace: Path, window: float, hop: float):
    given = ("--window", str(window), "--hop", str(hop))
    assert run_tag("known sounds.wav", "--format", "audacity", *given) == 0
    check_times(read_audacity(Path("known sounds.txt")), hop / 2)


def test_raven_s_selection_table_has_the_events(workspace: Path):
    assert run_tag("known sounds.wav", "--format", "raven", "--out", "tables") == 0
    path = Path("tables/known sounds.selections.txt")
    check_times(read_raven(path, None), HOP / 2)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["Selection"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        assert (row["View"], row["Channel"]) == ("Spectrogram 1", "1")
        assert (float(row["Low Freq (Hz)"]), float(row["High Freq (Hz)"])) == (0, RATE / 2)
        assert 0.5 <= float(row["Score"]) <= 1


def test_events_without_thresholds_are_those_above_a_half_and_join(workspace: Path):
    tagger = Tagger(workspace / "detector.safetensors")
    p = np.array([[0.6, 0], [0.5, 0.49], [0.1, 0], [0.9, 0.7]], np.float32)
    starts = [0.0, 0.5, 1.0, 1.2]  # the last window ends with the recording
    prediction = Prediction(2.2, starts, [start + 1 for start in starts], p, p.mean(0))
    assert prediction.edges.tolist() == pytest.approx([0, 0.75, 1.25, 1.6, 2.2])
    found = [
        (*event[:2], event.label, event.probability) for event in tagger.find_events(prediction)
    ]
    assert found == [
        (0, 1.25, "low", pytest.approx(0.6)),
        (pytest.approx(1.6), 2.2, "low", pytest.approx(0.9)),
        (pytest.approx(1.6), 2.2, "high", pytest.approx(0.7)),
    ]


def test_tracks_lie_below_a_folder_as_their_recordings_do(workspace: Path):
    for name in ("all/a/x.wav", "all/b/x.wav", "all/y.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(name, recording(3), RATE)
    assert run_tag("all", "--format", "audacity", "--out", "tracks") == 0
    names = sorted(path.relative_to("tracks").as_posix() for path in Path("tracks").rglob("*.txt"))
    assert names == ["a/x.txt", "b/x.txt", "y.txt"]
    assert not list(Path("all").rglob("*.txt"))


def test_a_track_replaces_no_file_and_is_of_one_recording(workspace: Path, capsys):
    Path("known sounds.txt").write_text("1.0\t2.0\tmine\n")
    soundfile.write("a.wav", recording(3), RATE)
    soundfile.write("a.flac", recording(3), RATE)
    assert run_tag("known sounds.wav", "a.wav", "a.flac", "--format", "audacity") == 1
    streams = capsys.readouterr()
    assert streams.out == "a.txt: 1 event\n"
    assert streams.err == (
        "error: known sounds.wav: its label track known sounds.txt exists; remove it, or choose "
        "another folder with --out\n"
        "error: a.flac: its label track a.txt is that of a.wav as well; rename one\n"
    )
    assert Path("known sounds.txt").read_text() == "1.0\t2.0\tmine\n"


def test_a_silent_recording_has_an_empty_track(workspace: Path):
    soundfile.write("silence.wav", np.zeros(4 * RATE), RATE)
    assert run_tag("silence.wav", "--format", "audacity") == 0
    assert Path("silence.txt").read_bytes() == b""


def test_records_have_no_track_and_out_needs_one(workspace: Path, capsys):
    from tagging.sources.audioset.records import Clip, write_clip

    Path("clips.tfrecord").write_bytes(write_clip(Clip("clip0000000", 0.0, 10.0, [0], bytes(1280))))
    assert run(["tag", "clips.tfrecord", "--format", "raven"]) == 1
    assert "must be a recording to have a label track" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"^--out must come with --format audacity or raven"):
        run_tag("known sounds.wav", "--out", "tracks")
    Path("file").touch()
    with pytest.raises(UserError, match=r"^--out: .* must be a folder with write permission"):
        run_tag("known sounds.wav", "--format", "raven", "--out", "file")


def test_formats_have_two_spellings(workspace: Path, capsys):
    outputs = []
    for words in (["--format", "json"], ["--json"], ["--format", "csv"], ["--csv"]):
        assert run_tag("known sounds.wav", *words) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2] == outputs[3]


def test_the_report_s_timeline_shows_the_sounds_beside_the_whole(workspace: Path, capsys):
    assert run_tag("known sounds.wav", "--report", "out.html") == 0
    printed = capsys.readouterr().out
    page = Path("out.html").read_text()
    text = " ".join(page.split())
    assert "timeline: 26 windows of 1 s every 0.5 s" in text  # the last ends with the recording
    assert "low" in printed
    (row,) = [part for part in text.split("<tr>") if part.startswith("<td>low<")]
    times = row.rpartition("<td>")[2].partition("<")[0].split(", ")
    low = [sound[1:] for sound in SOUNDS if sound[0] == "low"]
    assert len(times) == len(low)
    for span, true in zip(times, low, strict=True):
        for shown, time in zip(span.split("-"), true, strict=True):
            minutes, seconds = shown.split(":")
            assert abs(60 * int(minutes) + float(seconds) - time) <= HOP / 2 + 0.05


def test_times_are_rounded_to_tenths() -> None:
    assert [format_time(time, tenths=True) for time in (0, 0.75, 59.96, 3725.25)] == [
        "0:00.0", "0:00.8", "1:00.0", "1:02:05.3",
    ]  # fmt: skip


# Calibrated answers


def decided(recordings: bool) -> Confidence:
    """Return calibration and thresholds: of windows, and maybe of recordings."""
    thresholds = [Threshold(9, 0.7, 0.9, 0.5), Threshold(2)]
    of_recordings = Confidence(
        0.8, [Threshold(9, 0.3, 0.9, 0.5), Threshold(9, 0.99, 0.9, 0.5)],
        Calibration(0.5, [0.25, -0.5]),
    )  # fmt: skip
    calibration = Calibration(0.8, [-0.5, 1.0])
    return Confidence(0.8, thresholds, calibration, of_recordings if recordings else None)


def raw_probabilities(workspace: Path) -> np.ndarray:
    """Return the uncalibrated probabilities of the recording's windows."""
    detector(workspace / "raw.safetensors")
    return Tagger(workspace / "raw.safetensors").predict([recording()]).probabilities


def test_windows_and_recordings_are_calibrated_on_their_own(workspace: Path):
    raw = raw_probabilities(workspace).astype(np.float64)
    tagger = Tagger(detector(workspace / "decided.safetensors", decided(recordings=True)))
    prediction = tagger.predict([recording()])
    calibrated = expit(0.8 * logit(raw) + [-0.5, 1.0])
    np.testing.assert_allclose(prediction.probabilities, calibrated, atol=1e-4)
    whole = expit(0.5 * logit(raw.mean(axis=0)) + [0.25, -0.5])
    np.testing.assert_allclose(prediction.whole, whole, atol=1e-4)
    result = tagger(recording(), RATE)
    confident = {label["label"]: label["confident"] for label in result["labels"]}
    assert confident == {"low": bool(whole[0] >= 0.3), "high": False}
    for window, row in zip(result["windows"], calibrated, strict=True):
        confident = {label["label"]: label["confident"] for label in window["labels"]}
        assert confident == {"low": bool(row[0] >= 0.7), "high": None}


def test_thresholds_of_single_clips_say_nothing_of_longer_recordings(workspace: Path):
    tagger = Tagger(detector(workspace / "decided.safetensors", decided(recordings=False)))
    prediction = tagger.predict([recording()])
    assert np.array_equal(prediction.whole, prediction.probabilities.mean(axis=0))
    assert {label["confident"] for label in tagger.top_labels(prediction, None)} == {None}
    (label, _) = tagger(recording()[2 * RATE : 3 * RATE], RATE)["labels"]
    assert (label["label"], label["confident"]) == ("low", True)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_the_command_s_probabilities_are_those_of_the_evaluation(activation: str):
    """One is computed from a network's outputs, the other from its scores."""
    from tagging.commands.tagger import to_probabilities
    from tagging.learning.inference import log_odds

    outputs = 4 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    if activation == "none":
        outputs = outputs.sigmoid()
    offsets = None if activation == "softmax" else [0.3, -1, 0, 2, -0.2, 0.1]
    calibration = Calibration(0.6, offsets)
    by_command = to_probabilities(outputs, activation, calibration)
    by_evaluation = expit(calibrate(log_odds(outputs, activation), calibration))
    np.testing.assert_allclose(by_command.numpy(), by_evaluation, atol=2e-5)


def test_an_exported_model_returns_calibrated_probabilities(workspace: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = detector(workspace / "decided.safetensors", decided(recordings=False))
    assert run(["export", str(path), "--onnx", "decided.onnx"]) == 0
    session = onnxruntime.InferenceSession("decided.onnx", providers=["CPUExecutionProvider"])
    windows = recording()[: 13 * RATE].reshape(13, RATE)
    (probabilities,) = session.run(None, {"waveform": windows})
    expected = Tagger(path).predict([windows.ravel()]).probabilities
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_a_model_with_a_wrong_number_of_offsets_is_refused(workspace: Path):
    confidence = decided(recordings=False)._replace(calibration=Calibration(1, [0.0] * 3))
    path = detector(workspace / "wrong.safetensors", confidence)
    with pytest.raises(UserError, match=r"must be a trained network.*3 offsets of 2 classes"):
        Tagger(path)
