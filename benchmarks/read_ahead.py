"""Ways to do work ahead of who takes it, timed in turns: parsing shards, decoding recordings.

`convert` parses in a plain loop, `decode` decodes on a pool of threads. Beside them: a pool of
processes, and torchdata.nodes. Each way gives all there is, in order.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torchdata.nodes as nodes

from benchmarks.ratios import alternate, ratios, spread, timed
from benchmarks.results import NotMeasured, Result
from benchmarks.sound import RATE, esc10
from benchmarks.workspace import ARCHIVE, bring_archive, make_workspace, source
from tagging.base.progress import Progress
from tagging.features.decoding import decode
from tagging.sources.audioset.archive import Shard, read_shards
from tagging.sources.audioset.records import Clip, read_clips

TURNS = 5
SUBSET = "eval"
SHARDS_PER_BATCH = 64  # what a worker takes at a time
BATCHES_AHEAD = 4
WORKERS = 2

Work = Callable[[Any], Sized]
Way = Callable[[Callable[[], Iterable[Any]], Work], Iterable[Sized]]


def parse(shards: list[Shard]) -> list[Clip]:
    """Return the clips in the shards, both checksums of each checked."""
    return [clip for shard in shards for clip in read_clips(shard.content, shard.name)]


def waveform(content: bytes) -> np.ndarray:
    """Return a recording, decoded and resampled: float32 (samples,)."""
    return decode(content, "a recording", RATE)


def batches(archive: Path) -> Iterator[list[Shard]]:
    """Yield the subset's shards, some at a time."""
    batch: list[Shard] = []
    for shard in read_shards(archive, SUBSET):
        batch.append(shard)
        if len(batch) == SHARDS_PER_BATCH:
            yield batch
            batch = []
    yield batch


def pool(kind: type[Executor]) -> Way:
    def run(items: Callable[[], Iterable[Any]], work: Work) -> Iterator[Sized]:
        with kind(WORKERS) as workers:
            yield from workers.map(work, items())

    return run


def prefetcher(items: Callable[[], Iterable[Any]], work: Work) -> Iterator[Sized]:
    ahead = nodes.Prefetcher(nodes.IterableWrapper(items()), BATCHES_AHEAD)
    return map(work, nodes.Loader(ahead))


def mapper(method: str) -> Way:
    def run(items: Callable[[], Iterable[Any]], work: Work) -> Iterable[Sized]:
        mapped = nodes.ParallelMapper(
            nodes.IterableWrapper(items()), work, num_workers=WORKERS, in_order=True, method=method
        )
        return nodes.Loader(nodes.Prefetcher(mapped, BATCHES_AHEAD))

    return run


PLAIN = "plain loop"
WAYS: dict[str, Way] = {
    PLAIN: lambda items, work: map(work, items()),
    f"pool of {WORKERS} threads": pool(ThreadPoolExecutor),
    f"pool of {WORKERS} processes": pool(ProcessPoolExecutor),
    "torchdata.nodes, Prefetcher": prefetcher,
    f"torchdata.nodes, ParallelMapper, {WORKERS} threads": mapper("thread"),
    f"torchdata.nodes, ParallelMapper, {WORKERS} processes": mapper("process"),
}


class Job(NamedTuple):
    """What is done, to how many, and to which pieces."""

    name: str
    number: int
    items: Callable[[], Iterable[Any]]
    work: Work


def measure(turns: int = TURNS) -> Result:
    """Time all ways in turns; recordings where ESC-10 is in a mirror."""
    totals: dict[str, set[int]] = {}

    def run(job: Job, way: Way) -> float:
        found = totals.setdefault(job.name, set())
        return timed(lambda: found.add(sum(map(len, way(job.items, job.work)))))

    with TemporaryDirectory() as folder:
        make_workspace(Path(folder), source)
        bring_archive(Path(folder))
        shards = partial(batches, Path(folder) / ARCHIVE)
        jobs = [
            Job("records out of the archive", sum(map(len, map(parse, shards()))), shards, parse)
        ]
        with suppress(NotMeasured):
            recordings = esc10()
            jobs.append(Job("recordings decoded", len(recordings), lambda: recordings, waveform))
        turned = {(job, name): partial(run, job, way) for job in jobs for name, way in WAYS.items()}
        with Progress("read_ahead", turns * len(turned), "run") as progress:
            seconds = alternate(turned, turns, progress)
    assert all(len(found) == 1 for found in totals.values()), totals
    rows = [
        {
            "what": job.name,
            "way": name,
            "a second": round(job.number / statistics.median(times)),
            "its time / the plain loop's": spread(ratios(times, seconds[job, PLAIN])),
        }
        for (job, name), times in seconds.items()
    ]
    told = " and ".join(f"{job.number:,} {job.name}" for job in jobs)
    about = (
        f"{told}, on all cores. `convert` parses in the plain loop, `decode` decodes on a pool of "
        "threads."
    )
    return Result("Reading ahead", about, rows, [])
