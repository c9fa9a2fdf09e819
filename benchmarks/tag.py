"""`tagging tag` with mn04_as: beside EfficientAT's own way, and beside the ONNX file.

On one core and one thread, on ESC-10's Ogg files of five seconds. That PyTorch and ONNX Runtime
give the same is checked before time is taken; beside it stands how large each one's file is.
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
from benchmarks.ratios import alternate, ratios, spread, timed
from benchmarks.results import NotMeasured, Result, Target
from benchmarks.sound import esc10
from benchmarks.turns import ROOT
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.commands.export_onnx import export_onnx
from tagging.commands.tagger import BLOCK_SECONDS, Tagger
from tagging.features.decoding import blocks, decode
from tagging.sources.published import fetch_published

TURNS = 5
WEIGHTS = "mn04_as"
ALONE = 5  # files that get a process each
HOURS, RATE = 3.0, 16_000  # of the long recording
TOLERANCE = 1e-4
MB = 1_000_000
OURS, PYTHON, ONNX, THEIRS = (
    "tagging tag, all files", "tagging.load, file by file", "ONNX Runtime, file by file",
    "EfficientAT's way, a process a file",
)  # fmt: skip
FIRST, LONG = "tagging tag, one file", "tagging tag, one long recording"


def command(*words: str) -> list[str]:
    """Return `python -m` with these words."""
    return [sys.executable, "-m", *words]


def run(words: list[str]) -> None:
    """Run a command and drop what it prints.

    Raises:
        UserError: if it fails.
    """
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(words)} failed: {done.stderr.strip()[-500:]}")


def heard_by_onnx(path: Path, rate: int) -> Callable[[bytes], np.ndarray]:
    """Return a recording's probabilities, as the exported file gives them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def of_recording(content: bytes) -> np.ndarray:
        waveform = decode(content, "a recording", rate)[None]
        return session.run(None, {"waveform": waveform})[0][0]

    return of_recording


def long_recording(path: Path, recordings: list[bytes], hours: float) -> None:
    """Write the recordings one after the other, again and again, until they last so long."""
    once = np.concatenate([decode(content, "a recording", RATE) for content in recordings])
    left = round(hours * 3600 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        while left > 0:
            file.write(once[:left])
            left -= len(once)


def usage(model: Path, *files: Path) -> Usage:
    """Return what it takes to tag files in one process."""
    words = command("tagging.commands.main", "tag", *map(str, files), "--model", str(model))
    return measure_command([*words, "--json"], ROOT, dict(os.environ))


def measure(
    turns: int = TURNS, recordings: list[bytes] | None = None, hours: float = HOURS
) -> Result:
    """Time all ways in turns, then the long recording once.

    Args:
        turns: how often.
        recordings: files; None for those of ESC-10.
        hours: how long the long recording is.

    Raises:
        NotMeasured: if there is no mirror with the weights, and ESC-10.
    """
    if not os.environ.get("DOWNLOAD_MIRROR"):
        raise NotMeasured(f"it takes {WEIGHTS} in a mirror; set DOWNLOAD_MIRROR to its folder")
    recordings = recordings or esc10()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with on_cores(1), TemporaryDirectory() as name:
        folder = Path(name)
        model, onnx = fetch_published(WEIGHTS, folder, "none"), folder / "model.onnx"
        export_onnx(str(model), onnx)
        files = [folder / f"{number:03}.ogg" for number in range(len(recordings))]
        for file, content in zip(files, recordings, strict=True):
            file.write_bytes(content)
        sound = sum(soundfile.info(BytesIO(content)).duration for content in recordings)
        model_mb, onnx_mb = (file.stat().st_size / MB for file in (model, onnx))
        tagger = Tagger(model)
        by_onnx = heard_by_onnx(onnx, tagger.sample_rate)

        def by_tagger(content: bytes) -> np.ndarray:
            pieces = blocks(content, "a recording", tagger.sample_rate, BLOCK_SECONDS)
            return tagger.predict(pieces).mean

        away = np.abs(by_onnx(recordings[0]) - by_tagger(recordings[0])).max()
        if away > TOLERANCE:
            raise UserError(f"ONNX Runtime's probabilities are {away:.2g} from PyTorch's")

        def alone() -> float:
            for file in files[:ALONE]:
                run(command("benchmarks.taggers.efficientat", str(model), str(file)))
            return 0.0

        used: list[Usage] = []

        def all_files() -> float:
            used.append(usage(model, *files))
            return used[-1].seconds

        ways: dict[str, Callable[[], float]] = {
            OURS: all_files,
            PYTHON: lambda: timed(lambda: deque(map(by_tagger, recordings), maxlen=0)),
            ONNX: lambda: timed(lambda: deque(map(by_onnx, recordings), maxlen=0)),
            THEIRS: lambda: timed(alone) * len(files) / min(ALONE, len(files)),
            FIRST: lambda: usage(model, files[0]).seconds,
        }
        with Progress("tag", turns * len(ways) + 1, "run") as progress:
            seconds = alternate(ways, turns, progress)
            long = folder / "long.flac"
            long_recording(long, recordings, hours)
            of_long = usage(model, long)
            progress.advance()
    torch.set_num_threads(threads)
    lengths = {FIRST: sound / len(files)}
    rows = [
        {
            "way": way,
            "sound, s": lengths.get(way, sound),
            "seconds": spread(times),
            "times real time": lengths.get(way, sound) / spread(times).median,
            "peak memory, MB": max(each.peak_bytes for each in used) / MB if way == OURS else None,
            "model's file, MB": onnx_mb if way == ONNX else model_mb,
        }
        for way, times in seconds.items()
    ]
    real_time = hours * 3600 / of_long.seconds
    rows.append(
        {
            "way": LONG,
            "sound, s": hours * 3600,
            "seconds": of_long.seconds,
            "times real time": real_time,
            "peak memory, MB": of_long.peak_bytes / MB,
            "model's file, MB": model_mb,
        }
    )
    about = (
        f"{WEIGHTS}, {len(files)} recordings of {sound / len(files):.1f} s each on average, on one "
        f"core and one thread. A command's seconds are from its start to its end. EfficientAT's "
        f"way reads with librosa; {min(ALONE, len(files))} files are timed and counted for all."
    )
    longer = of_long.peak_bytes / max(each.peak_bytes for each in used)
    return Result(
        "Tagging recordings",
        about,
        rows,
        [
            Target("times real time on one core, the long one", "at least", 100, real_time),
            Target(
                "seconds from the start to the answer for one file", "at most", 3,
                spread(seconds[FIRST]).median,
            ),
            Target(
                "peak memory with the long recording / with the short ones", "at most", 1.5, longer
            ),
            Target(
                "EfficientAT's way: its seconds / those of tagging tag", "at least", 10,
                spread(ratios(seconds[THEIRS], seconds[OURS])).median,
            ),
        ],
    )  # fmt: skip
