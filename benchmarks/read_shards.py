"""Ways to read a subset's records, timed in turns: the loop of `convert` and torchdata.nodes.

Each way gives all clips of the subset, both checksums checked.
"""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torchdata.nodes as nodes

from benchmarks.ratios import alternate, ratios, spread, timed
from benchmarks.results import Result
from benchmarks.workspace import ARCHIVE, bring_archive, make_workspace, source
from tagging.base.progress import Progress
from tagging.sources.audioset.archive import Shard, read_shards
from tagging.sources.audioset.records import Clip, read_clips

TURNS = 5
SUBSET = "eval"
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


PLAIN = "plain loop"
WAYS = {
    PLAIN: plain,
    "Prefetcher": prefetcher,
    "ParallelMapper, 1 thread": parallel(1, "thread"),
    "ParallelMapper, 2 threads": parallel(2, "thread"),
    "ParallelMapper, 1 process": parallel(1, "process"),
    "ParallelMapper, 2 processes": parallel(2, "process"),
}


def measure(turns: int = TURNS) -> Result:
    """Time all ways in turns."""
    counts = set()

    def read(way: Callable[[Path, str], Iterable[list[Clip]]]) -> Callable[[], float]:
        return lambda: timed(lambda: counts.add(sum(map(len, way(archive, SUBSET)))))

    with TemporaryDirectory() as folder:
        make_workspace(Path(folder), source)
        bring_archive(Path(folder))
        archive = Path(folder) / ARCHIVE
        with Progress("read_shards", turns * len(WAYS), "run") as progress:
            ways = {name: read(way) for name, way in WAYS.items()}
            seconds = alternate(ways, turns, progress)
    assert len(counts) == 1, counts
    (records,) = counts
    rows = [
        {
            "way": name,
            "records/s": round(records / statistics.median(times)),
            "its time / the plain loop's": spread(ratios(times, seconds[PLAIN])),
        }
        for name, times in seconds.items()
    ]
    about = (
        f"{records:,} records of the subset `{SUBSET}`, out of the archive as it is, on all cores: "
        "the loop that `convert` reads with, and torchdata.nodes ahead of it."
    )
    return Result("Reading shards in parallel", about, rows, [])
