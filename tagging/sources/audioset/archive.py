"""AudioSet's features archive, read as a stream: `<root>/<subset>/<shard>.tfrecord` in a tar.gz.

It is never unpacked to disk: names of shards differ by case only, and there are thousands.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from isal import igzip, isal_zlib

from tagging.base.errors import UserError

READ_BYTES = 1 << 20
SHARD_BYTES = 128 << 20  # a shard is read whole; AudioSet's largest hold less than one MiB

# The header of a file with a short name, as nearly all are: name, mode, owner, group, size, time,
# checksum, kind; no link; GNU's or POSIX's mark and the owner's names; no device; no prefix.
_PLAIN_FILE = re.compile(
    rb"[^\0].{99}([0-7]{7}\0){3}(?P<size>[0-7]{11})\0[0-7]{11}\0(?P<sum>[0-7]{6})\0 0"
    rb"\0{100}ustar(  \0|\x0000).{64}(\0{16}|([0-7]{7}\0){2})\0{167}",
    re.DOTALL,
)
_SUM = slice(148, 156)


class Shard(NamedTuple):
    """One TFRecord file of the archive: its path there and its bytes."""

    name: str
    content: bytes


class _Header(tarfile.TarInfo):
    """A member's header, or an error: tarfile takes a damaged one for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        """Read a plain file's header in a fifth of tarfile's time; leave others to tarfile."""
        plain = _PLAIN_FILE.fullmatch(buf)
        if not plain or int(plain["sum"], 8) != _sum_of_bytes(buf):
            return super().frombuf(buf, encoding, errors)
        header = cls(tarfile.nts(buf[:100], encoding, errors))
        header.size = int(plain["size"], 8)
        return header

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.EmptyHeaderError:
            raise tarfile.ReadError("it lacks the mark of its end") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the header of a member: {error}") from None


def _sum_of_bytes(header: bytes) -> int:
    """Return the checksum of a plain file's header; its own field counts as spaces.

    It is the lower half of Adler-32 less one, in C: modulo 65521, which these headers never reach.
    """
    spaces = b" " * (_SUM.stop - _SUM.start)
    return (zlib.adler32(header[: _SUM.start] + spaces + header[_SUM.stop :]) & 0xFFFF) - 1


def read_shards(
    archive: Path, subset: str, on_read: Callable[[int], None] = lambda amount: None
) -> Iterator[Shard]:
    """Yield the shards of `subset` in the archive's order.

    Args:
        archive: path of `features.tar.gz`.
        subset: `bal_train`, `eval` or `unbal_train`.
        on_read: told the number of compressed bytes read since it was last told.

    Raises:
        UserError: if the archive is damaged or cut short, a path in it climbs out of it, the
            subset is not there, or a member of the subset is no TFRecord file.
    """
    seen: set[str] = set()
    found = 0
    told = 0
    with archive.open("rb") as compressed:
        try:
            with (
                # Its reads are in C; those of a GzipFile are in Python.
                io.BufferedReader(igzip.GzipFile(fileobj=compressed), READ_BYTES) as unzipped,
                # Not tarfile's own stream mode: it takes twice the time for the same bytes.
                tarfile.open(fileobj=unzipped, mode="r:", tarinfo=_Header) as tar,
            ):
                for member in tar:
                    position = compressed.tell()
                    on_read(position - told)
                    told = position
                    part = _subset_of(archive, member)
                    seen.add(part)
                    if part != subset or member.isdir():
                        continue
                    _check_shard(archive, member)
                    content = unzipped.read(member.size)  # tarfile has read up to there
                    if len(content) < member.size:
                        raise tarfile.ReadError("unexpected end of data")
                    found += 1
                    yield Shard(member.name, content)
                # Nothing but padding follows. The gzip checksum stands at the very end.
                while rest := unzipped.read(READ_BYTES):
                    if rest.count(0) != len(rest):
                        raise tarfile.ReadError("bytes follow the mark of its end")
        except EOFError:
            raise UserError(
                f"{archive}: cut short at byte {compressed.tell()}; download it again"
            ) from None
        except (tarfile.TarError, igzip.BadGzipFile, isal_zlib.error) as error:
            raise UserError(
                f"{archive}: damaged near byte {compressed.tell()} ({error}); download it again"
            ) from None
    if not found:
        there = ", ".join(sorted(seen - {""})) or "none"
        raise UserError(f"{archive}: no shard of the subset {subset}; the subsets there: {there}")


def _subset_of(archive: Path, member: tarfile.TarInfo) -> str:
    """Return the name of the folder that holds the member, the subset; "" for what is above."""
    parts = member.name.removeprefix("./").split("/")
    if parts[0] == "" or ".." in parts:
        raise UserError(f"{archive}: the path {member.name} climbs out of the archive")
    return parts[1] if len(parts) > 1 else ""


def _check_shard(archive: Path, member: tarfile.TarInfo) -> None:
    if not member.isreg() or member.issparse() or not member.name.endswith(".tfrecord"):
        raise UserError(
            f"{archive}: {member.name} is no TFRecord file; a subset's folder takes "
            "<name>.tfrecord files only"
        )
    if member.size > SHARD_BYTES:
        raise UserError(
            f"{archive}: {member.name} claims {member.size} bytes; a shard takes at most "
            f"{SHARD_BYTES}"
        )
