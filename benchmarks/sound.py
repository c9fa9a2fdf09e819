"""From recordings to log-mel spectrograms: the project, libsndfile, librosa and transformers.

On one core and one thread, on ESC-10's Ogg files in memory, and on the same in other formats, which
the project reads with FFmpeg. Before anything is timed, the results
of all implementations are compared.
"""

import os
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import librosa
import numpy as np
import soundfile
import soxr
import torch
import yaml
from threadpoolctl import threadpool_limits
from transformers import ASTFeatureExtractor
from transformers.utils import is_speech_available

from benchmarks.machine import on_cores
from benchmarks.results import NotMeasured, Result, Target
from benchmarks.timing import interleave, measure_seconds, ratios, spread
from benchmarks.workers import ROOT
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.features import log_mel
from tagging.features.decoding import decode
from tagging.learning.embedding import Transform
from tagging.learning.published_models import fetch_published
from tagging.sources.esc import Source
from tagging.sources.transfer import fetch_checked

ROUNDS = 5
EVERY = 4  # one in four of the 400 recordings, from all classes and folds
RATE, WINDOW, HOP, BINS = 22_050, 2048, 512, 128
AST_RATE = 16_000
WEIGHTS = "mn04_as"
OURS, LIBROSA, TRANSFORMERS = "this project", "librosa", "transformers"
LIBSNDFILE = "libsndfile"
DECODE, LOG_MEL = f"decoding, resampling to {RATE:,} Hz", f"log-mel, {BINS} bins, in decibels"
BOTH, AST = "both", f"log-mel of AST, {AST_RATE:,} Hz"
SCORES = f"recording to scores of {WEIGHTS}"
DECODE_OTHERS = {kind: f"{DECODE}, as {kind}" for kind in ("WAV", "FLAC", "MP3")}
# Largest differences: of a full scale of 1, decibels, and standard deviations of AST.
TOLERANCES = {DECODE: 1e-4, LOG_MEL: 0.1, BOTH: 0.1, AST: 1e-2}
TOLERANCES |= dict.fromkeys(DECODE_OTHERS.values(), 1e-4)


class Implementation(NamedTuple):
    """A function, and the inputs that it is applied to."""

    work: Callable[[Any], np.ndarray]
    inputs: Sequence[Any]

    def run(self) -> float:
        """Return the seconds that all inputs take."""
        return measure_seconds(lambda: deque(map(self.work, self.inputs), maxlen=0))


