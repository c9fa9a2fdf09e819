"""Reading AudioSet's records: the stage `convert`, other readers, and gunzip alone, on one core.

`convert` does all of its work: it gunzips the archive, verifies checksums, parses and writes
parquet. The others do less: they read unpacked shards and write nothing. Before anything is timed,
the clips of all readers are compared.
"""

import gc
import gzip
import io
import statistics
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pyarrow.parquet as pq
from isal import igzip

from benchmarks.machine import on_cores
from benchmarks.readers.serve import Plain, fingerprint
from benchmarks.results import Cell, Result, Target
from benchmarks.timing import interleave, measure_seconds, ratios, spread
from benchmarks.workers import ROOT, Worker, WorkerError
from benchmarks.workspace import ARCHIVE, LABELS, make_workspace, provide_archive, select_source
from stages.convert import convert
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.sources.audioset.archive import Shard, read_shards
from tagging.sources.audioset.labels import is_sample, read_labels
from tagging.sources.audioset.records import read_clips

ROUNDS = 7
SUBSET = "eval"
GZIP_LEVEL = 6
READ_BYTES = 1 << 20

# Name, module and interpreter of each reader.
TFRECORD, TORCHDATA, TENSORFLOW = "tfrecord", "torchdata 0.9, load_from_tfrecord", "TensorFlow"
READERS = {
    TFRECORD: ("benchmarks.readers.tfrecord", sys.executable),
    TORCHDATA: ("benchmarks.readers.torchdata", str(ROOT / ".venv-torchdata/bin/python")),
    TENSORFLOW: ("benchmarks.readers.tensorflow", str(ROOT / ".venv-tensorflow/bin/python")),
}
CONVERT, PARSE = "convert", "parser of convert only"
ZLIB, ISAL = "gunzip of the archive, zlib", "gunzip of the archive, isal"
WORK = {
    CONVERT: "gunzips, verifies, parses, writes parquet",
    PARSE: "unpacked shards in memory; verifies, parses",
    TFRECORD: "unpacked shards; parses (in C)",
    TORCHDATA: "unpacked shards; parses (in Python)",
    TENSORFLOW: "unpacked shards; verifies, parses in batches",
    ZLIB: "gunzips",
    ISAL: "gunzips",
}


