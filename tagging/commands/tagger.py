"""A trained model that predicts labels, from waveforms or from AudioSet's embeddings."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import soxr
import torch
from safetensors import safe_open

from tagging.base.errors import UserError
from tagging.commands.embedding_checks import EXPECTED, check_embeddings, describe_problem
from tagging.commands.frontends import build_frontend, clip_seconds, edge_samples
from tagging.commands.models import display_name, find_model
from tagging.commands.prediction import Event, Prediction
from tagging.commands.transformers_layout import convert_layout
from tagging.commands.waveform import check_sample_rate, to_mono
from tagging.commands.windows import Windows, window_starts
from tagging.features import log_mel
from tagging.features.vggish import Transform as VGGish
from tagging.layers.base import Activation, Distance
from tagging.learning.calibration import Calibration
from tagging.learning.inference import calibrate, log_odds
from tagging.learning.model_file import load_network
from tagging.sources.weights import PUBLISHED

Key = TypeVar("Key")  # of a window
Kind = Literal["sound", "embeddings"]
INPUT_NAMES = {"sound": "recordings", "embeddings": "AudioSet's embeddings (TFRecord or parquet)"}
TIMELINE_WINDOW, TIMELINE_HOP = 1.0, 0.5  # seconds
DEFAULT_THRESHOLD = 0.5  # of events of labels without a threshold
BLOCK_SECONDS = 5.0  # recordings are decoded in blocks of this length
# Convolutions of small inputs cost several times as much a window in a batch of one. Larger batches
# need more memory, and do not fit into a core's cache.
BATCH_SECONDS = 32
BATCH_CLIPS = 256


class Tagger:
    """A trained model, loaded from its file.

    Args:
        path: file of the model.
        vggish: VGGish's weights, with which a model of AudioSet's embeddings reads recordings.

    Attributes:
        name: name of the model in results.
        kind: kind of its inputs.
        classes: names of the classes, in the order of the columns of probabilities.
        clips: calibration and thresholds for single windows.
        recordings: those for the mean over a recording's windows; None if single clips validated.
        sample_rate: sample rate of the waveforms (Hz); only of a model of sound.
        window_seconds: duration of the training clips; only of a model of sound.
    """

    def __init__(self, path: Path, vggish: Path | None = None) -> None:
        self.path, self.name, self.vggish = path, display_name(path), vggish
        self._process = os.getpid()
        trained = load_network(path, torch.device("cpu"), convert_layout)
        self.network, self.model_spec = trained.network, trained.model_spec
        if self.model_spec.activation in get_args(Distance):
            raise UserError(
                f"{path} must be a model of labels, got a model of similarity; its index is for "
                "tagging search"
            )
        with safe_open(path, framework="numpy") as file:
            self.metadata: dict[str, Any] = json.loads(file.metadata()["model"])
        self.classes = [class_.name for class_ in self.model_spec.classes]
        self.clips, self.recordings = trained.clips, trained.recordings
        address = (self.metadata.get("published") or {}).get("address")
        self.published = next(
            (weights for weights in PUBLISHED.values() if weights.address == address), None
        )
        self.frontend = build_frontend(self.model_spec.features, path)
        if vggish is not None:
            if self.frontend is not None:
                raise UserError(
                    f"--vggish must come with a model of AudioSet's embeddings, got {self.name}, "
                    "which reads recordings itself"
                )
            self.frontend = VGGish(vggish)
        self.supports_variable_length = self.network.supports_variable_length
        self.kind: Kind = "embeddings" if self.frontend is None else "sound"
        if self.frontend is not None:
            self.sample_rate = self.frontend.sample_rate
            # AudioSet's clips of ten seconds have ten frames, of 0.96 s each.
            self.window_seconds = (
                float(self.model_spec.spec.frames)
                if vggish
                else clip_seconds(self.frontend, self.model_spec.spec)
            )

    def predict(
        self, pieces: Iterable[np.ndarray], window: float | None = None, hop: float | None = None
    ) -> Prediction:
        """Predict the labels of a recording, window by window.

        Args:
            pieces: pieces of its waveform at `sample_rate`, each float32 (samples,).
            window: length of a window (seconds); None for that of the training clips.
            hop: from the start of one window to the start of the next (seconds); None for `window`.

        Raises:
            UserError: if `hop` is longer than a window, VGGish's weights are wrong, or `pieces`
                raises it.
            OSError: if `pieces` raises it.
        """
        [outcome] = self.predict_all([pieces], window, hop)
        if isinstance(outcome, Prediction):
            return outcome
        raise outcome

    def predict_all(
        self,
        recordings: Sequence[Iterable[np.ndarray]],
        window: float | None = None,
        hop: float | None = None,
        on_progress: Callable[[int, float], None] = lambda position, seconds: None,
    ) -> list[Prediction | UserError | OSError]:
        """Predict the labels of recordings, each as `predict` does except for rounding.

        Short recordings of one length share a batch, in which each costs less.

        Args:
            recordings: the pieces of each; they are read one after the other.
            window: as in `predict`.
            hop: as in `predict`.
            on_progress: called with a position in `recordings` and the duration predicted there
                (seconds); all recordings before it are predicted.

        Returns:
            For each recording its prediction, or the error that its pieces raised.

        Raises:
            UserError: if `hop` is longer than a window, or VGGish's weights are wrong.
        """
        self._leave_threads_of_parent()
        windows = self._windows(window, hop)
        lengths = [0] * len(recordings)
        starts: list[list[int]] = [[] for _ in recordings]
        outputs: list[list[torch.Tensor]] = [[] for _ in recordings]
        errors: dict[int, UserError | OSError] = {}

        def count_samples(position: int) -> Iterator[np.ndarray]:
            for piece in recordings[position]:
                lengths[position] += len(piece)
                yield piece

        def cut() -> Iterator[tuple[tuple[int, int], np.ndarray]]:
            for position in range(len(recordings)):
                try:
                    for start, samples in windows.cut(count_samples(position)):
                        yield (position, start), samples
                except (UserError, OSError) as error:
                    errors[position] = error

        with torch.inference_mode():
            for keys, batch in self._batches(cut()):
                rows = self._outputs(self._input(batch, windows.context))
                for (position, start), row in zip(keys, rows, strict=True):
                    starts[position].append(start)
                    outputs[position].append(row)
                position, start = keys[-1]
                on_progress(position, (start + windows.size) / self.sample_rate)
        length = windows.step if windows.drop_last else windows.size

        def predict_recording(position: int) -> Prediction:
            duration = lengths[position] / self.sample_rate
            return self._prediction(
                duration,
                [start / self.sample_rate for start in starts[position]],
                [min((start + length) / self.sample_rate, duration) for start in starts[position]],
                torch.stack(outputs[position]),
            )

        return [
            errors.get(position) or predict_recording(position)
            for position in range(len(recordings))
        ]

    def timeline_windows(self) -> tuple[float, float]:
        """Return the window and hop of reports and label tracks (seconds).

        Networks that need a fixed length have windows of this length: a shorter one would be padded
        with silence.
        """
        if self.supports_variable_length:
            window = min(TIMELINE_WINDOW, self.window_seconds)
            return window, min(TIMELINE_HOP, window / 2)
        return self.window_seconds, self.window_seconds / 2

    def embed(self, pieces: Iterable[np.ndarray]) -> np.ndarray:
        """Return a recording's embedding, the mean over its windows: float32 (width,).

        Args:
            pieces: of its waveform at `sample_rate`, each float32 (samples,).
        """
        self._leave_threads_of_parent()
        windows = self._windows(None, None)
        with torch.inference_mode():
            embeddings = [
                self.network.embed(self._input(batch, windows.context))
                for _, batch in self._batches(windows.cut(pieces))
            ]
        return torch.cat(embeddings).mean(0).numpy()

    def predict_clips(
        self, clips: Sequence[np.ndarray], name: str
    ) -> list[Prediction | str | None]:
        """Predict the labels of clips of AudioSet's embeddings.

        Args:
            clips: integers, each (frames, 128).
            name: of the file, for errors.

        Returns:
            For each clip its prediction, or a sentence why it cannot be AudioSet's, or None if it
            is too short for the network.

        Raises:
            UserError: if the order of the numbers is not AudioSet's in all clips together.
        """
        self._leave_threads_of_parent()
        spec = self.model_spec.spec
        problems = check_embeddings(clips, name)
        clip_starts = [
            []
            if problem or (len(clip) < spec.frames and not self.supports_variable_length)
            else window_starts(len(clip), spec.frames)
            for clip, problem in zip(clips, problems, strict=True)
        ]
        windows = [
            clip[start : start + spec.frames]
            for clip, starts in zip(clips, clip_starts, strict=True)
            for start in starts
        ]
        if not windows:
            return [*problems]
        lengths = torch.tensor([len(window) for window in windows])
        stored = np.zeros((len(windows), spec.channels, spec.frames, spec.bins), np.float32)
        for row, window in zip(stored, windows, strict=True):
            row[0, : len(window)] = window
        x = spec.as_input(torch.from_numpy(stored))
        with torch.inference_mode():
            if (lengths == spec.frames).all():
                outputs = self._outputs(x)
            else:
                x *= (torch.arange(spec.frames) < lengths[:, None])[:, None, :, None]
                outputs = self._outputs(x, lengths)
        rows = iter(outputs)
        return [
            self._prediction(
                float(len(clip)),
                [float(start) for start in starts],
                [float(min(start + spec.frames, len(clip))) for start in starts],
                torch.stack([next(rows) for _ in starts]),
            )
            if starts
            else problem
            for clip, starts, problem in zip(clips, clip_starts, problems, strict=True)
        ]

    def __call__(
        self, waveform: np.ndarray, sample_rate: int | None = None, top: int | None = None
    ) -> dict[str, Any]:
        """Predict labels; return what `tagging tag --json` prints, without the file.

        Args:
            waveform: (samples,) or (samples, channels): floats in [-1, 1], or integers that use the
                range of their type. For a model of embeddings: one clip, integers (frames, 128).
            sample_rate: of the waveform (Hz), from 1,000 to 1,000,000; None for embeddings.
            top: number of labels; None for all.

        Raises:
            UserError: if the input does not fit the model.
        """
        if self.kind == "embeddings":
            prediction = self.predict_clips([np.asarray(waveform)], "the embedding")[0]
            if isinstance(prediction, str):
                raise UserError(f"{prediction}; {EXPECTED}")
            if prediction is None:
                raise UserError(
                    f"the embedding must have {self.model_spec.spec.frames} frames or more for "
                    f"{self.name}, got {len(waveform)}"
                )
            return self.as_json(prediction, top)
        if sample_rate is None:
            raise UserError(f"{self.name} needs the waveform's sample rate, got None")
        check_sample_rate(sample_rate)
        mono = to_mono(np.asarray(waveform))
        if sample_rate != self.sample_rate:
            mono = soxr.resample(mono, sample_rate, self.sample_rate)
        return self.as_json(self.predict([mono]), top)

    def as_json(self, prediction: Prediction, top: int | None) -> dict[str, Any]:
        """Return a prediction as plain data, with the `top` labels of the whole and of windows."""
        return {
            "model": self.name,
            "duration": round(prediction.duration, 3),
            "labels": self.top_labels(prediction, top),
            "windows": [
                {
                    "start": round(start, 3),
                    "end": round(end, 3),
                    "labels": self._describe_labels(window, self.clips.thresholds, top),
                }
                for start, end, window in zip(*prediction[1:4], strict=True)
            ],
        }

    def top_labels(self, prediction: Prediction, top: int | None) -> list[dict[str, Any]]:
        """Return the most probable labels of the whole, in descending order.

        `confident` is None for labels without a threshold, and all labels of several windows if
        the thresholds were chosen on single ones.

        Args:
            prediction: of this model.
            top: number of labels; None for all.
        """
        return self._describe_labels(prediction.whole, self.whole_thresholds(prediction), top)

    def whole_thresholds(self, prediction: Prediction) -> np.ndarray:
        """Return the thresholds of a prediction's `whole`: float32 (classes,), NaN for none."""
        if self.recordings is not None:
            return self.recordings.thresholds
        if len(prediction.starts) == 1:
            return self.clips.thresholds
        return np.full(len(self.classes), np.nan, np.float32)

    def event_thresholds(self) -> np.ndarray:
        """Return the probabilities from which on windows are events: float32 (classes,)."""
        thresholds = self.clips.thresholds
        return np.where(np.isnan(thresholds), np.float32(DEFAULT_THRESHOLD), thresholds)

    def find_events(
        self, prediction: Prediction, columns: Sequence[int] | None = None
    ) -> list[Event]:
        """Return the spans in which a label reaches its threshold, by their start.

        Args:
            prediction: of this model.
            columns: of the labels; None for all.
        """
        above = prediction.probabilities >= self.event_thresholds()
        edges, events = prediction.edges, []
        for column in np.flatnonzero(above.any(axis=0)) if columns is None else columns:
            changes = np.flatnonzero(np.diff(above[:, column], prepend=False, append=False))
            for first, following in changes.reshape(-1, 2):
                highest = prediction.probabilities[first:following, column].max()
                start, end = float(edges[first]), float(edges[following])
                events.append(Event(start, end, self.classes[column], float(highest)))
        return sorted(events, key=lambda event: event.start)

    def _describe_labels(
        self, probabilities: np.ndarray, thresholds: np.ndarray, top: int | None
    ) -> list[dict[str, Any]]:
        return [
            {
                "label": self.classes[column],
                "probability": round(float(probabilities[column]), 6),
                "confident": None
                if np.isnan(thresholds[column])
                else bool(probabilities[column] >= thresholds[column]),
            }
            for column in np.argsort(-probabilities, kind="stable")[:top]
        ]

    def _leave_threads_of_parent(self) -> None:
        """Compute with one thread in a process that was forked after the model was loaded.

        A forked process has none of its parent's threads, and OpenMP would wait for them forever.
        """
        if os.getpid() != self._process:
            torch.set_num_threads(1)
            self._process = os.getpid()

    def _windows(self, window: float | None, hop: float | None) -> Windows:
        published_frames = self.published and self.published.window
        if published_frames and window is None and hop is None:
            assert isinstance(self.frontend, log_mel.Transform)
            # The published model cuts the spectrogram of the whole recording, not the waveform:
            # frames at a window's edge depend on samples beyond it.
            step = self.frontend.settings.hop
            return Windows(
                (published_frames - 1) * step + 1,
                published_frames * step,
                edge_samples(self.frontend),
                drop_last=True,
            )
        window = window or self.window_seconds
        if hop and hop > window:
            raise UserError(
                f"--hop must be at most the window's {window:g} s, so that windows cover the whole "
                f"recording, got {hop:g}"
            )
        size = max(1, round(window * self.sample_rate))
        return Windows(size, max(1, round(hop * self.sample_rate)) if hop else size)

    def _batches(
        self, windows: Iterator[tuple[Key, np.ndarray]]
    ) -> Iterator[tuple[list[Key], np.ndarray]]:
        """Group consecutive windows of one length: their keys, and float32 (batch, samples)."""
        keys: list[Key] = []
        batch: list[np.ndarray] = []
        for key, window in windows:
            if batch and (
                len(batch[0]) != len(window)
                or (len(batch) + 1) * len(window) > BATCH_SECONDS * self.sample_rate
            ):
                yield keys, np.stack(batch)
                keys, batch = [], []
            keys.append(key)
            batch.append(window)
        if batch:
            yield keys, np.stack(batch)

    def _input(self, batch: np.ndarray, context: int) -> torch.Tensor:
        """Return the network's input, float32 (batch, channels, frames, bins).

        Args:
            batch: waveforms, float32 (batch, samples).
            context: samples of each at either end whose frames are cut off.

        Raises:
            UserError: if the embeddings by VGGish's weights cannot be AudioSet's.
        """
        if not self.supports_variable_length:
            missing = max(0, round(self.window_seconds * self.sample_rate) - batch.shape[1])
            batch = np.pad(batch, ((0, 0), (0, missing)))
        assert self.frontend is not None
        x = self.frontend(torch.from_numpy(batch))
        if self.vggish is not None:
            problem = next(filter(None, map(describe_problem, x[:, 0].numpy())), None)
            if problem:
                raise UserError(
                    f"{self.vggish}: embeddings by these weights cannot be AudioSet's ({problem}); "
                    f"check the weights with tagging check-vggish {self.vggish}"
                )
        if context:
            assert isinstance(self.frontend, log_mel.Transform)
            frames = context // self.frontend.settings.hop
            x = x[:, :, frames : x.shape[2] - frames]
        return self.model_spec.spec.as_input(x)

    def _outputs(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        """Return outputs, float32 (batch, classes); `frames` are lengths of padded clips."""
        outputs = []
        for first in range(0, len(x), BATCH_CLIPS):
            batch = slice(first, first + BATCH_CLIPS)
            outputs.append(self.network(x[batch], None if frames is None else frames[batch]))
        return torch.cat(outputs)

    def _prediction(
        self, duration: float, starts: list[float], ends: list[float], outputs: torch.Tensor
    ) -> Prediction:
        """Return the prediction of windows by their outputs, float32 (windows, classes)."""
        activation = self.model_spec.activation
        with torch.inference_mode():
            windows = to_probabilities(outputs, activation, self.clips.calibration).numpy()
            if self.recordings is None:
                return Prediction(duration, starts, ends, windows, windows.mean(axis=0))
            # Validation calibrated the mean of uncalibrated probabilities.
            mean = to_probabilities(outputs, activation).mean(0, keepdim=True)
            scores = calibrate(log_odds(mean, "none"), self.recordings.calibration)
            return Prediction(
                duration, starts, ends, windows, torch.from_numpy(scores[0]).sigmoid().numpy()
            )


def load_tagger(name: str, vggish: str | Path | None = None) -> Tagger:
    """Load a model: `load_tagger("mn04_as")(waveform, sample_rate)["labels"]`.

    Args:
        name: a file, a folder of runs or a model's name, as for `tagging tag --model`.
        vggish: VGGish's weights, with which a model of AudioSet's embeddings reads recordings.

    Raises:
        UserError: if the model or the weights do not exist.
    """
    return Tagger(find_model(name), None if vggish is None else Path(vggish))


def to_probabilities(
    outputs: torch.Tensor, activation: Activation, calibration: Calibration | None = None
) -> torch.Tensor:
    """Return the probabilities, (batch, classes), of a network's outputs."""
    if calibration is not None and calibration.offsets is None:
        return (calibration.slope * outputs).softmax(1)
    if calibration is not None:
        if activation == "none":
            limits = torch.finfo(outputs.dtype)
            outputs = outputs.clamp(limits.tiny, 1 - limits.eps / 2).logit()
        return (calibration.slope * outputs + torch.tensor(calibration.offsets)).sigmoid()
    if activation == "sigmoid":
        return outputs.sigmoid()
    return outputs.softmax(1) if activation == "softmax" else outputs
