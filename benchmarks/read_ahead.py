"""Prefetching: parsing shards and decoding recordings ahead of their use.

`convert` parses in a plain loop, `decode` decodes on a pool of threads; compared with a pool of
processes and torchdata.nodes. Each implementation yields all results in order.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import numpy as np
import torchdata.nodes as nodes

from benchmarks.results import NotMeasured, Result
from benchmarks.sound import RATE, read_esc10
from benchmarks.timing import interleave, measure_seconds, ratios, spread
from benchmarks.workspace import ARCHIVE, make_workspace, provide_archive, select_source
from tagging.base.progress import Progress
from tagging.features.decoding import decode
from tagging.sources.audioset.archive import Shard, read_shards
from tagging.sources.audioset.records import Clip, read_clips

ROUNDS = 5
SUBSET = "eval"
SHARDS_PER_BATCH = 64  # the unit of work
BATCHES_AHEAD = 4
WORKERS = 2

Work = Callable[[Any], Sized]
Implementation = Callable[[Callable[[], Iterable[Any]], Work], Iterable[Sized]]


def parse(shards: list[Shard]) -> list[Clip]:
    """Return the clips in the shards, with both checksums of each verified."""
    return [clip for shard in shards for clip in read_clips(shard.content, shard.name)]


def decode_recording(content: bytes) -> np.ndarray:
    """Return the resampled waveform of a recording, float32 (samples,)."""
    return decode(content, "a recording", RATE)


def read_batches(archive: Path) -> Iterator[list[Shard]]:
    """Yield the shards of the subset in batches."""
    batch: list[Shard] = []
    for shard in read_shards(archive, SUBSET):
        batch.append(shard)
        if len(batch) == SHARDS_PER_BATCH:
            yield batch
            batch = []
    yield batch


def pool(kind: type[Executor]) -> Implementation:
    """Return the implementation on a pool of threads or processes."""

    def run(items: Callable[[], Iterable[Any]], work: Work) -> Iterator[Sized]:
        with kind(WORKERS) as workers:
            yield from workers.map(work, items())

    return run


def prefetcher(items: Callable[[], Iterable[Any]], work: Work) -> Iterator[Sized]:
    """Read items ahead with torchdata, and work in the main thread."""
    ahead = nodes.Prefetcher(nodes.IterableWrapper(items()), BATCHES_AHEAD)
    return map(work, nodes.Loader(ahead))


def mapper(method: Literal["thread", "process"]) -> Implementation:
    """Return the implementation with torchdata's ParallelMapper."""

    def run(items: Callable[[], Iterable[Any]], work: Work) -> Iterable[Sized]:
        mapped = nodes.ParallelMapper(
            nodes.IterableWrapper(items()), work, num_workers=WORKERS, in_order=True, method=method
        )
        return nodes.Loader(nodes.Prefetcher(mapped, BATCHES_AHEAD))

    return run


PLAIN = "plain loop"
IMPLEMENTATIONS: dict[str, Implementation] = {
    PLAIN: lambda items, work: map(work, items()),
    f"pool of {WORKERS} threads": pool(ThreadPoolExecutor),
    f"pool of {WORKERS} processes": pool(ProcessPoolExecutor),
    "torchdata.nodes, Prefetcher": prefetcher,
    f"torchdata.nodes, ParallelMapper, {WORKERS} threads": mapper("thread"),
    f"torchdata.nodes, ParallelMapper, {WORKERS} processes": mapper("process"),
}


class Job(NamedTuple):
    """Work, the number of its results, and the items it is done on."""

    name: str
    number: int
    items: Callable[[], Iterable[Any]]
    work: Work


def measure(rounds: int = ROUNDS) -> Result:
    """Time all implementations, on recordings too if a mirror has ESC-10."""
    totals: dict[str, set[int]] = {}

    def run(job: Job, implementation: Implementation) -> float:
        job_totals = totals.setdefault(job.name, set())
        return measure_seconds(
            lambda: job_totals.add(sum(map(len, implementation(job.items, job.work))))
        )

    with TemporaryDirectory() as folder:
        make_workspace(Path(folder), select_source)
        provide_archive(Path(folder))
        shards = partial(read_batches, Path(folder) / ARCHIVE)
        jobs = [
            Job("records of the archive parsed", sum(map(len, map(parse, shards()))), shards, parse)
        ]
        with suppress(NotMeasured):
            recordings = read_esc10()
            jobs.append(
                Job("recordings decoded", len(recordings), lambda: recordings, decode_recording)
            )
        runs = {
            (job, name): partial(run, job, implementation)
            for job in jobs
            for name, implementation in IMPLEMENTATIONS.items()
        }
        with Progress("read_ahead", rounds * len(runs), "run") as progress:
            seconds = interleave(runs, rounds, progress)
    assert all(len(job_totals) == 1 for job_totals in totals.values()), totals
    rows = [
        {
            "work": job.name,
            "implementation": name,
            "per second": round(job.number / statistics.median(times)),
            "time / plain loop's": spread(ratios(times, seconds[job, PLAIN])),
        }
        for (job, name), times in seconds.items()
    ]
    amounts = " and ".join(f"{job.number:,} {job.name}" for job in jobs)
    description = (
        f"{amounts}, on all cores. `convert` parses in the plain loop, `decode` decodes on a "
        "pool of threads."
    )
    return Result("Prefetching", description, rows, [])
