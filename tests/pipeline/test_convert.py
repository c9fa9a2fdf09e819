"""`convert`: its output, and that bad input ends in one sentence and leaves no output."""

import gzip
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.convert import SCHEMA, convert
from tagging.base.errors import UserError
from tagging.base.progress import Progress
from tagging.sources.audioset.archive import read_shards
from tagging.sources.audioset.records import frame_record, read_clips, write_clip
from tagging.sources.audioset.sample import sample_archive
from tests.archives import (
    FOLDER,
    assert_one_sentence,
    clip,
    run_stage,
    shard,
    stage_environment,
    tar,
    write_archive,
)

ARCHIVE = "data/features.tar.gz"
PARQUET = "data/parquet/eval.parquet"


def run(archive: Path, subset: str = "eval") -> Path:
    """Convert in this process; return the parquet file."""
    parquet = archive.parent / "parquet" / f"{subset}.parquet"
    with Progress("convert", None, "B", "none") as progress:
        convert(archive, subset, parquet, progress)
    return parquet


def refusal(archive: Path, subset: str = "eval") -> str:
    with pytest.raises(UserError) as caught:
        run(archive, subset)
    assert not list((archive.parent / "parquet").iterdir())
    assert str(caught.value).startswith(f"{archive}")
    return str(caught.value).removeprefix(f"{archive}").lstrip(": ")


def test_one_line_of_pandas_reads_it(tmp_path: Path) -> None:
    clips = [clip("abcdefghijk", [7, 3]), clip("abcdefghij2", [526], 4)]
    archive = write_archive(tmp_path / "x.tar.gz", ab=b"".join(map(write_clip, clips)))
    table = pd.read_parquet(run(archive))
    assert list(table.columns) == list(clips[0]._fields)
    assert table["video_id"].tolist() == ["abcdefghijk", "abcdefghij2"]
    assert table["start_time_seconds"].tolist() == [30, 30]
    assert table["end_time_seconds"].tolist() == [40, 34]
    assert [labels.tolist() for labels in table["labels"]] == [[7, 3], [526]]
    frames = np.frombuffer(table["audio_embedding"][1], "uint8").reshape(-1, 128)
    assert frames.shape == (4, 128)
    assert frames.tobytes() == clips[1].audio_embedding


def test_keeps_the_archives_order_over_many_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(sample_archive({"eval": 100}))
    expected = [
        clip for shard in read_shards(archive, "eval") for clip in read_clips(shard.content, "x")
    ]
    monkeypatch.setattr("stages.convert.ROWS_PER_GROUP", 32)
    parquet = run(archive)
    table = pq.read_table(parquet)
    assert table.schema.equals(SCHEMA)
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    assert pq.read_metadata(parquet).num_row_groups == 4


def test_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(sample_archive({"eval": 50}))
    assert run(archive).read_bytes() == run(archive).read_bytes()


@pytest.mark.parametrize(
    ("shards", "places"),
    [
        ({"ab": shard("abcdefghijk", "abcdefghij2", "abcdefghijk")}, [(0, "ab"), (2, "ab")]),
        ({"ab": shard("abcdefghij2", "abcdefghijk"), "b": shard("abcdefghijk")},
         [(1, "ab"), (0, "b")]),
    ],
)  # fmt: skip
def test_refuses_a_video_id_that_occurs_twice(
    tmp_path: Path, shards: dict[str, bytes], places: list[tuple[int, str]]
) -> None:
    archive = write_archive(tmp_path / "x.tar.gz", **shards)
    records = ", ".join(f"record {row} of {FOLDER}/eval/{name}.tfrecord" for row, name in places)
    assert refusal(archive) == f"has the video id abcdefghijk twice: {records}"


def test_ids_that_differ_by_case_are_two(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "x.tar.gz", aB=shard("abcdefghijk", "ABCDEFGHIJK"))
    assert len(pq.read_table(run(archive))) == 2


def test_refuses_the_same_shard_twice(tmp_path: Path) -> None:
    member = (f"{FOLDER}/eval/ab.tfrecord", shard("abcdefghijk"))
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(gzip.compress(tar([member, member])))
    assert "has the video id abcdefghijk twice" in refusal(archive)


def test_a_refusal_late_in_the_archive_leaves_the_previous_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.convert.ROWS_PER_GROUP", 2)
    parquet = run(write_archive(tmp_path / "x.tar.gz", ab=shard("abcdefghijk")))
    before = parquet.read_bytes()
    damaged = shard(*(f"abcdefghij{i}" for i in range(9)))[:-1] + b"\0"
    with pytest.raises(UserError, match=r"ab\.tfrecord, record 8 at byte \d+: the checksum"):
        run(write_archive(tmp_path / "x.tar.gz", ab=damaged))
    assert list(parquet.parent.iterdir()) == [parquet]
    assert parquet.read_bytes() == before


# The stage as DVC runs it: one sentence, a non-zero exit, no output.


