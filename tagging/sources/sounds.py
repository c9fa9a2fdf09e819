"""A generated sample of recordings, to try the pipeline without real ones: a zip archive.

Five classes of 20 clips each, one to two seconds at 16 kHz, mono, with five folds in `clips.csv`.
Groups are ten instruments of each class with two clips each, which have the same pitch and the same
fading. Background noise differs from clip to clip.

All arithmetic is on integers, random numbers come from SHAKE-256, and the archive is stored, not
compressed, so that the bytes are the same on every machine.
"""

import csv
import hashlib
import io
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tagging.base.files import atomic_write

RATE = 16_000  # Hz
FOLDS = 5
INSTRUMENTS = 10  # of each class
CLIPS = 2  # of each instrument
SEED = "sounds 1"
FULL = 1 << 12  # the amplitude of each sound before its level

_TURN = 1 << 12  # steps of the sine table
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip archive


class Recipe(NamedTuple):
    """The random numbers of a clip's instrument and its own, and the times of its samples."""

    instrument: "RandomSource"
    own: "RandomSource"
    times: np.ndarray  # int64 (samples,), 0, 1, ..


class RandomSource:
    """Random numbers from SHAKE-256 of a name, the same on every machine."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._drawn = 0

    def below(self, high: int) -> int:
        """Return an integer from 0 to below `high`, which is at most 2^32."""
        return int.from_bytes(self._bytes(8), "little") % high

    def noise(self, samples: int) -> np.ndarray:
        """Return white noise: int64 (samples,), from -FULL to below FULL."""
        return np.frombuffer(self._bytes(2 * samples), "<i2").astype(np.int64) * FULL >> 15

    def _bytes(self, number: int) -> bytes:
        self._drawn += 1
        name = f"{SEED}/{self._name}/{self._drawn}"
        return hashlib.shake_256(name.encode()).digest(number)


def _sine_table() -> np.ndarray:
    """Return one period of a sine by Bhaskara's approximation, within 0.2%: int64 (_TURN,)."""
    half = _TURN // 2
    step = np.arange(half, dtype=np.int64)
    product = step * (half - step)
    positive = 16 * product * FULL // (5 * half * half - 4 * product)
    return np.concatenate([positive, -positive])


_SINE = _sine_table()


def _wave(frequency: np.ndarray | int, times: np.ndarray) -> np.ndarray:
    """Return a sine of one frequency in Hz, or of one for each sample: int64 (samples,)."""
    hertz = np.broadcast_to(np.asarray(frequency, np.int64), times.shape)
    phase = np.cumsum(hertz) - hertz
    return _SINE[phase * _TURN // RATE % _TURN]


def _tone(recipe: Recipe) -> np.ndarray:
    pitch = 220 + recipe.instrument.below(660)
    overtone = recipe.instrument.below(8)  # in eighths
    return (_wave(pitch, recipe.times) + _wave(2 * pitch, recipe.times) * overtone // 8) // 2


def _sweep(recipe: Recipe) -> np.ndarray:
    low = 200 + recipe.instrument.below(400)
    high = low * (3 + recipe.instrument.below(4))
    hertz = low + (high - low) * recipe.times // recipe.times.size
    return _wave(hertz if recipe.instrument.below(2) else hertz[::-1], recipe.times)


def _burst(recipe: Recipe) -> np.ndarray:
    period = RATE // (2 + recipe.instrument.below(5))
    loud = recipe.times % period < period * (2 + recipe.instrument.below(4)) // 8
    return recipe.own.noise(recipe.times.size) * loud


def _clicks(recipe: Recipe) -> np.ndarray:
    period = RATE // (6 + recipe.instrument.below(12))
    since = recipe.times % period
    decay = 1 << 4 + recipe.instrument.below(3)  # samples to half
    return np.where(since % 4 < 2, FULL, -FULL) >> np.minimum(since // decay, 20)


def _chord(recipe: Recipe) -> np.ndarray:
    root = 200 + recipe.instrument.below(300)
    # A major or a minor triad, in just intonation.
    parts = (20, 25, 30) if recipe.instrument.below(2) else (20, 24, 30)
    waves = [_wave(root * part // 20, recipe.times) for part in parts]
    return np.sum(waves, axis=0) // 3


CLASSES: dict[str, Callable[[Recipe], np.ndarray]] = {
    "chord": _chord, "clicks": _clicks, "noise burst": _burst, "sweep": _sweep, "tone": _tone,
}  # fmt: skip


def _clip(label: str, instrument: int, take: int) -> bytes:
    """Return a clip as a WAV file of 16 bits."""
    own = RandomSource(f"{label}/{instrument}/{take}")
    samples = RATE + own.below(RATE + 1)
    recipe = Recipe(RandomSource(f"{label}/{instrument}"), own, np.arange(samples, dtype=np.int64))
    sound = CLASSES[label](recipe)
    fade = RATE // (20 + recipe.instrument.below(80))  # samples, at both ends
    edge = np.minimum(np.minimum(recipe.times, samples - 1 - recipe.times), fade)
    level = 8 + own.below(25)  # the sound's and the noise's, in eighths of FULL
    background = own.below(5)
    mixed = sound * edge // fade * level + own.noise(samples) * background
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((mixed // 8).clip(-32768, 32767).astype(np.int16).tobytes())
    return out.getvalue()


def sample_files() -> dict[str, bytes]:
    """Return the folder's files by their names in it: `clips.csv` and `audio/<clip>.wav`."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "labels", "group", "fold"])
    sounds = {}
    for label in CLASSES:
        for instrument in range(INSTRUMENTS):
            for take in range(CLIPS):
                group = f"{label.replace(' ', '_')}_{instrument}"
                file = f"audio/{group}_{take}.wav"
                writer.writerow([file, label, group, instrument % FOLDS + 1])
                sounds[file] = _clip(label, instrument, take)
    return {"clips.csv": table.getvalue().encode()} | sounds


def write_sounds(path: Path) -> None:
    """Write the sample as a zip archive, atomically."""
    with atomic_write(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, content in sample_files().items():
            member = zipfile.ZipInfo(name, _TIME)
            member.create_system = 3  # Unix, on every system
            member.external_attr = 0o644 << 16
            archive.writestr(member, content)
