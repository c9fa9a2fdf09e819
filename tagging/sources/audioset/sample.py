"""A generated archive in AudioSet's format, to try the pipeline without AudioSet.

It has the properties of AudioSet: 527 labels with the same imbalance, several labels a clip with
the same co-occurrences, clips shorter than ten seconds, sounds that fill a part of the clip and
change over time, and wrong and missing labels. Nothing in it is recorded.

All arithmetic is on integers, and the gzip stream is stored, not compressed, so that the bytes are
the same on every machine, with every version of zlib and NumPy.
"""

import csv
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np

from tagging.base.files import atomic_write, write_text
from tagging.sources.audioset.labels import CLASSES, SAMPLE_MID
from tagging.sources.audioset.records import FRAME_BYTES, Clip, write_clip

CLIPS = {"bal_train": 3000, "eval": 2800, "unbal_train": 400}
SEED = 20170305  # the day AudioSet was announced at ICASSP
ROOT = "audioset_v1_embeddings"
SECONDS = 10
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# Clips of bal_train + eval with the ten most frequent of AudioSet's labels: Music, Speech, Vehicle,
# Animal, Inside (small room), Musical instrument, Singing, Domestic animals, Guitar, Water. The
# counts of the others fall from 570 to 118, half of that within the first twenty.
_COMMON = {
    137: 11856, 0: 10901, 300: 1621, 72: 1401, 506: 1348, 138: 938, 27: 879, 73: 751, 140: 656,
    288: 574,
}  # fmt: skip
# Percentage of the clips with the first label that have the second one.
_TOGETHER = [(140, 138, 90), (138, 137, 80), (27, 137, 75), (73, 72, 95), (506, 0, 80)]
_MISSING_PERCENT, _WRONG_PERCENT = 6, 3
_SHORT_PERCENT = 2


def sample_labels() -> list[tuple[int, str, str]]:
    """Return the 527 generated classes: index, machine id and a name that says so."""
    return [(index, f"{SAMPLE_MID}{index:03}", f"Sample label {index}") for index in range(CLASSES)]


def sample_clips(number: int, rng: np.random.Generator, sounds: "Sounds") -> list[Clip]:
    """Return `number` clips; ids are unique for up to 262,144 clips with the same `sounds`."""
    clips = []
    for _ in range(number):
        present = _sample_labels(rng)
        seconds = SECONDS if rng.integers(100) >= _SHORT_PERCENT else int(rng.integers(3, SECONDS))
        frames = sounds.render(present, seconds, rng)
        start = 10.0 * int(rng.integers(30))
        clips.append(
            Clip(
                sounds.next_id(rng),
                start,
                start + seconds,
                _annotate(present, rng),
                frames.tobytes(),
            )
        )
    return clips


def _weights() -> np.ndarray:
    rest = [label for label in range(CLASSES) if label not in _COMMON]
    weights = np.zeros(CLASSES, np.int64)
    last = len(rest) - 1
    for rank, label in enumerate(rest):
        weights[label] = 118 + (570 - 118) * (last - rank) ** 18 // last**18
    for label, clips in _COMMON.items():
        weights[label] = clips
    return weights


_CUMULATIVE = np.cumsum(_weights())


def _sample_label(rng: np.random.Generator) -> int:
    return int(np.searchsorted(_CUMULATIVE, rng.integers(_CUMULATIVE[-1]), side="right"))


def _sample_labels(rng: np.random.Generator) -> list[int]:
    """Return the labels of the sounds of a clip, mostly one to three."""
    labels = {_sample_label(rng)}
    while rng.integers(100) < 55:
        labels.add(_sample_label(rng))
    for first, second, percent in _TOGETHER:
        if first in labels and rng.integers(100) < percent:
            labels.add(second)
    return sorted(labels)


def _annotate(present: list[int], rng: np.random.Generator) -> list[int]:
    """Return the labels with the errors of annotators: some missing, some wrong, at least one."""
    annotated = {label for label in present if rng.integers(100) >= _MISSING_PERCENT}
    if rng.integers(100) < _WRONG_PERCENT or not annotated:
        annotated.add(_sample_label(rng))
    return sorted(annotated)