@pytest.mark.parametrize(
    ("shards", "parts"),
    [
        (
            {"ab": shard("abcdefghijk"), "ac": shard("accdefghijk", "acbdefghijk")[:-700]},
            [f"{ARCHIVE}: {FOLDER}/eval/ac.tfrecord, record 1 at byte ", "the file is truncated"],
        ),
        ({"ab": frame_record(b"\xff")}, [f"{FOLDER}/eval/ab.tfrecord, record 0 at byte 0: "]),
        ({"ab": b""}, [f"{FOLDER}/eval/ab.tfrecord must have at least one record, but is empty"]),
        ({}, ["has no subset eval; its subsets: none"]),
    ],
)
def test_the_stage_ends_with_one_sentence(
    tmp_path: Path, shards: dict[str, bytes], parts: list[str]
) -> None:
    write_archive(tmp_path / ARCHIVE, **shards)
    assert_one_sentence(run_stage(tmp_path, "convert", "eval"), *parts)
    assert not list((tmp_path / PARQUET).parent.glob("*"))


def test_the_stage_names_a_missing_archive_and_a_missing_argument(tmp_path: Path) -> None:
    assert_one_sentence(run_stage(tmp_path, "convert", "eval"), f"{ARCHIVE} is missing")
    assert_one_sentence(
        run_stage(tmp_path, "convert"), "python -m stages.convert <folder> <subset>"
    )


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / ARCHIVE).write_bytes(sample_archive({"eval": 200}))

    small_disk = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    done = run_stage(tmp_path, "convert", "eval", before=small_disk)
    assert_one_sentence(done, f"error: {PARQUET}: File too large")
    assert not list((tmp_path / PARQUET).parent.iterdir())


def test_killed_it_leaves_no_output_and_the_next_run_succeeds(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / ARCHIVE).write_bytes(sample_archive({"eval": 300}))
    # Killed between the last record and the rename.
    code = (
        "import os, signal; from stages import convert as stage;"
        "stage._refuse_duplicates = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "stage.main('.', 'eval')"
    )
    environment = stage_environment(tmp_path)
    killed = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / PARQUET).parent.iterdir()] == ["eval.parquet.partial"]
    done = run_stage(tmp_path, "convert", "eval")
    assert (done.returncode, done.stderr) == (0, "convert eval: 300 clips\n")
    assert len(pd.read_parquet(tmp_path / PARQUET)) == 300
    assert list((tmp_path / PARQUET).parent.iterdir()) == [tmp_path / PARQUET]


# Property: whatever happens to the archive's bytes is detected, or changes nothing.


@pytest.fixture(scope="module")
def archives() -> dict[str, bytes]:
    """A small archive, stored as the sample is and compressed as Google's is."""
    stored = sample_archive({"eval": 6, "bal_train": 2})
    return {"stored": stored, "compressed": gzip.compress(gzip.decompress(stored), mtime=0)}


@pytest.fixture(scope="module")
def expected(archives: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    archive = tmp_path_factory.mktemp("whole") / "x.tar.gz"
    archive.write_bytes(archives["stored"])
    return run(archive).read_bytes()


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """Flip bits, cut off an end, take out, put in, double or swap bytes."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        # As often near an end, where headers and checksums are, as anywhere.
        place = st.integers(0, len(damaged)) | st.integers(0, min(64, len(damaged)))
        at = draw(place | st.integers(max(len(damaged) - 64, 0), len(damaged)))
        size = draw(st.sampled_from([1, 2, 16, 512, 1024, 5000]))
        some = bytes(damaged[at : at + size])
        match draw(
            st.sampled_from(["flip", "flip", "cut", "take out", "put in", "double", "zero"])
        ):
            case "flip" if some:
                damaged[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del damaged[at:]
            case "take out":
                del damaged[at : at + size]
            case "put in":
                damaged[at:at] = random.Random(at).randbytes(size)
            case "double":
                damaged[at:at] = some
            case "zero":
                damaged[at : at + size] = bytes(len(some))
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["stored", "compressed"])
@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_damage_is_detected_or_harmless(
    archives: dict[str, bytes],
    expected: bytes,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    archive = folder / "damaged.tar.gz"
    archive.write_bytes(data.draw(damages(archives[kind])))
    parquet = folder / "parquet" / "eval.parquet"
    parquet.unlink(missing_ok=True)
    try:
        run(archive)
    except UserError:
        assert not list(parquet.parent.iterdir())
    else:
        assert parquet.read_bytes() == expected


def test_every_cut_is_detected(archives: dict[str, bytes], tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    for data in archives.values():
        steps = {*range(0, len(data), 997), *range(len(data) - 40, len(data)), *range(40)}
        for length in steps:
            archive.write_bytes(data[:length])
            refusal(archive)


# The real records.


@pytest.fixture(scope="module")
def mirror() -> Iterator[Path]:
    if "AUDIOSET_MIRROR" not in os.environ:
        pytest.skip("AUDIOSET_MIRROR names no mirror")
    yield Path(os.environ["AUDIOSET_MIRROR"]) / "youtube_corpus/v1/features/features.tar.gz"


@pytest.mark.parametrize(
    ("subset", "clips", "of_ten_seconds"), [("bal_train", 22160, 21782), ("eval", 20371, 19976)]
)
def test_the_mirrors_records(
    mirror: Path, tmp_path: Path, subset: str, clips: int, of_ten_seconds: int
) -> None:
    (tmp_path / "x.tar.gz").symlink_to(mirror)
    table = pd.read_parquet(run(tmp_path / "x.tar.gz", subset))
    assert len(table) == clips
    assert (table["audio_embedding"].str.len() == 1280).sum() == of_ten_seconds
    assert table["video_id"].is_unique
