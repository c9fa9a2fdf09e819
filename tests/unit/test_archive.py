"""Damage to the archive around the records: gzip, tar, names and kinds of members."""

import gzip
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tagging.base.errors import UserError
from tagging.sources.audioset import archive as archive_module
from tagging.sources.audioset.archive import Shard, _Header, read_shards
from tagging.sources.audioset.sample import sample_archive, stored_gzip
from tests.archives import FOLDER, shard, tar

BLOCK = 512


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def read(path: Path, subset: str = "eval") -> list[Shard]:
    return list(read_shards(path, subset))


def refusal(path: Path, subset: str = "eval") -> str:
    with pytest.raises(UserError) as caught:
        read(path, subset)
    assert str(caught.value).startswith(f"{path}")
    return str(caught.value).removeprefix(f"{path}").lstrip(": ")


def members(**shards: bytes) -> list[tuple[str, bytes]]:
    return [(f"{FOLDER}/eval/{name}.tfrecord", content) for name, content in shards.items()]


@pytest.fixture(scope="module")
def plain() -> bytes:
    """A tar file of three shards and a fourth of another subset, names differing by case."""
    other = (f"{FOLDER}/bal_train/aB.tfrecord", shard("aBelsewhere"))
    return tar([*members(aB=shard("aB345678901", "aB345678902")), other,
                *members(Ab=shard("Ab345678901"), ab=shard("ab345678901"))])  # fmt: skip


def test_reads_names_that_differ_by_case_apart(tmp_path: Path, plain: bytes) -> None:
    path = write(tmp_path / "x.tar.gz", gzip.compress(plain))
    assert read(path) == [
        (f"{FOLDER}/eval/aB.tfrecord", shard("aB345678901", "aB345678902")),
        (f"{FOLDER}/eval/Ab.tfrecord", shard("Ab345678901")),
        (f"{FOLDER}/eval/ab.tfrecord", shard("ab345678901")),
    ]
    assert read(path, "bal_train") == [(f"{FOLDER}/bal_train/aB.tfrecord", shard("aBelsewhere"))]


def test_reports_all_bytes_it_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar.gz", sample_archive({"eval": 600}))
    amounts: list[int] = []
    list(read_shards(path, "eval", amounts.append))
    assert 0.9 < sum(amounts) / path.stat().st_size <= 1
    assert min(amounts) >= 0


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_every_tar_format(tmp_path: Path, layout: int) -> None:
    path = tmp_path / "x.tar.gz"
    (tmp_path / "ab.tfrecord").write_bytes(shard("abcdefghijk"))
    with tarfile.open(path, "w:gz", format=layout) as file:
        file.add(tmp_path / "ab.tfrecord", f"./{FOLDER}/eval/ab.tfrecord")
    assert [shard.content for shard in read(path)] == [shard("abcdefghijk")]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", ["a", f"{FOLDER}/eval/ab.tfrecord", "\xe4" * 50, "\xff" * 49])
