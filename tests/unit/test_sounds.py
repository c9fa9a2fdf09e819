"""The generated sample of recordings: the same bytes everywhere, and sounds that differ."""

import hashlib
import io
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tagging.sources import sounds
from tagging.sources.folder import Source

SHA256 = "6687388d00bddb0fbe0a218187369e92880fc2f1ceb3f2cc883e11297e09c3cc"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sounds.zip"
    sounds.write_sounds(path)
    return path


def read(content: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)


def test_its_bytes_are_pinned(sample: Path) -> None:
    assert hashlib.sha256(sample.read_bytes()).hexdigest() == SHA256


def test_it_has_classes_folds_and_groups(sample: Path) -> None:
    recordings = Source(sample).recordings()
    assert Counter(recording.labels for recording in recordings) == {
        (label,): 20 for label in ("chord", "clicks", "noise burst", "sweep", "tone")
    }
    both = Counter((recording.labels, recording.fold) for recording in recordings)
    assert len(both) == 25
    assert set(both.values()) == {4}
    assert set(Counter(recording.group for recording in recordings).values()) == {2}


def test_clips_last_one_to_two_seconds_and_are_not_clipped(sample: Path) -> None:
    source = Source(sample)
    clips = [read(content) for _, content in source.contents(source.recordings())]
    lengths = {len(clip) for clip in clips}
    assert len(lengths) > 90
    assert 16_000 <= min(lengths) <= max(lengths) <= 32_000
    assert all(1000 < np.abs(clip).max() < 32_767 for clip in clips)
    assert len({clip[:16_000].tobytes() for clip in clips}) == 100


def test_the_sine_is_accurate() -> None:
    turn = 2 * np.pi * np.arange(len(sounds._SINE)) / len(sounds._SINE)
    assert np.abs(sounds._SINE / sounds.FULL - np.sin(turn)).max() < 0.002


def test_instruments_keep_their_pitch(sample: Path) -> None:
    source = Source(sample)
    tones = [recording for recording in source.recordings() if recording.labels == ("tone",)]
    pitch: dict[str, list[float]] = {}
    for position, content in source.contents(tones):
        spectrum = np.abs(np.fft.rfft(read(content)[:16_000]))  # bins of 1 Hz
        pitch.setdefault(tones[position].group, []).append(float(spectrum.argmax()))
    assert all(220 <= one < 880 and one == other for one, other in pitch.values())
    assert len({one for one, _ in pitch.values()}) == 10
