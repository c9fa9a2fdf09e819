"""A model that is ready to tag: from waveforms, or AudioSet's embeddings, to probabilities."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import soxr
import torch
from safetensors import safe_open
from torch import nn

from tagging.base.errors import UserError
from tagging.commands import models
from tagging.commands.examine import ACCEPTED, examine, find_problem
from tagging.data.spec import InputSpec
from tagging.features import log_mel
from tagging.features.vggish import Transform as VGGish
from tagging.learning import embedding
from tagging.learning.model import Activation, Distance, load_network
from tagging.sources.weights import PUBLISHED

Kind = Literal["sound", "embeddings"]
TAKES = {"sound": "sound", "embeddings": "AudioSet's embeddings (TFRecord or parquet)"}
BLOCK_SECONDS = 5.0  # of a recording that are decoded at a time
# More at a time is slower: what layers give no longer stays in a core's cache.
SECONDS_AT_A_TIME = 10
CLIPS_AT_A_TIME = 256
WINDOW_SECONDS = 10.0  # of a model whose input does not tell
RATES = (1_000, 1_000_000)  # of waveforms, Hz
# Decoders of MP3, Vorbis and Opus gave up to 3.4 where full scale is 1; whole numbers that somebody
# made floats are beyond this even in a quiet recording.
LOUDEST = 10
REST = 0.1  # what is left at the end is heard from this share of a window on


class Heard(NamedTuple):
    """What a model says of a recording, or of a clip of embeddings.

    `starts` and `ends` are its windows' (seconds), `probabilities` float32 (windows, classes).
    """

    seconds: float
    starts: list[float]
    ends: list[float]
    probabilities: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The whole's probabilities: the mean of its windows', float32 (classes,)."""
        return self.probabilities.mean(axis=0)