def read_esc10() -> list[bytes]:
    """Return some of ESC-10's files.

    Raises:
        NotMeasured: without a mirror, as a benchmark does not download ESC-10.
    """
    if not os.environ.get("DOWNLOAD_MIRROR"):
        raise NotMeasured("DOWNLOAD_MIRROR must be a folder with ESC-10, got none")
    params = yaml.safe_load((ROOT / "tasks/esc10/params.yaml").read_text(encoding="utf-8"))
    file = params["download"]["recordings"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / file["name"]
        fetch_checked(file["address"], path, file["sha256"], "none")
        source = Source(path)
        return [content for _, content in source.contents(source.recordings()[::EVERY])]


def encode_as(kind: str, content: bytes) -> bytes:
    """Return a recording in another of libsndfile's formats."""
    encoded = BytesIO()
    soundfile.write(encoded, *soundfile.read(BytesIO(content), dtype="float32"), format=kind)
    return encoded.getvalue()


def as_function(transform: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Return a transform as a function of a waveform, float32 (samples,)."""

    @torch.inference_mode()
    def apply(waveform: np.ndarray) -> np.ndarray:
        return transform(torch.from_numpy(waveform).unsqueeze(0))[0, 0].numpy()

    return apply


def make_implementations(
    recordings: list[bytes], network: Transform | None
) -> dict[tuple[str, str], Implementation]:
    """Return all implementations, by step and library; `network` computes scores."""
    settings = {"sample_rate": RATE, "window": WINDOW, "hop": HOP, "bins": BINS, "log": "db"}
    ours = as_function(log_mel.Transform(log_mel.Settings(**settings)))
    ast_log_mel = as_function(log_mel.Transform(log_mel.Settings(preset="ast")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some filters of AST are empty
        extractor = ASTFeatureExtractor()

    def decode_recording(content: bytes, rate: int = RATE) -> np.ndarray:
        return decode(content, "a recording", rate)

    def librosa_decode(content: bytes) -> np.ndarray:
        return librosa.load(BytesIO(content), sr=RATE)[0]

    def libsndfile_decode(content: bytes) -> np.ndarray:
        waveform, rate = soundfile.read(BytesIO(content), dtype="float32", always_2d=True)
        return soxr.resample(waveform.mean(axis=1), rate, RATE)

    def librosa_log_mel(waveform: np.ndarray) -> np.ndarray:
        power = librosa.feature.melspectrogram(
            y=waveform, sr=RATE, n_fft=WINDOW, hop_length=HOP, n_mels=BINS
        )
        return librosa.power_to_db(power, top_db=None).T

    def transformers_log_mel(waveform: np.ndarray) -> np.ndarray:
        inputs = extractor(waveform, sampling_rate=AST_RATE, return_tensors="np")
        return inputs["input_values"][0]

    waveforms = [decode_recording(content) for content in recordings]
    ast_waveforms = [decode_recording(content, AST_RATE) for content in recordings]
    implementations = {
        (DECODE, OURS): Implementation(decode_recording, recordings),
        (DECODE, LIBROSA): Implementation(librosa_decode, recordings),
        (LOG_MEL, OURS): Implementation(ours, waveforms),
        (LOG_MEL, LIBROSA): Implementation(librosa_log_mel, waveforms),
        (BOTH, OURS): Implementation(lambda content: ours(decode_recording(content)), recordings),
        (BOTH, LIBROSA): Implementation(
            lambda content: librosa_log_mel(librosa_decode(content)), recordings
        ),
        (AST, OURS): Implementation(ast_log_mel, ast_waveforms),
        (AST, TRANSFORMERS): Implementation(transformers_log_mel, ast_waveforms),
    }
    for kind, step in DECODE_OTHERS.items():
        files = [encode_as(kind, content) for content in recordings]
        implementations[step, OURS] = Implementation(decode_recording, files)
        implementations[step, LIBSNDFILE] = Implementation(libsndfile_decode, files)
    if network is not None:
        scores = as_function(network)
        rate = network.sample_rate
        implementations[SCORES, OURS] = Implementation(
            lambda content: scores(decode_recording(content, rate)), recordings
        )
    return implementations


def check(implementations: dict[tuple[str, str], Implementation]) -> None:
    """Run everything once, on the first input, which also warms it up.

    Raises:
        UserError: if a result differs from the project's.
    """
    for (step, library), implementation in implementations.items():
        ours = implementations[step, OURS]
        expected = ours.work(ours.inputs[0])
        result = implementation.work(implementation.inputs[0])[: len(expected)]  # AST's is padded
        if result.shape != expected.shape or (
            library != OURS and np.abs(result - expected).max() > TOLERANCES[step]
        ):
            raise UserError(f"{step}: the result of {library} differs from that of {OURS}")


def measure(rounds: int = ROUNDS, recordings: list[bytes] | None = None) -> Result:
    """Time everything, interleaved.

    Args:
        rounds: number of rounds.
        recordings: the content of files; None for those of ESC-10.

    Raises:
        NotMeasured: if ESC-10 is not available.
    """
    recordings = recordings or read_esc10()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1), on_cores(1), TemporaryDirectory() as folder:
        network = None
        if os.environ.get("DOWNLOAD_MIRROR"):
            network = Transform(fetch_published(WEIGHTS, Path(folder), "none"), "probabilities")
        implementations = make_implementations(recordings, network)
        check(implementations)
        runs = {key: implementation.run for key, implementation in implementations.items()}
        with Progress("sound", rounds * len(runs), "run") as progress:
            seconds = interleave(runs, rounds, progress)
    torch.set_num_threads(threads)
    duration = sum(map(len, implementations[LOG_MEL, OURS].inputs)) / RATE
    rows = [
        {
            "step": step,
            "implementation": library,
            "ms per recording": spread(1000 * s / len(recordings) for s in times),
            "times real time": duration / spread(times).median,
            "time / the project's": spread(ratios(times, seconds[step, OURS])),
        }
        for (step, library), times in seconds.items()
    ]

    def speedup(step: str) -> float:
        return spread(ratios(seconds[step, LIBROSA], seconds[step, OURS])).median

    backend = "torchaudio" if is_speech_available() else "NumPy, without torchaudio"
    description = (
        f"{len(recordings)} recordings, {duration / len(recordings):.1f} s each on average, on one "
        f"core and one thread. librosa decodes with libsndfile and resamples with soxr, as the "
        f"project does with Ogg; transformers computes with {backend}, and pads to 1,024 frames."
    )
    return Result(
        "From sound to log-mel spectrograms",
        description,
        rows,
        [
            Target("log-mel: librosa's seconds / the project's", "at least", 3, speedup(LOG_MEL)),
            Target(
                "decoding, resampling and log-mel: librosa's seconds / the project's",
                "at least",
                1.5,
                speedup(BOTH),
                "both spend most of it in libsndfile and soxr",
            ),
        ],
    )
