"""From recordings to log-mel spectrograms: the project against librosa and transformers.

On one core and one thread, on ESC-10's Ogg files, which lie in memory. That all give the same is
checked before time is taken.
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
import torch
import yaml
from threadpoolctl import threadpool_limits
from transformers import ASTFeatureExtractor
from transformers.utils import is_speech_available

from benchmarks.machine import on_cores
from benchmarks.ratios import alternate, ratios, spread, timed
from benchmarks.results import NotMeasured, Result, Target
from benchmarks.turns import ROOT
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.features import log_mel
from tagging.features.decoding import decode
from tagging.learning.embedding import Transform
from tagging.sources.esc import Source
from tagging.sources.published import fetch_published
from tagging.sources.transfer import fetch_checked

TURNS = 5
EVERY = 4  # of the 400 recordings one in so many, all classes and folds alike
RATE, WINDOW, HOP, BINS = 22_050, 2048, 512, 128
AST_RATE = 16_000
WEIGHTS = "mn04_as"
OURS, LIBROSA, TRANSFORMERS = "this project", "librosa", "transformers"
DECODE, LOG_MEL = f"decoding, resampling to {RATE:,} Hz", f"log-mel, {BINS} bins, in decibels"
WHOLE, AST = "both", f"log-mel as AST takes it, of {AST_RATE:,} Hz"
SCORES = f"a recording to the scores of {WEIGHTS}"
# How far results may lie apart: of a full scale of 1, decibels, and AST's deviations.
TOLERANCES = {DECODE: 1e-4, LOG_MEL: 0.1, WHOLE: 0.1, AST: 1e-2}


class Way(NamedTuple):
    """What is done to each of some inputs."""

    work: Callable[[Any], np.ndarray]
    inputs: Sequence[Any]

    def turn(self) -> float:
        """Return the seconds that all inputs take."""
        return timed(lambda: deque(map(self.work, self.inputs), maxlen=0))


def esc10() -> list[bytes]:
    """Return some of ESC-10's files.

    Raises:
        NotMeasured: without a mirror: ESC-10 is not to be fetched for this alone.
    """
    if not os.environ.get("DOWNLOAD_MIRROR"):
        raise NotMeasured("it takes ESC-10 in a mirror; set DOWNLOAD_MIRROR to its folder")
    params = yaml.safe_load((ROOT / "tasks/esc10/params.yaml").read_text(encoding="utf-8"))
    (file,) = params["download"]["files"]
    with TemporaryDirectory() as folder:
        path = Path(folder) / file["name"]
        fetch_checked(file["address"], path, file["sha256"], "none")
        source = Source(path)
        return [content for _, content in source.contents(source.recordings()[::EVERY])]


def applied(transform: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Return a transform as a function of a waveform, float32 (samples,)."""

    @torch.inference_mode()
    def of_waveform(waveform: np.ndarray) -> np.ndarray:
        return transform(torch.from_numpy(waveform).unsqueeze(0))[0, 0].numpy()

    return of_waveform


