"""Stage `features@<name>`: one feature of all clips, computed from their waveforms on all cores.

An entry of `features` is a transform of the waveform; one of `embeddings` is the output of a
trained network of `data/weights`. Each clip is transformed at its own length, as a recording is
when it is tagged, unless the entry has `pad_to_clip`. Copies of the clips with augmented waveforms
are features too, `<name>/augmented1` and so on, which training alone reads.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import soxr
import torch
from pydantic import Field

from tagging.base.errors import UserError, entry_point
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.data.clips import Features, read_features, read_index, write_features
from tagging.data.parameters import Params, Section
from tagging.data.spec import InputSpec
from tagging.data.task_folder import TaskFolder
from tagging.features.base import WaveformTransform
from tagging.features.waveform_augmentation import AugmentedCopies, augment_waveform
from tagging.learning import embedding

CLIPS_PER_CHUNK = 16


class Feature(Section):
    """An entry of `features`."""

    transform: str  # the name of a file in tagging/features, without .py
    settings: dict[str, Any] = Field({})  # of the transform
    # Pads shorter clips with silence: networks are faster where all clips have one length.
    pad_to_clip: bool = Field(False, strict=True)
    augmented_copies: list[AugmentedCopies] = Field([])


class Embedding(Section):
    """An entry of `embeddings`."""

    weights: str  # a name in `weights`
    architecture: str | None = None  # of the weights; dvc.yaml has its file as a dependency
    output: Literal["embedding", "probabilities"]
    classes: dict[str, str] | None = None
    """The network's class for each class of the task, of which probabilities are computed; null for
    all classes of the network."""


class Extractor(NamedTuple):
    """The computation of a feature.

    `settings` are stored with the feature, and with the models trained on it. `augmented_copies`
    has the settings of each copy.
    """

    transform: WaveformTransform
    settings: dict[str, Any]
    pad_to_clip: bool = False
    augmented_copies: Sequence[AugmentedCopies] = ()


def load_extractor(name: str, params: Params, folder: TaskFolder) -> Extractor:
    """Return the extractor of an entry of `features` or `embeddings`.

    Raises:
        UserError: if the entry does not exist or is not valid.
    """
    features, embeddings = params.entries("features"), params.entries("embeddings")
    if name in embeddings:
        entry = params.parse(Embedding, embeddings[name], f"embeddings.{name}")
        path = folder.weights(entry.weights)
        classes = None
        if entry.classes is not None:
            classes = order_classes(entry.classes, f"embeddings.{name}.classes", params, folder)
        network = embedding.Transform(path, entry.output, classes)
        if entry.architecture not in (None, network.architecture):
            raise UserError(
                f"{params.path}: embeddings.{name}.architecture must be {network.architecture}, "
                f"that of {path}, got {entry.architecture!r}"
            )
        return Extractor(network, {"name": "embedding", **entry.model_dump()})
    if name not in features:
        raise UserError(
            f"{params.path}: features.{name} is missing; features and embeddings have "
            f"{', '.join([*features, *embeddings])}"
        )
    feature = params.parse(Feature, features[name], f"features.{name}")
    return Extractor(
        embedding.build_transform(
            feature.transform, feature.settings, f"features.{name}", params.path
        ),
        {"name": feature.transform, **feature.settings},
        feature.pad_to_clip,
        [item for item in feature.augmented_copies for _ in range(item.copies)],
    )


def order_classes(
    classes: dict[str, str], key: str, params: Params, folder: TaskFolder
) -> list[str]:
    """Return the network's classes in the order of the task's classes, the keys of `classes`.

    Raises:
        UserError: if a class of the task is missing, or a key is not a class of the task.
    """
    names = [label.name for label in read_index(folder.index).classes]
    if wrong := set(names) ^ set(classes):
        problem = "missing" if min(wrong) in names else "not one of them"
        raise UserError(
            f"{params.path}: {key} must have the task's {len(names)} classes; {min(wrong)!r} is "
            f"{problem}"
        )
    return [classes[name] for name in names]


class ClipReader:
    """Read the waveforms of clips, and of their augmented copies, as a transform expects them."""

    def __init__(self, waveforms: Features, extractor: Extractor) -> None:
        self.waveforms = waveforms
        self.extractor = extractor
        self.sample_rate: int = waveforms.settings["sample_rate"]

    def resample(self, samples: np.ndarray) -> torch.Tensor:
        """Return a waveform, float32 (samples,), at the transform's rate: (1, samples)."""
        if self.sample_rate != self.extractor.transform.sample_rate:
            rate = self.extractor.transform.sample_rate
            samples = soxr.resample(samples, self.sample_rate, rate)
        return torch.from_numpy(samples).unsqueeze(0)

    def longest(self) -> int:
        """Return the number of samples of the longest clip, at the transform's rate."""
        return self.resample(np.zeros(self.waveforms.spec.frames, np.float32)).shape[1]

    def read(self, clip: int, copy: int) -> torch.Tensor:
        """Return the waveform of a clip (copy 0) or of a copy of it, float32 (1, samples)."""
        waveforms, extractor = self.waveforms, self.extractor
        # Silence is stored after the end of a shorter clip.
        end = waveforms.spec.frames if extractor.pad_to_clip else waveforms.frames[clip]
        stored = waveforms.values[clip, 0, :end, 0]
        samples = waveforms.spec.as_input(torch.from_numpy(stored.copy())).numpy()
        if waveforms.scales is not None:
            samples *= waveforms.scales[clip]
        if copy:
            settings = extractor.augmented_copies[copy - 1]
            rng = np.random.default_rng([settings.seed, copy, clip])
            samples = augment_waveform(samples, self.sample_rate, settings, rng)
        return self.resample(samples)


def write_feature(
    feature: Path,
    copy: int,
    reader: ClipReader,
    spec: InputSpec,
    threads: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    """Write the feature of all clips (copy 0) or of a copy of them to the folder `feature`."""
    num_clips = len(reader.waveforms.values)
    extractor = reader.extractor
    with write_features(feature, num_clips, np.float32, spec, extractor.settings) as arrays:
        values, frames = arrays

        @torch.inference_mode()
        def compute(start: int) -> int:
            """Compute the features of a chunk of clips; return their number."""
            clips = range(start, min(start + CLIPS_PER_CHUNK, num_clips))
            for clip in clips:
                computed = extractor.transform(reader.read(clip, copy))[0].numpy()
                frames[clip] = number = min(computed.shape[1], spec.frames)
                values[clip, :, :number] = computed[:, :number]
            return len(clips)

        for number in threads.map(compute, range(0, num_clips, CLIPS_PER_CHUNK)):
            progress.advance(number)


@entry_point
def main(folder: str, name: str) -> None:
    """Compute the feature `name` of a task."""
    task_folder = TaskFolder(Path(folder))
    params = Params.read(task_folder.params)
    torch.set_num_threads(1)
    extractor = load_extractor(name, params, task_folder)
    reader = ClipReader(read_features(task_folder.feature("waveform")), extractor)
    transform = extractor.transform
    spec = InputSpec(transform.channels, transform.frames(reader.longest()), transform.bins)
    copies = len(extractor.augmented_copies)
    total = len(reader.waveforms.values) * (1 + copies)
    with (
        Progress(f"features {name}", total, "clip", params.runtime().progress) as progress,
        ThreadPoolExecutor(num_workers()) as threads,
    ):
        feature = task_folder.feature(name)
        write_feature(feature, 0, reader, spec, threads, progress)
        for copy in range(1, copies + 1):
            write_feature(feature / f"augmented{copy}", copy, reader, spec, threads, progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