def test_reads_a_header_as_tarfile_does(layout: int, name: str) -> None:
    header = tarfile.TarInfo(name)
    header.size, header.uname, header.uid = 0o12345670, "owner", 1000
    block = header.tobuf(layout)
    expected = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    read = _Header.frombuf(block, "utf-8", "surrogateescape")
    assert (read.name, read.size, read.type) == (expected.name, expected.size, expected.type)
    for at in range(BLOCK):
        damaged = block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]
        try:
            tarfile.TarInfo.frombuf(damaged, "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            with pytest.raises(tarfile.HeaderError):
                _Header.frombuf(damaged, "utf-8", "surrogateescape")


def test_reads_gzip_members_one_after_the_other(tmp_path: Path, plain: bytes) -> None:
    whole = write(tmp_path / "whole.tar.gz", gzip.compress(plain))
    parts = [gzip.compress(plain[:700]), stored_gzip(plain[700:2000]), gzip.compress(plain[2000:])]
    assert read(write(tmp_path / "parts.tar.gz", b"".join(parts))) == read(whole)
    # Cut where a gzip member ends, it is a sound gzip file of half a tar file.
    for number in (1, 2):
        path = write(tmp_path / "cut.tar.gz", b"".join(parts[:number]))
        assert "damaged near byte" in refusal(path)


def test_refuses_a_sound_gzip_file_of_a_tar_file_cut_anywhere(tmp_path: Path, plain: bytes) -> None:
    path = tmp_path / "x.tar.gz"
    content = len(plain.rstrip(b"\0"))  # GNU tar takes one block of zeros for the end, too
    for length in range(0, -(-content // BLOCK) * BLOCK + 1, 64):
        write(path, gzip.compress(plain[:length], 1))
        assert "damaged near byte" in refusal(path), length


@pytest.mark.parametrize("tail", [b"x", b"\x1f", b"\x1f\x8b\x08", b"not gzip" * 100])
def test_refuses_bytes_after_the_gzip_stream(tmp_path: Path, plain: bytes, tail: bytes) -> None:
    path = write(tmp_path / "x.tar.gz", gzip.compress(plain) + tail)
    message = refusal(path)
    assert "truncated at byte" in message or "damaged near byte" in message


def test_zeros_after_the_gzip_stream_are_padding(tmp_path: Path, plain: bytes) -> None:
    whole = read(write(tmp_path / "x.tar.gz", gzip.compress(plain)))
    assert read(write(tmp_path / "y.tar.gz", gzip.compress(plain) + bytes(1000))) == whole


def test_refuses_a_second_archive_after_the_first(tmp_path: Path, plain: bytes) -> None:
    path = write(tmp_path / "x.tar.gz", gzip.compress(plain) * 2)
    assert "bytes follow its end mark" in refusal(path)


def test_refuses_a_header_turned_into_an_end_mark(tmp_path: Path, plain: bytes) -> None:
    damaged = bytearray(plain)
    second = plain.index(f"{FOLDER}/eval/Ab".encode())
    damaged[second : second + BLOCK] = bytes(BLOCK)
    path = write(tmp_path / "x.tar.gz", gzip.compress(damaged))
    assert "bytes follow its end mark" in refusal(path)


def test_refuses_a_file_that_is_not_an_archive(tmp_path: Path) -> None:
    for data in (b"", b"no gzip file", gzip.compress(b""), gzip.compress(b"no tar" * 1000)):
        assert "damaged near byte" in refusal(write(tmp_path / "x.tar.gz", data))


@pytest.mark.parametrize(
    "name",
    [
        f"{FOLDER}/eval/../../../etc/passwd",
        "../ab.tfrecord",
        f"/{FOLDER}/eval/ab.tfrecord",
        f"./../{FOLDER}/eval/ab.tfrecord",
        f"{FOLDER}/bal_train/..",
    ],
)
def test_refuses_a_path_that_leads_out(tmp_path: Path, name: str) -> None:
    data = tar([*members(ab=shard("abcdefghijk")), (name, b"")])
    path = write(tmp_path / "x.tar.gz", gzip.compress(data))
    assert refusal(path) == f"the path {name} leads out of the archive"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
@pytest.mark.parametrize("name", [f"{FOLDER}/eval/ab.tfrecord", f"{FOLDER}/eval"])
def test_refuses_links_and_devices(tmp_path: Path, kind: bytes, name: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, "/etc/passwd"
    path = write(tmp_path / "x.tar.gz", gzip.compress(tar([(link, b"")])))
    assert refusal(path) == f"a subset must have files <name>.tfrecord only, got {name}"


@pytest.mark.parametrize("name", ["README.md", "ab.tfrecord.gz", "tfrecord", ".DS_Store"])
def test_refuses_a_member_that_is_not_a_shard(tmp_path: Path, name: str) -> None:
    data = tar([*members(ab=shard("abcdefghijk")), (f"{FOLDER}/eval/{name}", b"text")])
    path = write(tmp_path / "x.tar.gz", gzip.compress(data))
    assert refusal(path) == (
        f"a subset must have files <name>.tfrecord only, got {FOLDER}/eval/{name}"
    )


def test_refuses_a_shard_too_large_for_memory(
    tmp_path: Path, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "SHARD_BYTES", len(shard("aB345678901")))
    path = write(tmp_path / "x.tar.gz", gzip.compress(plain))
    assert "a shard must have at most" in refusal(path)


def test_names_the_subsets_of_the_archive(tmp_path: Path, plain: bytes) -> None:
    path = write(tmp_path / "x.tar.gz", gzip.compress(plain))
    assert refusal(path, "unbal_train") == (
        "has no subset unbal_train; its subsets: bal_train, eval"
    )


def test_an_empty_folder_is_not_a_subset(tmp_path: Path) -> None:
    folder = tarfile.TarInfo(f"{FOLDER}/eval")
    folder.type = tarfile.DIRTYPE
    path = write(tmp_path / "x.tar.gz", gzip.compress(tar([(folder, b"")])))
    assert refusal(path).startswith("has no subset eval")


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(at=st.integers(0), bit=st.integers(0, 7))
@example(at=124, bit=0)  # the size in the first header
@example(at=156, bit=0)  # its kind of member
def test_a_flipped_bit_in_a_tar_file_under_a_right_gzip_checksum(
    tmp_path_factory: pytest.TempPathFactory, plain: bytes, at: int, bit: int
) -> None:
    """Headers carry a checksum; what is not refused here leaves the shards' names and sizes."""
    damaged = bytearray(plain)
    damaged[at % len(plain)] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.tar.gz"
    whole = read(write(path, stored_gzip(plain)))
    try:
        got = read(write(path, stored_gzip(damaged)))
    except UserError:
        return
    assert [(name, len(content)) for name, content in got] == [
        (name, len(content)) for name, content in whole
    ]
