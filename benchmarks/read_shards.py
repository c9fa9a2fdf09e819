"""Ways to read a subset's records, timed in turns: the loop of `convert` and torchdata.nodes.

    python -m benchmarks.read_shards data/features.tar.gz eval

Each way gives all clips of the subset, both checksums checked. A ratio over 1 is slower than the
plain loop of the same turn.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torchdata.nodes as nodes

from benchmarks.ratios import summary
from tagging.archive import Shard, read_shards
from tagging.errors import entry_point
from tagging.progress import Progress
from tagging.records import Clip, read_clips
from tagging.tables import to_markdown

TURNS = 7
SHARDS_PER_BATCH = 64  # what a worker takes at a time
BATCHES_AHEAD = 4


def parse(shards: list[Shard]) -> list[Clip]:
    return [clip for shard in shards for clip in read_clips(shard.content, shard.name)]


def plain(archive: Path, subset: str) -> Iterable[list[Clip]]:
    return (parse([shard]) for shard in read_shards(archive, subset))


def _batches(archive: Path, subset: str) -> nodes.BaseNode:
    shards = nodes.IterableWrapper(read_shards(archive, subset))
    return nodes.Batcher(shards, SHARDS_PER_BATCH, drop_last=False)


def prefetcher(archive: Path, subset: str) -> Iterable[list[Clip]]:
    ahead = nodes.Prefetcher(_batches(archive, subset), BATCHES_AHEAD)
    return map(parse, nodes.Loader(ahead))


def parallel(workers: int, method: str) -> Callable[[Path, str], Iterable[list[Clip]]]:
    def read(archive: Path, subset: str) -> Iterable[list[Clip]]:
        mapper = nodes.ParallelMapper(
            _batches(archive, subset), parse, num_workers=workers, in_order=True, method=method
        )
        return nodes.Loader(nodes.Prefetcher(mapper, BATCHES_AHEAD))

    return read


WAYS = {
    "plain loop": plain,
    "Prefetcher": prefetcher,
    "ParallelMapper, 1 thread": parallel(1, "thread"),
    "ParallelMapper, 2 threads": parallel(2, "thread"),
    "ParallelMapper, 1 process": parallel(1, "process"),
    "ParallelMapper, 2 processes": parallel(2, "process"),
}


@entry_point
def main(archive: str, subset: str) -> None:
    """Print the table."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    counts = set()
    with Progress("read", TURNS * len(WAYS), "") as progress:
        for _ in range(TURNS):
            for name, way in WAYS.items():
                begin = time.perf_counter()
                counts.add(sum(map(len, way(Path(archive), subset))))
                seconds[name].append(time.perf_counter() - begin)
                progress.advance()
    assert len(counts) == 1, counts
    rows = []
    for name, times in seconds.items():
        ratios = (t / base for t, base in zip(times, seconds["plain loop"], strict=True))
        rate = f"{max(counts) / statistics.median(times):,.0f}"
        rows.append([name, *summary(ratios, 2), rate])
    print(to_markdown(["way", "ratio", "spread", "records/s"], rows, right=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
