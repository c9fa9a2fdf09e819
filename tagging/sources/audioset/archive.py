"""AudioSet's features archive, read as a stream: `<root>/<subset>/<shard>.tfrecord` in a tar.gz.

It is never unpacked to disk: some names of its thousands of shards differ by case only.
"""

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from isal import igzip, isal_zlib

from tagging.base.errors import UserError

READ_BYTES = 1 << 20
SHARD_BYTES = 128 << 20  # a shard is read at once; AudioSet's largest are smaller than one MiB

# The header of a file with a short name: name, mode, owner, group, size, time, checksum, type; no
# link; GNU's or POSIX's magic and the owner's names; no device; no prefix.
_PLAIN_FILE = re.compile(
    rb"[^\0].{99}([0-7]{7}\0){3}(?P<size>[0-7]{11})\0[0-7]{11}\0(?P<sum>[0-7]{6})\0 0"
    rb"\0{100}ustar(  \0|\x0000).{64}(\0{16}|([0-7]{7}\0){2})\0{167}",
    re.DOTALL,
)
_SUM = slice(148, 156)
_BROKEN: tuple[Any, ...] = (
    tarfile.TarError, igzip.BadGzipFile, isal_zlib.error,
)  # fmt: skip


class Shard(NamedTuple):
    """One TFRecord file of the archive: its path in the archive and its bytes."""

    name: str
    content: bytes


class _Header(tarfile.TarInfo):
    """A member's header; damage is an error, where tarfile would end the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        """Read the header of a plain file in a fifth of tarfile's time; leave others to tarfile."""
        plain = _PLAIN_FILE.fullmatch(buf)
        if not plain or int(plain["sum"], 8) != _header_checksum(buf):
            return super().frombuf(buf, encoding, errors)
        header = cls(tarfile.nts(buf[:100], encoding, errors))  # type: ignore[attr-defined]
        header.size = int(plain["size"], 8)
        return header

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise tarfile.ReadError("its end mark is missing") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"the header of a member: {error}") from None


def _header_checksum(header: bytes | bytearray) -> int:
    """Return the checksum of a header: the sum of its bytes, with spaces for the checksum itself.

    It is computed in C, as the lower half of Adler-32 minus one: modulo 65521, never reached here.
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
        on_read: called with the number of compressed bytes read since its last call.

    Raises:
        UserError: if the archive is damaged or truncated, a path leads out of it, the subset is
            missing, or a member of the subset is not a TFRecord file.
    """
    seen: set[str] = set()
    num_shards = 0
    reported = 0
    with archive.open("rb") as compressed:
        try:
            with (
                # BufferedReader reads in C, GzipFile alone in Python.
                io.BufferedReader(igzip.GzipFile(fileobj=compressed), READ_BYTES) as unzipped,
                # tarfile's own stream mode needs twice the time for the same bytes.
                tarfile.open(fileobj=unzipped, mode="r:", tarinfo=_Header) as tar,
            ):
                for member in tar:
                    position = compressed.tell()
                    on_read(position - reported)
                    reported = position
                    folder = _subset_name(archive, member)
                    seen.add(folder)
                    if folder != subset or member.isdir():
                        continue
                    _check_shard(archive, member)
                    content = unzipped.read(member.size)  # tarfile has read up to there
                    if len(content) < member.size:
                        raise tarfile.ReadError("unexpected end of data")
                    num_shards += 1
                    yield Shard(member.name, content)
                # Only padding may follow. The gzip checksum is at the very end.
                while rest := unzipped.read(READ_BYTES):
                    if rest.count(0) != len(rest):
                        raise tarfile.ReadError("bytes follow its end mark")
        except EOFError:
            raise UserError(
                f"{archive} is truncated at byte {compressed.tell()}; download it again"
            ) from None
        except _BROKEN as error:
            raise UserError(
                f"{archive} is damaged near byte {compressed.tell()} ({error}); download it again"
            ) from None
    if not num_shards:
        subsets = ", ".join(sorted(seen - {""})) or "none"
        raise UserError(f"{archive} has no subset {subset}; its subsets: {subsets}")


def _subset_name(archive: Path, member: tarfile.TarInfo) -> str:
    """Return the name of the member's subset, which is its folder; "" for the root."""
    parts = member.name.removeprefix("./").split("/")
    if parts[0] == "" or ".." in parts:
        raise UserError(f"{archive}: the path {member.name} leads out of the archive")
    return parts[1] if len(parts) > 1 else ""


def _check_shard(archive: Path, member: tarfile.TarInfo) -> None:
    if not member.isreg() or member.issparse() or not member.name.endswith(".tfrecord"):
        raise UserError(
            f"{archive}: a subset must have files <name>.tfrecord only, got {member.name}"
        )
    if member.size > SHARD_BYTES:
        raise UserError(
            f"{archive}: a shard must have at most {SHARD_BYTES} bytes, but {member.name} states "
            f"{member.size}"
        )
