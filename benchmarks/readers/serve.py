"""What all readers of other packages share: a turn reads every shard of a folder once."""

import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.turns import Turns

Plain = tuple[bytes, list[int], bytes]  # video id, labels, frames


def fingerprint(clips: Iterable[Plain]) -> int:
    """Return a number that two readers share when they read the same clips, in whatever order."""
    total = 0
    for video_id, labels, frames in clips:
        total += zlib.crc32(b"%b %b %b" % (video_id, str(labels).encode(), frames))
    return total


def serve(
    read: Callable[[list[str]], Iterable[Any]],
    count: Callable[[Any], int],
    clips: Callable[[Any], Iterator[Plain]],
) -> None:
    """Read the shards of the folder named on the command line, once a turn.

    Args:
        read: yields what the package gives, for the paths of shards.
        count: returns the number of records in one thing that `read` gave.
        clips: returns them as plain values; not used where time is measured.
    """
    turns = Turns()
    files = sorted(map(str, Path(sys.argv[1]).iterdir()))
    # Also warms up.
    turns.tell(fingerprint=fingerprint(clip for given in read(files) for clip in clips(given)))
    while turns.wait():
        begin = time.perf_counter()
        records = sum(count(given) for given in read(files))
        turns.tell(seconds=time.perf_counter() - begin, records=records)