def ways(recordings: list[bytes], network: Transform | None) -> dict[tuple[str, str], Way]:
    """Return all ways, by the step that they do and who does it; `network` gives scores."""
    settings = {"sample_rate": RATE, "window": WINDOW, "hop": HOP, "bins": BINS, "log": "db"}
    ours = applied(log_mel.Transform(log_mel.Settings(**settings)))
    as_ast = applied(log_mel.Transform(log_mel.Settings(preset="ast")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that some filters are empty, as AST's are
        extractor = ASTFeatureExtractor()

    def our_waveform(content: bytes, rate: int = RATE) -> np.ndarray:
        return decode(content, "a recording", rate)

    def librosa_s_waveform(content: bytes) -> np.ndarray:
        return librosa.load(BytesIO(content), sr=RATE)[0]

    def librosa_s(waveform: np.ndarray) -> np.ndarray:
        power = librosa.feature.melspectrogram(
            y=waveform, sr=RATE, n_fft=WINDOW, hop_length=HOP, n_mels=BINS
        )
        return librosa.power_to_db(power, top_db=None).T

    def transformers_s(waveform: np.ndarray) -> np.ndarray:
        given = extractor(waveform, sampling_rate=AST_RATE, return_tensors="np")
        return given["input_values"][0]

    waveforms = [our_waveform(content) for content in recordings]
    slow = [our_waveform(content, AST_RATE) for content in recordings]
    found = {
        (DECODE, OURS): Way(our_waveform, recordings),
        (DECODE, LIBROSA): Way(librosa_s_waveform, recordings),
        (LOG_MEL, OURS): Way(ours, waveforms),
        (LOG_MEL, LIBROSA): Way(librosa_s, waveforms),
        (WHOLE, OURS): Way(lambda content: ours(our_waveform(content)), recordings),
        (WHOLE, LIBROSA): Way(lambda content: librosa_s(librosa_s_waveform(content)), recordings),
        (AST, OURS): Way(as_ast, slow),
        (AST, TRANSFORMERS): Way(transformers_s, slow),
    }
    if network is not None:
        scores = applied(network)
        rate = network.sample_rate
        found[SCORES, OURS] = Way(lambda content: scores(our_waveform(content, rate)), recordings)
    return found


def check(found: dict[tuple[str, str], Way]) -> None:
    """Do everything once, with the first input: that warms up, too.

    Raises:
        UserError: if a result is not the project's.
    """
    for (step, who), way in found.items():
        expected = found[step, OURS].work(found[step, OURS].inputs[0])
        given = way.work(way.inputs[0])[: len(expected)]  # AST's is padded
        if given.shape != expected.shape or (
            who != OURS and np.abs(given - expected).max() > TOLERANCES[step]
        ):
            raise UserError(f"{step}: {who} gives something else than {OURS}")


def measure(turns: int = TURNS, recordings: list[bytes] | None = None) -> Result:
    """Time everything in turns.

    Args:
        turns: how often.
        recordings: files; None for those of ESC-10.

    Raises:
        NotMeasured: if there is no ESC-10.
    """
    recordings = recordings or esc10()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1), on_cores(1), TemporaryDirectory() as folder:
        network = None
        if os.environ.get("DOWNLOAD_MIRROR"):
            network = Transform(fetch_published(WEIGHTS, Path(folder), "none"), "scores")
        found = ways(recordings, network)
        check(found)
        with Progress("sound", turns * len(found), "run") as progress:
            seconds = alternate({key: way.turn for key, way in found.items()}, turns, progress)
    torch.set_num_threads(threads)
    sound = sum(map(len, found[LOG_MEL, OURS].inputs)) / RATE
    rows = [
        {
            "step": step,
            "way": who,
            "ms a recording": spread(1000 * s / len(recordings) for s in times),
            "times real time": sound / spread(times).median,
            "its time / the project's": spread(ratios(times, seconds[step, OURS])),
        }
        for (step, who), times in seconds.items()
    ]

    def faster(step: str) -> float:
        return spread(ratios(seconds[step, LIBROSA], seconds[step, OURS])).median

    backend = "torchaudio" if is_speech_available() else "NumPy, as torchaudio is not there"
    about = (
        f"{len(recordings)} recordings, {sound / len(recordings):.1f} s each on average, on one "
        f"core and one thread. librosa decodes with soundfile and resamples with soxr, as is done "
        f"here; transformers computes with {backend}, and pads to 1,024 frames."
    )
    return Result(
        "From sound to log-mel spectrograms",
        about,
        rows,
        [
            Target("log-mel: librosa's seconds / the project's", "at least", 3, faster(LOG_MEL)),
            Target(
                "decoding, resampling and log-mel: librosa's seconds / the project's",
                "at least",
                1.5,
                faster(WHOLE),
                "most of it is decoding and resampling, which both leave to libsndfile and soxr",
            ),
        ],
    )
