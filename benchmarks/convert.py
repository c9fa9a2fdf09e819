"""Reading AudioSet's records: the stage `convert` against other readers, and against gunzip alone.

`convert` does all of its work: it gunzips the archive, checks, parses, and writes parquet. The
others have it easier: they read shards that lie unpacked, and write nothing. Everything runs on one
core; that all read the same is checked before time is taken.
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
from benchmarks.ratios import alternate, ratios, spread, timed
from benchmarks.readers.serve import Plain, fingerprint
from benchmarks.results import Result, Target
from benchmarks.turns import ROOT, Failed, Worker
from benchmarks.workspace import ARCHIVE, LABELS, bring_archive, make_workspace, source
from stages.convert import convert
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.sources.audioset.archive import Shard, read_shards
from tagging.sources.audioset.labels import is_sample, read_labels
from tagging.sources.audioset.records import read_clips

TURNS = 7
SUBSET = "eval"
GZIP_LEVEL = 6
READ_BYTES = 1 << 20

# Each reader's name, module and interpreter.
TFRECORD, TORCHDATA, TENSORFLOW = "tfrecord", "torchdata 0.9, load_from_tfrecord", "TensorFlow"
READERS = {
    TFRECORD: ("benchmarks.readers.tfrecord", sys.executable),
    TORCHDATA: ("benchmarks.readers.torchdata", str(ROOT / ".venv-torchdata/bin/python")),
    TENSORFLOW: ("benchmarks.readers.tensorflow", str(ROOT / ".venv-tensorflow/bin/python")),
}
CONVERT, PARSE = "convert", "the parser of convert alone"
ZLIB, ISAL = "gunzip of the archive, zlib", "gunzip of the archive, isal"
DOES = {
    CONVERT: "gunzips, checks, parses, writes parquet",
    PARSE: "unpacked shards in memory; checks, parses",
    TFRECORD: "unpacked shards; parses (in C)",
    TORCHDATA: "unpacked shards; parses (in Python)",
    TENSORFLOW: "unpacked shards; checks, parses in batches",
    ZLIB: "gunzips",
    ISAL: "gunzips",
}


def write_subset(shards: list[Shard], archive: Path, folder: Path) -> None:
    """Write shards twice: as an archive, and unpacked, named by their places in it."""
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
    """Gunzip a file with Python's zlib, keep nothing; return the number of bytes."""
    inflate, size = zlib.decompressobj(zlib.MAX_WBITS | 16), 0
    with archive.open("rb") as file:
        while piece := file.read(READ_BYTES):
            size += len(inflate.decompress(piece))
    return size


def gunzip_isal(archive: Path) -> int:
    """Gunzip a file with isal, as `convert` does, keep nothing; return the number of bytes."""
    size = 0
    with igzip.open(archive) as file:
        while piece := file.read(READ_BYTES):
            size += len(piece)
    return size


def parquet_clips(path: Path) -> Iterator[Plain]:
    """Yield what `convert` wrote."""
    columns = ["video_id", "labels", "audio_embedding"]
    table = pq.read_table(path, columns=columns).to_pydict()
    for video_id, labels, frames in zip(*(table[name] for name in columns), strict=True):
        yield video_id.encode(), labels, frames


def measure(turns: int = TURNS, readers: dict[str, tuple[str, str]] = READERS) -> Result:
    """Time everything in turns; `readers` are those that are to be tried."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        make_workspace(folder, source)
        bring_archive(folder)
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
            except Failed as problem:
                missing[reader] = str(problem)
                continue
            if workers[reader].ready["fingerprint"] != expected:
                raise UserError(f"{reader} reads other clips than convert from the same shards")
        if gunzip_zlib(archive) != gunzip_isal(archive):
            raise UserError(f"zlib and isal do not give the same bytes of {archive}")

        def parse() -> None:
            assert records == sum(1 for s in shards for _ in read_clips(s.content, s.name))

        def read(worker: Worker) -> Callable[[], float]:
            def turn() -> float:
                answer = worker.turn()
                assert answer["records"] == records, answer
                return answer["seconds"]

            return turn

        ways = {
            CONVERT: lambda: timed(lambda: convert(archive, SUBSET, parquet, silent)),
            **{reader: read(worker) for reader, worker in workers.items()},
            PARSE: lambda: timed(parse),
            ZLIB: lambda: timed(lambda: gunzip_zlib(archive)),
            ISAL: lambda: timed(lambda: gunzip_isal(archive)),
        }
        gc.collect()
        gc.disable()  # as the stage does
        stack.callback(gc.enable)
        with Progress("convert", turns * len(ways), "run") as progress:
            seconds = alternate(ways, turns, progress)
        about = (
            f"{records:,} records of {data}, the {len(shards):,} shards of `{SUBSET}`: an archive "
            f"of {archive.stat().st_size / 1e6:.0f} MB with them alone. One core."
        )
    rows = [row(way, seconds.get(way), seconds[CONVERT], records) for way in (*ways, *missing)]
    return Result("convert against other readers", about, rows, targets(seconds, missing))


def row(way: str, own: list[float] | None, base: list[float], records: int) -> dict:
    """Return a way's row; `own` is None for one that could not be tried."""
    return {
        "way": way,
        "what it does": DOES[way] if own else "not installed",
        "records/s": round(records / statistics.median(own)) if own else None,
        "seconds": spread(own) if own else None,
        "its time / convert's": spread(ratios(own, base)) if own else None,
    }


def targets(seconds: dict[str, list[float]], missing: dict[str, str]) -> list[Target]:
    """Hold times against the project's targets; ratios are medians over the turns."""
    own = seconds[CONVERT]

    def held(
        what: str, bound: Literal["at least", "at most"], limit: float, other: str, why: str = ""
    ) -> Target:
        if other not in seconds:
            return Target(what, bound, limit, None, missing.get(other, ""))
        pair = (seconds[other], own) if bound == "at least" else (own, seconds[other])
        return Target(what, bound, limit, statistics.median(ratios(*pair)), why)

    return [
        held(
            "records/s of convert / those of torchdata, which is Python down to its parser",
            "at least",
            5,
            TORCHDATA,
        ),
        held(
            "records/s of convert / those of tfrecord, whose parser is C",
            "at least",
            5,
            TFRECORD,
            "both parse in C with protobuf, and only convert also gunzips, checks and writes",
        ),
        held(
            "time of convert / time of TensorFlow",
            "at most",
            1,
            TENSORFLOW,
            "TensorFlow parses batches in C++ and has no Python a record",
        ),
        held(
            "time of convert / time of gunzip (zlib)",
            "at most",
            3,
            ZLIB,
            "each record costs Python some twenty calls, and each small shard a header of the tar",
        ),
    ]