class Sounds:
    """The sound of each label: two alternating patterns over the 128 dimensions."""

    def __init__(self, rng: np.random.Generator) -> None:
        active = rng.integers(100, size=(CLASSES, 2, FRAME_BYTES)) < 30
        self._patterns = rng.integers(-70, 71, size=(CLASSES, 2, FRAME_BYTES)) * active
        self._loudness = rng.integers(4, 10, size=CLASSES)  # in eighths
        self._period = rng.integers(1, 4, size=CLASSES)  # seconds that a pattern lasts
        self._ids = 0

    def next_id(self, rng: np.random.Generator) -> str:
        """Return a new video id of 11 characters, whose first two are the name of its shard."""
        digits = [self._ids >> shift & 63 for shift in (12, 6, 0)]
        self._ids += 1
        # Six first characters and 64 second ones: some hundred shards, names that differ by case.
        shard = ["AaBb-_"[rng.integers(6)], _ALPHABET[rng.integers(64)]]
        return "".join(shard + list("sample") + [_ALPHABET[digit] for digit in digits])

    def render(self, labels: list[int], seconds: int, rng: np.random.Generator) -> np.ndarray:
        """Return the embeddings of a clip with these sounds: uint8 (seconds, 128)."""
        shape = (seconds, FRAME_BYTES)
        noise = rng.integers(-24, 25, size=(4, *shape)).sum(axis=0)
        room = rng.integers(-20, 21, size=FRAME_BYTES)
        total = 128 + noise + room
        times = np.arange(seconds)
        for label in labels:
            # Sounds of any length: half the clip on average, at least one second.
            duration = int(rng.integers(1, seconds + 1))
            start = int(rng.integers(seconds - duration + 1))
            pattern = (times + rng.integers(6)) // self._period[label] % 2
            level = self._loudness[label] * rng.integers(4, 9)  # in sixty-fourths
            sound = self._patterns[label][pattern] * level // 64
            sounding = (times >= start) & (times < start + duration)
            total = total + sound * sounding[:, None]
        return total.clip(0, 255).astype(np.uint8)


def sample_archive(clips: dict[str, int], seed: int = SEED) -> bytes:
    """Return a `features.tar.gz` with `clips` clips of each subset."""
    rng = np.random.default_rng(seed)
    sounds = Sounds(rng)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for subset, number in clips.items():
            shards: dict[str, bytearray] = {}
            for clip in sample_clips(number, rng, sounds):
                shards.setdefault(clip.video_id[:2], bytearray()).extend(write_clip(clip))
            folder = tarfile.TarInfo(f"{ROOT}/{subset}")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for name in sorted(shards):
                member = tarfile.TarInfo(f"{ROOT}/{subset}/{name}.tfrecord")
                member.size = len(shards[name])
                tar.addfile(member, io.BytesIO(shards[name]))
    return stored_gzip(out.getvalue())


def stored_gzip(data: bytes) -> bytes:
    """Return a gzip file that stores `data` uncompressed: RFC 1951, 3.2.4 and RFC 1952."""
    out = bytearray(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
    for start in range(0, max(len(data), 1), 0xFFFF):
        block = data[start : start + 0xFFFF]
        last = start + 0xFFFF >= len(data)
        out += struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block
    return bytes(out + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF))


def labels_csv() -> str:
    """Return the sample's `class_labels_indices.csv`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["index", "mid", "display_name"])
    writer.writerows(sample_labels())
    return out.getvalue()


def ontology_json() -> str:
    """Return an ontology of the sample's labels, whose root, as in AudioSet's, is not a label."""
    children = {parent: [k for k, p, _ in _TOGETHER if p == parent] for _, parent, _ in _TOGETHER}
    children[0] = []  # label 506, a place, often occurs with label 0, but is not a kind of it
    kinds = {child for members in children.values() for child in members}
    top = [label for label in range(CLASSES) if label not in kinds]
    classes = [(f"{SAMPLE_MID}top", "Sample labels", top, ["abstract"])]
    classes += [(mid, name, children.get(label, []), []) for label, mid, name in sample_labels()]
    mids = [mid for _, mid, _ in sample_labels()]
    return json.dumps(
        [
            {
                "id": mid,
                "name": name,
                "child_ids": [mids[k] for k in members],
                "restrictions": limits,
            }
            for mid, name, members, limits in classes
        ],
        indent=1,
    )


def write_sample(archive: Path, labels: Path, clips: dict[str, int] | None = None) -> None:
    """Write the sample archive and its class list; `clips` replaces the numbers in `CLIPS`."""
    with atomic_write(archive) as partial:
        partial.write_bytes(sample_archive(clips or CLIPS))
    write_text(labels, labels_csv())
