"""Stage `features@<name>`: one feature of all clips, from their waveforms, on all cores.

An entry of `features` is computed from the waveform alone; one of `embeddings` is what a network of
`data/weights` says of it. Each clip is computed at its own length, as a recording would be, unless
the entry is `filled`. Where it asks for copies with `changed` waveforms, `<name>/changed1` and so
on are features as well, which training alone reads.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soxr
import torch
from pydantic import Field
from torch import nn

from tagging.base.errors import UserError, entry_point
from tagging.base.processes import num_workers
from tagging.base.progress import Progress
from tagging.data.augmentation import Changed, change
from tagging.data.clips import read_features, read_index, write_features
from tagging.data.spec import InputSpec
from tagging.learning import embedding
from tagging.parameters import Machine, Section, load, parse, read_params

CLIPS_AT_A_TIME = 16


class Feature(Section):
    """One entry of `features`."""

    transform: str = Field(description="the name of a file in tagging/features, without its .py")
    settings: dict[str, Any] = Field({}, description="a mapping of the transform's settings")
    filled: bool = Field(
        False,
        description="true (shorter clips are filled up with silence, so that all have one length: "
        "networks are then faster) or false",
        strict=True,
    )
    changed: Changed | None = Field(
        None,
        description=f"a mapping of {', '.join(Changed.model_fields)}: copies of the clips, whose "
        "waveforms are changed; or null",
    )


class Embedding(Section):
    """One entry of `embeddings`."""

    weights: str = Field(description="the name of an entry of weights")
    architecture: str | None = Field(
        None,
        description="the name of the file in tagging/networks that these weights are for, which "
        "dvc.yaml takes for a dep; or null",
    )
    gives: Literal["embedding", "scores"] = Field(description="embedding or scores")
    classes: dict[str, str] | None = Field(
        None,
        description="a mapping of the task's classes to the network's, whose scores are given; "
        "null for all of the network's",
    )


def transform_of(name: str) -> tuple[nn.Module, dict[str, Any], bool, Changed | None]:
    """Return an entry's transform, its settings as they are kept with weights, `filled`, `changed`.

    Raises:
        UserError: if there is no such entry, or it is not as it should be.
    """
    params = read_params()
    features, embeddings = (params.get(key) or {} for key in ("features", "embeddings"))
    if name in embeddings:
        entry = parse(Embedding, embeddings[name], f"embeddings.{name}")
        path = Path(f"data/weights/{entry.weights}.safetensors")
        classes = None if entry.classes is None else in_order(entry.classes, name)
        transform = embedding.Transform(path, entry.gives, classes)
        if entry.architecture not in (None, transform.architecture):
            raise UserError(
                f"params.yaml: embeddings.{name}.architecture is {entry.architecture!r}; it takes "
                f"{transform.architecture}, which {path} is of"
            )
        return transform, {"name": "embedding", **entry.model_dump()}, False, None
    if name not in features:
        raise UserError(
            f"params.yaml: features.{name} is missing; features and embeddings have "
            f"{', '.join([*features, *embeddings])}"
        )
    entry = parse(Feature, features[name], f"features.{name}")
    transform = embedding.build_transform(entry.transform, entry.settings, f"features.{name}")
    about = {"name": entry.transform, **entry.settings}
    return transform, about, entry.filled, entry.changed


def in_order(classes: dict[str, str], name: str) -> list[str]:
    """Return the network's classes in the order of the task's, which `classes` maps to them.

    Raises:
        UserError: if a class of the task is missing, or one is none of the task's.
    """
    names = [of.name for of in read_index().classes]
    if wrong := set(names) ^ set(classes):
        raise UserError(
            f"params.yaml: embeddings.{name}.classes takes the task's {len(names)} classes; "
            f"{min(wrong)!r} is {'missing' if min(wrong) in names else 'none of them'}"
        )
    return [classes[of] for of in names]


@entry_point
def main(name: str) -> None:
    """Run the stage for the feature `name`."""
    machine = load(Machine, "run")
    torch.set_num_threads(1)
    transform, about, filled, changed = transform_of(name)
    waveforms = read_features("waveform")
    rate = waveforms.settings["sample_rate"]

    def at_rate(samples: np.ndarray) -> torch.Tensor:
        """Return a waveform, float32 (samples,), as the transform takes it: (1, samples)."""
        if rate != transform.sample_rate:
            samples = soxr.resample(samples, rate, transform.sample_rate)
        return torch.from_numpy(samples).unsqueeze(0)

    def read_clip(place: int, copy: int) -> np.ndarray:
        """Return a clip's waveform, float32 (samples,), or that of a copy from 1 on."""
        # Behind a shorter clip's end silence is stored.
        end = waveforms.spec.frames if filled else waveforms.frames[place]
        stored = waveforms.values[place, 0, :end, 0]
        samples = waveforms.spec.as_input(torch.from_numpy(stored.copy())).numpy()
        if copy:
            rng = np.random.default_rng([changed.seed, copy, place])
            samples = change(samples, rate, changed, rng)
        return samples

    longest = at_rate(np.zeros(waveforms.spec.frames, np.float32)).shape[1]
    spec = InputSpec(transform.channels, transform.frames(longest), transform.bins)
    clips = len(waveforms.values)
    copies = changed.copies if changed else 0

    def write(name: str, copy: int) -> None:
        """Write the feature of all clips, or of a copy of them."""
        with write_features(name, ((clips, *spec[:3]), np.float32), spec, about) as found:
            values, frames = found

            @torch.inference_mode()
            def compute(start: int) -> int:
                """Write the features of some clips; return how many."""
                places = range(start, min(start + CLIPS_AT_A_TIME, clips))
                for place in places:
                    computed = transform(at_rate(read_clip(place, copy)))[0].numpy()
                    frames[place] = number = min(computed.shape[1], spec.frames)
                    values[place, :, :number] = computed[:, :number]
                return len(places)

            for done in threads.map(compute, range(0, clips, CLIPS_AT_A_TIME)):
                progress.advance(done)

    with (
        Progress(f"features {name}", clips * (1 + copies), "clip", machine.progress) as progress,
        ThreadPoolExecutor(num_workers()) as threads,
    ):
        write(name, 0)
        for copy in range(1, copies + 1):
            write(f"{name}/changed{copy}", copy)


if __name__ == "__main__":
    main(*sys.argv[1:])
