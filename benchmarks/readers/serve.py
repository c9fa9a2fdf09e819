"""The loop of all readers of other packages: a request reads every shard of a folder once."""

import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.workers import Channel

Plain = tuple[bytes, list[int], bytes]  # video id, labels, frames


def fingerprint(clips: Iterable[Plain]) -> int:
    """Return a number that is equal for readers of the same clips, in any order."""
    total = 0
    for video_id, labels, frames in clips:
        total += zlib.crc32(b"%b %b %b" % (video_id, str(labels).encode(), frames))
    return total


def serve(
    read: Callable[[list[str]], Iterable[Any]],
    count: Callable[[Any], int],
    clips: Callable[[Any], Iterator[Plain]],
) -> None:
    """Read the shards of the folder on the command line, once per request.

    Args:
        read: yields the package's objects for the paths of shards.
        count: returns the number of records in an object.
        clips: returns the clips of an object as plain values; not part of the measured time.
    """
    channel = Channel()
    files = sorted(map(str, Path(sys.argv[1]).iterdir()))
    # This also warms up.
    channel.send(fingerprint=fingerprint(clip for item in read(files) for clip in clips(item)))
    while channel.wait():
        begin = time.perf_counter()
        records = sum(count(item) for item in read(files))
        channel.send(seconds=time.perf_counter() - begin, records=records)