class Windows(NamedTuple):
    """How a recording is cut, in samples.

    With `beyond`, so many samples before and after a window are given too, zeros where the
    recording has none. What is left at the end is heard in a last window that ends with the
    recording, or with `drop_rest` not at all.
    """

    size: int
    step: int
    beyond: int = 0
    drop_rest: bool = False

    def cut(self, parts: Iterable[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield where each window begins, and its samples; a short recording is one window.

        Args:
            parts: the waveform, float32 (samples,), in pieces.
        """
        whole = self.size + 2 * self.beyond
        silence = np.zeros(self.beyond, np.float32)
        held, start = silence, 0  # what begins with the next window
        last = None
        for part in chain(parts, [silence]):
            held = np.concatenate([held, part])
            while len(held) >= whole:
                last = held[:whole]
                yield start, last
                held = held[self.step :]
                start += self.step
        if last is None:
            yield 0, held
            return
        # Of `held`, this was in no window.
        rest = len(held) - whole + self.step
        if rest >= max(1, REST * self.size) and not self.drop_rest:
            yield start - self.step + rest, np.concatenate([last[: self.step], held])[-whole:]


class Waveform(nn.Module):
    """The feature of networks that take waveforms as they are."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate = sample_rate

    def frames(self, samples: int) -> int:
        """Return `samples`."""
        return samples

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return (batch, 1, samples, 1)."""
        return waveform[:, None, :, None]


class Tagger:
    """A trained model, as its file has it.

    Args:
        path: the file.
        vggish: of VGGish's weights, for a model of AudioSet's embeddings to hear sound.

    Attributes:
        name: what answers call it; `path` and `vggish` are as given.
        kind: what it takes.
        classes: names, in the order of the columns of probabilities.
        thresholds: float32 (classes,), from which probability on a label is sure; NaN where the
            model's file has none.
        rate: of its waveforms (Hz), and `window`, how long one is (seconds); sound alone.
    """

    def __init__(self, path: Path, vggish: Path | None = None) -> None:
        self.path, self.name, self.vggish = path, models.shown(path), vggish
        trained = load_network(path, torch.device("cpu"))
        self.network, self.shape = trained.network, trained.shape
        if self.shape.activation in get_args(Distance):
            raise UserError(
                f"{path} says what is similar, not what is heard; it takes a model of labels, and "
                "tagging search takes the index of this one"
            )
        with safe_open(path, framework="numpy") as file:
            self.about: dict[str, Any] = json.loads(file.metadata()["model"])
        self.classes = [of.name for of in self.shape.classes]
        self.thresholds = trained.thresholds
        address = (self.about.get("published") or {}).get("address")
        self.published = next((of for of in PUBLISHED.values() if of.address == address), None)
        self.front = _front(self.shape.features, path)
        if vggish is not None:
            if self.front is not None:
                raise UserError(f"{self.name} hears sound itself; it takes no --vggish")
            self.front = VGGish(vggish)
        self.any_length = getattr(self.network, "any_length", True)
        self.kind: Kind = "embeddings" if self.front is None else "sound"
        if self.front is not None:
            self.rate: int = self.front.sample_rate
            # AudioSet's clips of ten seconds have ten frames, of 0.96 s each.
            self.window = (
                float(self.shape.spec.frames)
                if vggish
                else _seconds_of(self.front, self.shape.spec)
            )

    def hear(
        self,
        parts: Iterable[np.ndarray],
        window: float | None = None,
        hop: float | None = None,
        on_heard: Callable[[float], None] = lambda seconds: None,
    ) -> Heard:
        """Return what is heard in a recording.

        Args:
            parts: its waveform at `rate`, float32 (samples,), in pieces.
            window: how long a window is (seconds); None for what the model was trained on.
            hop: from one window's beginning to the next one's (seconds); None for `window`.
            on_heard: told of how much of the recording has been heard (seconds).

        Raises:
            UserError: if `hop` is longer than a window, or VGGish's weights are wrong.
        """
        samples = 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal samples
            for part in parts:
                samples += len(part)
                yield part

        how = self._windows(window, hop)
        starts: list[int] = []
        found = []
        with torch.inference_mode():
            for begins, batch in self._batches(how.cut(counted())):
                starts += begins
                found.append(self._probabilities(self._input(batch, how.beyond)))
                on_heard((begins[-1] + how.size) / self.rate)
        seconds = samples / self.rate
        length = how.step if how.drop_rest else how.size
        ends = [min((start + length) / self.rate, seconds) for start in starts]
        return Heard(seconds, [start / self.rate for start in starts], ends, np.concatenate(found))

    def embed(self, parts: Iterable[np.ndarray]) -> np.ndarray:
        """Return a recording's embedding, the mean over its windows: float32 (width,).

        Args:
            parts: its waveform at `rate`, float32 (samples,), in pieces.
        """
        how = self._windows(None, None)
        with torch.inference_mode():
            found = [
                self.network.embed(self._input(batch, how.beyond))
                for _, batch in self._batches(how.cut(parts))
            ]
        return torch.cat(found).mean(0).numpy()

    def read(self, clips: Sequence[np.ndarray], name: str) -> list[Heard | str | None]:
        """Return what AudioSet's embeddings say, of each clip.

        Of one that cannot be AudioSet's it is what is wrong with it, and None of one too short.

        Args:
            clips: each (frames, 128), of whole numbers.
            name: what errors call them.

        Raises:
            UserError: if they cannot be AudioSet's as they lie together.
        """
        spec = self.shape.spec
        problems = examine(clips, name)
        starts = [
            []
            if problem or (len(clip) < spec.frames and not self.any_length)
            else _starts(clip, spec.frames)
            for clip, problem in zip(clips, problems, strict=True)
        ]
        windows = [
            clip[start : start + spec.frames]
            for clip, of_clip in zip(clips, starts, strict=True)
            for start in of_clip
        ]
        if not windows:
            return [*problems]
        lengths = torch.tensor([len(frames) for frames in windows])
        stored = np.zeros((len(windows), spec.channels, spec.frames, spec.bins), np.float32)
        for row, frames in zip(stored, windows, strict=True):
            row[0, : len(frames)] = frames
        x = spec.as_input(torch.from_numpy(stored))
        with torch.inference_mode():
            if (lengths == spec.frames).all():
                found = self._probabilities(x)
            else:
                x *= (torch.arange(spec.frames) < lengths[:, None])[:, None, :, None]
                found = self._probabilities(x, lengths)
        rows = iter(found)
        return [
            Heard(
                float(len(clip)),
                [float(start) for start in of_clip],
                [float(min(start + spec.frames, len(clip))) for start in of_clip],
                np.stack([next(rows) for _ in of_clip]),
            )
            if of_clip
            else problem
            for clip, of_clip, problem in zip(clips, starts, problems, strict=True)
        ]

    def __call__(
        self, waveform: np.ndarray, rate: int | None = None, top: int | None = None
    ) -> dict[str, Any]:
        """Return what `tagging tag --json` says, but for the file.

        Args:
            waveform: a recording, (samples,) or (samples, channels): floats in [-1, 1], as decoders
                give them (louder ones pass up to 10), or whole numbers over the range of their
                type, with or without sign; for a model of embeddings those of a clip,
                (frames, 128), without `rate`.
            rate: the waveform's (Hz), from 1,000 to 1,000,000.
            top: how many labels are told; None for all.

        Raises:
            UserError: if it is not what the model takes.
        """
        if self.kind == "embeddings":
            heard = self.read([np.asarray(waveform)], "the embedding")[0]
            if isinstance(heard, str):
                raise UserError(f"{heard}; {ACCEPTED}")
            if heard is None:
                raise UserError(
                    f"the embedding has {len(waveform)} frames; {self.name} takes clips of "
                    f"{self.shape.spec.frames}"
                )
            return self.as_json(heard, top)
        if rate is None:
            raise UserError(f"the waveform has no rate; {self.name} takes a waveform and its rate")
        if not isinstance(rate, Real) or not RATES[0] <= rate <= RATES[1]:
            raise UserError(
                f"the waveform's rate is {rate!r}; it takes a number of samples a second, from "
                f"{RATES[0]:,} to {RATES[1]:,}"
            )
        mono = _mono(np.asarray(waveform))
        if rate != self.rate:
            mono = soxr.resample(mono, rate, self.rate)
        return self.as_json(self.hear([mono]), top)

    def as_json(self, heard: Heard, top: int | None) -> dict[str, Any]:
        """Return an answer as plain data."""
        return {
            "model": self.name,
            "seconds": round(heard.seconds, 3),
            "labels": self.labels(heard, top),
            "windows": [
                {
                    "start": round(start, 3),
                    "end": round(end, 3),
                    "labels": self.labels(Heard(end - start, [start], [end], row[None]), top),
                }
                for start, end, row in zip(*heard[1:], strict=True)
            ],
        }

    def labels(self, heard: Heard, top: int | None) -> list[dict[str, Any]]:
        """Return the labels of the whole with their probabilities, best first.

        A label is sure if it is in one window or more; None where its threshold is not known.

        Args:
            heard: an answer.
            top: how many labels; None for all.
        """
        mean, most = heard.mean, heard.probabilities.max(axis=0)
        return [
            {
                "label": self.classes[place],
                "probability": round(float(mean[place]), 6),
                "sure": None
                if np.isnan(self.thresholds[place])
                else bool(most[place] >= self.thresholds[place]),
            }
            for place in np.argsort(-mean, kind="stable")[:top]
        ]

    def _windows(self, window: float | None, hop: float | None) -> Windows:
        published = self.published and self.published.window
        if published and window is None and hop is None:
            # Frames of the whole recording are cut, not the waveform: a frame at a window's edge
            # reaches beyond it.
            step = self.front.settings.hop
            return Windows((published - 1) * step + 1, published * step, _reach(self.front), True)
        window = window or self.window
        if hop and hop > window:
            raise UserError(
                f"--hop is {hop:g} s; it takes at most the window's {window:g}, so that everything "
                "is heard"
            )
        size = max(1, round(window * self.rate))
        return Windows(size, max(1, round(hop * self.rate)) if hop else size)

    def _batches(
        self, windows: Iterator[tuple[int, np.ndarray]]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield windows of one length together, in their order."""
        starts: list[int] = []
        held: list[np.ndarray] = []
        for start, samples in windows:
            if held and (
                len(held[0]) != len(samples)
                or (len(held) + 1) * len(samples) > SECONDS_AT_A_TIME * self.rate
            ):
                yield starts, np.stack(held)
                starts, held = [], []
            starts.append(start)
            held.append(samples)
        yield starts, np.stack(held)

    def _input(self, batch: np.ndarray, beyond: int) -> torch.Tensor:
        """Return the feature of waveforms, float32 (batch, samples), as the network takes it.

        Raises:
            UserError: if VGGish's weights make embeddings that cannot be AudioSet's.
        """
        if not self.any_length:
            lacks = max(0, round(self.window * self.rate) - batch.shape[1])
            batch = np.pad(batch, ((0, 0), (0, lacks)))
        x = self.front(torch.from_numpy(batch))
        if self.vggish is not None:
            problem = next(filter(None, map(find_problem, x[:, 0].numpy())), None)
            if problem:
                raise UserError(
                    f"{self.vggish}: what these weights make of a recording cannot be AudioSet's "
                    f"embeddings ({problem}); tagging vggish {self.vggish} checks them"
                )
        frames = beyond // self.front.settings.hop if beyond else 0
        return self.shape.spec.as_input(x[:, :, frames : x.shape[2] - frames])

    def _probabilities(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> np.ndarray:
        found = [
            activate(
                self.network(part, None if frames is None else frames[k : k + CLIPS_AT_A_TIME]),
                self.shape.activation,
            )
            for k, part in (
                (k, x[k : k + CLIPS_AT_A_TIME]) for k in range(0, len(x), CLIPS_AT_A_TIME)
            )
        ]
        return torch.cat(found).numpy()


def _mono(samples: np.ndarray) -> np.ndarray:
    """Return a waveform as one channel, float32 (samples,).

    Args:
        samples: as a `Tagger` is called with.

    Raises:
        UserError: if it is no waveform.
    """
    shape = samples.shape
    # No recording has more channels than samples: they are the other way round.
    if samples.ndim not in (1, 2) or not samples.size or shape[-1] > shape[0]:
        raise UserError(
            f"the waveform is of the shape {shape}; it takes (samples,) or (samples, channels)"
        )
    if np.issubdtype(samples.dtype, np.integer):
        range_ = np.iinfo(samples.dtype)
        full = (float(range_.max) - float(range_.min) + 1) / 2
        samples = (samples - (float(range_.min) + full)) / full
    elif not np.issubdtype(samples.dtype, np.floating):
        raise UserError(f"the waveform holds {samples.dtype}; it takes floats or whole numbers")
    samples = samples.astype(np.float32)
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise UserError("the waveform has a sample that is no finite number")
    if (loudest := np.abs(mono).max()) > LOUDEST:
        raise UserError(
            f"the waveform's numbers go up to {loudest:g}, as if whole numbers were made floats; "
            "it takes floats in [-1, 1], or whole numbers over the range of their type"
        )
    return mono


def _starts(clip: np.ndarray, size: int) -> list[int]:
    """Return where windows of `size` frames begin; the last one ends with the clip."""
    starts = list(range(0, len(clip) - size + 1, size)) or [0]
    return starts if starts[-1] + size >= len(clip) else [*starts, len(clip) - size]


def load(name: str, vggish: str | Path | None = None) -> Tagger:
    """Return a model that tags: `load("mn04_as")(waveform, rate)["labels"]`.

    Args:
        name: as `tagging tag --model` takes it: a file, a folder of runs, or a model's name.
        vggish: of VGGish's weights, with which a model of AudioSet's embeddings hears sound.

    Raises:
        UserError: if there is no such model, or no such weights.
    """
    return Tagger(models.find(name), None if vggish is None else Path(vggish))


def activate(outputs: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Return the probabilities that a network's outputs, (batch, classes), stand for."""
    if activation == "sigmoid":
        return outputs.sigmoid()
    return outputs.softmax(1) if activation == "softmax" else outputs


def _front(features: dict[str, Any], path: Path) -> nn.Module | None:
    """Return what computes a network's input of a waveform; None for AudioSet's embeddings.

    Raises:
        UserError: if nothing here computes it.
    """
    settings = dict(features)
    name = settings.pop("name", None)
    if name == "vggish":
        return None
    if name == "waveform":
        return Waveform(settings["sample_rate"])
    if name == "embedding":
        chosen = settings["classes"]
        # As in `stages.features`: the task's classes are in the order of their names.
        classes = chosen and [chosen[key] for key in sorted(chosen)]
        weights = models.find(settings["weights"])
        return embedding.Transform(weights, settings["gives"], classes)
    try:
        return embedding.build_transform(name, settings, str(path))
    except UserError:
        raise UserError(
            f"{path} takes the feature {name!r}, which is not known here; it takes a model of "
            "sound, or of AudioSet's embeddings"
        ) from None


def _reach(front: log_mel.Transform) -> int:
    """Return how far a frame reaches to either side, in samples: whole hops."""
    hop = front.settings.hop
    return -(-front.spectrum.fft // 2 // hop) * hop


def _seconds_of(front: nn.Module, spec: InputSpec) -> float:
    """Return how long a clip of `spec.frames` is: the roundest number of seconds with them."""
    rate, frames = front.sample_rate, spec.frames
    low, high = 1, 3600 * rate
    if front.frames(high) == front.frames(low):  # any clip has as many
        return WINDOW_SECONDS
    # The most samples that give no more frames.
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if front.frames(middle) <= frames else (low, middle)
    for digits in range(4):
        seconds = round(low / rate, digits)
        if seconds and front.frames(round(seconds * rate)) == frames:
            return seconds
    return low / rate