def write_subset(shards: list[Shard], archive: Path, folder: Path) -> None:
    """Write shards twice: as an archive, and unpacked, named by their positions in it."""
    folder.mkdir()
    with (
        gzip.open(archive, "wb", GZIP_LEVEL) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for number, shard in enumerate(shards):
            member = tarfile.TarInfo(shard.name)
            member.size = len(shard.content)
            tar.addfile(member, io.BytesIO(shard.content))
            (folder / f"{number:05}.tfrecord").write_bytes(shard.content)


def gunzip_zlib(archive: Path) -> int:
    """Gunzip a file with Python's zlib; return the number of bytes."""
    inflate, size = zlib.decompressobj(zlib.MAX_WBITS | 16), 0
    with archive.open("rb") as file:
        while piece := file.read(READ_BYTES):
            size += len(inflate.decompress(piece))
    return size


def gunzip_isal(archive: Path) -> int:
    """Gunzip a file with isal, as `convert` does; return the number of bytes."""
    size = 0
    with igzip.open(archive) as file:
        while piece := file.read(READ_BYTES):
            size += len(piece)
    return size


def parquet_clips(path: Path) -> Iterator[Plain]:
    """Yield the clips of a file that `convert` wrote."""
    columns = ["video_id", "labels", "audio_embedding"]
    table = pq.read_table(path, columns=columns).to_pydict()
    for video_id, labels, frames in zip(*(table[name] for name in columns), strict=True):
        yield video_id.encode(), labels, frames


def measure(rounds: int = ROUNDS, readers: dict[str, tuple[str, str]] = READERS) -> Result:
    """Time `convert`, `readers`, its parser and gunzip, interleaved."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        make_workspace(folder, select_source)
        provide_archive(folder)
        shards = list(read_shards(folder / ARCHIVE, SUBSET))
        data = "the generated sample" if is_sample(read_labels(folder / LABELS)) else "AudioSet"
        archive, unpacked, parquet = folder / "one.tar.gz", folder / "one", folder / "one.parquet"
        write_subset(shards, archive, unpacked)

        stack.enter_context(on_cores(1))
        silent = Progress("convert", None, "B", "none")
        records = convert(archive, SUBSET, parquet, silent)
        expected = fingerprint(parquet_clips(parquet))
        workers: dict[str, Worker] = {}
        missing: dict[str, str] = {}
        for reader, (module, python) in readers.items():
            try:
                workers[reader] = stack.enter_context(Worker(module, [str(unpacked)], python))
            except WorkerError as problem:
                missing[reader] = str(problem)
                continue
            if workers[reader].ready["fingerprint"] != expected:
                raise UserError(f"{reader} and convert read different clips from the same shards")
        if gunzip_zlib(archive) != gunzip_isal(archive):
            raise UserError(f"zlib and isal decompress {archive} to different bytes")

        def parse() -> None:
            assert records == sum(
                1 for shard in shards for _ in read_clips(shard.content, shard.name)
            )

        def read(worker: Worker) -> Callable[[], float]:
            def run() -> float:
                result = worker.run()
                assert result["records"] == records, result
                return result["seconds"]

            return run

        implementations = {
            CONVERT: lambda: measure_seconds(lambda: convert(archive, SUBSET, parquet, silent)),
            **{reader: read(worker) for reader, worker in workers.items()},
            PARSE: lambda: measure_seconds(parse),
            ZLIB: lambda: measure_seconds(lambda: gunzip_zlib(archive)),
            ISAL: lambda: measure_seconds(lambda: gunzip_isal(archive)),
        }
        gc.collect()
        gc.disable()  # as the stage does
        stack.callback(gc.enable)
        with Progress("convert", rounds * len(implementations), "run") as progress:
            seconds = interleave(implementations, rounds, progress)
        description = (
            f"{records:,} records of {data}, the {len(shards):,} shards of `{SUBSET}`, in an "
            f"archive of {archive.stat().st_size / 1e6:.0f} MB, on one core."
        )
    rows = [
        make_row(name, seconds.get(name), seconds[CONVERT], records)
        for name in (*implementations, *missing)
    ]
    return Result("convert and other readers", description, rows, targets(seconds, missing))


def make_row(
    name: str, seconds: list[float] | None, convert_seconds: list[float], records: int
) -> dict[str, Cell]:
    """Return the row of an implementation; `seconds` is None if it is not installed."""
    return {
        "implementation": name,
        "work": WORK[name] if seconds else "not installed",
        "records/s": round(records / statistics.median(seconds)) if seconds else None,
        "seconds": spread(seconds) if seconds else None,
        "time / convert's": spread(ratios(seconds, convert_seconds)) if seconds else None,
    }


def targets(seconds: dict[str, list[float]], missing: dict[str, str]) -> list[Target]:
    """Return the targets of `convert`; ratios are medians over the rounds."""
    own = seconds[CONVERT]

    def target(
        quantity: str,
        bound: Literal["at least", "at most"],
        limit: float,
        other: str,
        reason: str = "",
    ) -> Target:
        if other not in seconds:
            return Target(quantity, bound, limit, None, missing.get(other, ""))
        pair = (seconds[other], own) if bound == "at least" else (own, seconds[other])
        return Target(quantity, bound, limit, statistics.median(ratios(*pair)), reason)

    return [
        target(
            "records/s of convert / records/s of torchdata, whose parser is Python",
            "at least",
            5,
            TORCHDATA,
        ),
        target(
            "records/s of convert / records/s of tfrecord, whose parser is C",
            "at least",
            5,
            TFRECORD,
            "both parse in C with protobuf, and convert also gunzips, verifies and writes",
        ),
        target(
            "time of convert / time of TensorFlow",
            "at most",
            1,
            TENSORFLOW,
            "TensorFlow parses batches in C++ and calls no Python per record",
        ),
        target(
            "time of convert / time of gunzip (zlib)",
            "at most",
            3,
            ZLIB,
            "each record costs about twenty Python calls, and each shard a tar header",
        ),
    ]
