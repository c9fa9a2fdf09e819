"""An archive as large as AudioSet's, generated as a stream in seconds.

Each clip of the generated sample is repeated a thousand times or more, with new ids and new random
lower bits of its embeddings. gzip compresses them to nine tenths, about as it does AudioSet's, so
that gunzip takes its usual time. About as many clips have Music or Speech as in AudioSet, where
each label has a million: this decides how many clips are trained on.
"""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
from isal import igzip

from tagging.sources.audioset.records import FRAME_BYTES, VIDEO_ID_CHARACTERS, write_clip
from tagging.sources.audioset.sample import ROOT, SEED, Sounds, sample_clips

TEMPLATES = 1024
MUSIC_SPEECH = {137, 0}
KEEP_PERCENT = 25  # of the clips of the sample with neither label
TEMPLATES_PER_SHARD, CLIPS_PER_TEMPLATE = 8, 64  # 512 clips per shard: AudioSet has 498
RANDOM_BITS = 5
_HEADER = 12  # the length of a record and its checksum
_DIGITS = np.frombuffer(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8
)
# The shares of AudioSet's records in its two small subsets; unbal_train has the rest.
_SHARES = {"bal_train": 22_160 / 2_084_320, "eval": 20_371 / 2_084_320}


class Template(NamedTuple):
    """A framed record, and the offsets of its video id and of each of its frames."""

    record: np.ndarray
    video_id: int
    frames: list[int]


def subsets(clips: int) -> dict[str, int]:
    """Divide clips among AudioSet's subsets in its proportions, with at least one clip each."""
    small = {name: max(1, round(share * clips)) for name, share in _SHARES.items()}
    return small | {"unbal_train": clips - sum(small.values())}


def make_templates(rng: np.random.Generator) -> list[Template]:
    """Return records of the generated sample whose id and frames can be replaced."""
    templates = []
    for clip in sample_clips(TEMPLATES, rng, Sounds(rng)):
        if not MUSIC_SPEECH & set(clip.labels) and rng.integers(100) >= KEEP_PERCENT:
            continue
        record = write_clip(clip)
        frames, at = [], 0
        for start in range(0, len(clip.audio_embedding), FRAME_BYTES):
            at = record.index(clip.audio_embedding[start : start + FRAME_BYTES], at)
            frames.append(at)
            at += FRAME_BYTES
        video_id = record.index(clip.video_id.encode())
        templates.append(Template(np.frombuffer(record, np.uint8), video_id, frames))
    return templates


def fill(template: Template, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return framed records, uint8 (clips, bytes), with these ids and random lower bits of frames.

    Args:
        template: the record that they are copies of.
        ids: uint8 (clips, 11).
        rng: draws the lower bits.
    """
    records = np.tile(template.record, (len(ids), 1))
    records[:, template.video_id : template.video_id + VIDEO_ID_CHARACTERS] = ids
    noise = rng.integers(
        1 << RANDOM_BITS, size=(len(ids), len(template.frames), FRAME_BYTES), dtype=np.uint8
    )
    for number, begin in enumerate(template.frames):
        records[:, begin : begin + FRAME_BYTES] ^= noise[:, number]
    crcs = [google_crc32c.value(record[_HEADER:-4].tobytes()) for record in records]
    crc = np.array(crcs, np.uint32)
    masked = (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)  # as `masked_crc` of records.py
    records[:, -4:] = masked.astype("<u4").view(np.uint8).reshape(-1, 4)
    return records


def video_ids(first: int, number: int) -> np.ndarray:
    """Return `number` ids from `first` on, uint8 (number, 11), with five digits in base 64."""
    numbers = np.arange(first, first + number)[:, None]
    digits = numbers >> 6 * np.arange(4, -1, -1) & 63
    start = np.tile(np.frombuffer(b"sample", np.uint8), (number, 1))
    return np.concatenate([start, _DIGITS[digits]], axis=1)


def write_large_archive(
    archive: Path, clips: int, on_clips: Callable[[int], None] = lambda number: None
) -> None:
    """Write a features archive of `clips` clips, in constant memory.

    Args:
        archive: the path of `features.tar.gz`.
        clips: their number, in all subsets together; 3 or more.
        on_clips: called with the number of clips written since its last call.
    """
    rng = np.random.default_rng(SEED)
    templates = make_templates(rng)
    first = 0
    with (
        igzip.open(archive, "wb", compresslevel=1) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for subset, left in subsets(clips).items():
            while left:
                parts = []
                for template in rng.choice(len(templates), TEMPLATES_PER_SHARD, replace=False):
                    number = min(left, CLIPS_PER_TEMPLATE)
                    ids = video_ids(first, number)
                    parts.append(fill(templates[template], ids, rng).tobytes())
                    first, left = first + number, left - number
                    on_clips(number)
                    if not left:
                        break
                content = b"".join(parts)
                member = tarfile.TarInfo(f"{ROOT}/{subset}/{first:08}.tfrecord")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
