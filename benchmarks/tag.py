"""`tagging tag` with mn04_as, EfficientAT's procedure, and ONNX Runtime.

On one core and one thread, on ESC-10's Ogg files of five seconds. Before anything is timed, the
probabilities of PyTorch and ONNX Runtime are compared.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import soundfile
import torch

from benchmarks.machine import on_cores
from benchmarks.peak import Usage, measure_command
from benchmarks.results import NotMeasured, Result, Target
from benchmarks.sound import read_esc10
from benchmarks.timing import interleave, measure_seconds, ratios, spread
from benchmarks.workers import ROOT
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.commands.export_onnx import export_onnx
from tagging.commands.tagger import BLOCK_SECONDS, Tagger
from tagging.features.decoding import decode, decode_blocks
from tagging.learning.published_models import fetch_published

ROUNDS = 5
WEIGHTS = "mn04_as"
SINGLE_FILES = 5  # that EfficientAT's procedure tags
HOURS, RATE = 3.0, 16_000  # of the long recording
TOLERANCE = 1e-4
MB = 1_000_000
OURS, PYTHON, ONNX, THEIRS = (
    "tagging tag, all files", "tagging.load, file by file", "ONNX Runtime, file by file",
    "EfficientAT's procedure, one process per file",
)  # fmt: skip
FIRST, LONG = "tagging tag, one file", "tagging tag, one long recording"


def command(*words: str) -> list[str]:
    """Return `python -m` with these words."""
    return [sys.executable, "-m", *words]


def run(words: list[str]) -> None:
    """Run a command and discard its output.

    Raises:
        UserError: if it fails.
    """
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(words)} failed: {done.stderr.strip()[-500:]}")


def onnx_function(path: Path, rate: int) -> Callable[[bytes], np.ndarray]:
    """Return a function from a recording to the probabilities of the exported file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(content: bytes) -> np.ndarray:
        waveform = decode(content, "a recording", rate)[None]
        return session.run(None, {"waveform": waveform})[0][0]

    return predict


def write_long_recording(path: Path, recordings: list[bytes], hours: float) -> None:
    """Write a recording of `hours` that repeats the recordings, one after the other."""
    once = np.concatenate([decode(content, "a recording", RATE) for content in recordings])
    remaining = round(hours * 3600 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while remaining > 0:
            file.write(once[:remaining])
            remaining -= len(once)


def measure_tagging(model: Path, *files: Path) -> Usage:
    """Return time and peak memory of one process that tags files."""
    words = command("tagging.commands.main", "tag", *map(str, files), "--model", str(model))
    return measure_command([*words, "--json"], ROOT, dict(os.environ))


def measure(
    rounds: int = ROUNDS, recordings: list[bytes] | None = None, hours: float = HOURS
) -> Result:
    """Time all implementations, interleaved, then the long recording once.

    Args:
        rounds: number of rounds.
        recordings: the content of files; None for those of ESC-10.
        hours: duration of the long recording.

    Raises:
        NotMeasured: if no mirror has the weights and ESC-10.
    """
    if not os.environ.get("DOWNLOAD_MIRROR"):
        raise NotMeasured(f"DOWNLOAD_MIRROR must be a folder with {WEIGHTS}, got none")
    recordings = recordings or read_esc10()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with on_cores(1), TemporaryDirectory() as name:
        folder = Path(name)
        model, onnx = fetch_published(WEIGHTS, folder, "none"), folder / "model.onnx"
        export_onnx(str(model), onnx)
        files = [folder / f"{number:03}.ogg" for number in range(len(recordings))]
        for file, content in zip(files, recordings, strict=True):
            file.write_bytes(content)
        duration = sum(soundfile.info(BytesIO(content)).duration for content in recordings)
        model_mb, onnx_mb = (file.stat().st_size / MB for file in (model, onnx))
        tagger = Tagger(model)
        predict_by_onnx = onnx_function(onnx, tagger.sample_rate)

        def predict_by_tagger(content: bytes) -> np.ndarray:
            pieces = decode_blocks(content, "a recording", tagger.sample_rate, BLOCK_SECONDS)
            return tagger.predict(pieces).whole

        difference = np.abs(predict_by_onnx(recordings[0]) - predict_by_tagger(recordings[0])).max()
        if difference > TOLERANCE:
            raise UserError(f"probabilities of ONNX Runtime and PyTorch differ by {difference:.2g}")

        def tag_singly() -> None:
            for file in files[:SINGLE_FILES]:
                run(command("benchmarks.taggers.efficientat", str(model), str(file)))

        usages: list[Usage] = []

        def tag_all() -> float:
            usages.append(measure_tagging(model, *files))
            return usages[-1].seconds

        single_files = min(SINGLE_FILES, len(files))
        implementations: dict[str, Callable[[], float]] = {
            OURS: tag_all,
            PYTHON: lambda: measure_seconds(
                lambda: deque(map(predict_by_tagger, recordings), maxlen=0)
            ),
            ONNX: lambda: measure_seconds(
                lambda: deque(map(predict_by_onnx, recordings), maxlen=0)
            ),
            THEIRS: lambda: measure_seconds(tag_singly) * len(files) / single_files,
            FIRST: lambda: measure_tagging(model, files[0]).seconds,
        }
        with Progress("tag", rounds * len(implementations) + 1, "run") as progress:
            seconds = interleave(implementations, rounds, progress)
            long = folder / "long.flac"
            write_long_recording(long, recordings, hours)
            long_usage = measure_tagging(model, long)
            progress.advance()
    torch.set_num_threads(threads)
    durations = {FIRST: duration / len(files)}
    peak_bytes = max(usage.peak_bytes for usage in usages)
    rows = [
        {
            "implementation": name,
            "audio, s": durations.get(name, duration),
            "seconds": spread(times),
            "times real time": durations.get(name, duration) / spread(times).median,
            "peak memory, MB": peak_bytes / MB if name == OURS else None,
            "model file, MB": onnx_mb if name == ONNX else model_mb,
        }
        for name, times in seconds.items()
    ]
    real_time = hours * 3600 / long_usage.seconds
    rows.append(
        {
            "implementation": LONG,
            "audio, s": hours * 3600,
            "seconds": long_usage.seconds,
            "times real time": real_time,
            "peak memory, MB": long_usage.peak_bytes / MB,
            "model file, MB": model_mb,
        }
    )
    description = (
        f"{WEIGHTS}, {len(files)} recordings of {duration / len(files):.1f} s each on average, on "
        f"one core and one thread. The seconds of a command are those of its process. "
        f"EfficientAT's procedure reads with librosa; its seconds are extrapolated from "
        f"{single_files} files."
    )
    return Result(
        "Tagging recordings",
        description,
        rows,
        [
            Target("times real time on one core, long recording", "at least", 100, real_time),
            Target(
                "seconds of the command for one file", "at most", 3,
                spread(seconds[FIRST]).median,
            ),
            Target(
                "peak memory with the long recording / with the short ones", "at most", 1.5,
                long_usage.peak_bytes / peak_bytes,
            ),
            Target(
                "seconds of EfficientAT's procedure / those of tagging tag", "at least", 10,
                spread(ratios(seconds[THEIRS], seconds[OURS])).median,
            ),
        ],
    )  # fmt: skip
