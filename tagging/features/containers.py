"""Check what a recording's container states about itself, where FFmpeg does not.

FFmpeg derives the length of WAV, W64 and CAF from the size of the file, stops at a WAV's stated
length whatever follows, skips Ogg pages that are damaged, and loses sound where files are joined.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol

from tagging.base.errors import UserError

# Containers of chunks, by their first four bytes: the position of the first chunk, the layout of
# its name and size, the bytes of its head that the size includes, and the multiple that chunks are
# padded to.
_CHUNKS = {
    b"RIFF": (12, "<4sI", 0, 2),  # WAV
    b"RF64": (12, "<4sI", 0, 2),
    b"BW64": (12, "<4sI", 0, 2),
    b"RIFX": (12, ">4sI", 0, 2),
    b"FORM": (12, ">4sI", 0, 2),  # AIFF, 8SVX
    b"riff": (40, "<16sQ", 24, 8),  # W64
    b"caff": (8, ">4sQ", 0, 1),
}
CHUNKED = tuple(_CHUNKS)
_SAMPLES = (b"data", b"SSND", b"BODY")  # the beginnings of the names of chunks of samples
_STREAMED = 0x7FFF0000  # writers to a pipe state sizes near the maximum, whatever follows
_ID3V1 = 128  # bytes of the tag behind a recording
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
# The header of an MP3 frame, its side information, and the number of frames that follow.
_XING = re.compile(
    rb"\xff([\xe2\xe3\xf2\xf3\xfa\xfb])..(?:.{9}|.{17}|.{32})(?:Xing|Info)(.{4})(.{4}).{129}(.{3})",
    re.DOTALL,
)


class Seekable(Protocol):
    """A file, or a part of one."""

    def read(self, size: int, /) -> bytes:  # noqa: D102
        ...

    def seek(self, offset: int, whence: int = 0, /) -> int:  # noqa: D102
        ...


class Extent(NamedTuple):
    """The bytes of samples that a container states, and those that it has."""

    stated: int
    actual: int


class Part(NamedTuple):
    """One of the recordings that are joined in a file: its first byte, and the byte behind it.

    Attributes:
        is_vorbis_or_opus: whether it is an Ogg file with one stream, of these codecs.
        samples: the number that an MP3 states in a Xing or Info frame, without padding, or 0.
    """

    start: int
    end: int
    is_vorbis_or_opus: bool = False
    samples: int = 0


def skip_tags(handle: BinaryIO) -> int:
    """Return the position behind the ID3v2 tags that a file begins with."""
    position = 0
    while True:
        handle.seek(position)
        head = handle.read(10)
        if len(head) < 10 or not head.startswith(b"ID3"):
            return position
        has_footer = bool(head[5] & 0x10)
        # The size has seven bits a byte.
        position += 10 + sum(byte << 7 * (9 - k) for k, byte in enumerate(head[6:], 6))
        position += 10 * has_footer


def measure_chunks(handle: Seekable) -> Extent | None:
    """Return the stated and the actual size of the samples in a container of chunks.

    Sizes of 0 or near the maximum state nothing: the writer wrote to a pipe, or died. Chunks, tags
    and zeros may follow the samples.

    Args:
        handle: the container, from its first byte.

    Returns:
        The sizes, or None for another container and where the samples extend to the file's end.
    """
    end = handle.seek(0, 2)
    handle.seek(0)
    head = handle.read(12)
    if head[:4] not in _CHUNKS:
        return None
    first, layout, included, multiple = _CHUNKS[head[:4]]
    if head[8:] == b"AVI ":
        [stated] = struct.unpack_from("<I", head, 4)
        return Extent(stated, min(stated, end - 8)) if stated else None
    position = first
    long_size = None
    while chunk := _read_chunk(handle, position, layout):
        name, size = chunk
        position += struct.calcsize(layout)
        if name == b"ds64":
            long_size = struct.unpack("<Q", handle.read(24)[8:16].ljust(8, b"\0"))[0]
        if not name.startswith(_SAMPLES):
            position += _padded(size, multiple) - included
            continue
        if long_size is not None and size == 0xFFFFFFFF:
            size = long_size
        size = max(0, size - included)
        actual = end - position
        limit = _STREAMED if layout.endswith("I") and long_size is None else 1 << 62
        if size >= limit or not size:
            if _is_explained(handle, position, end, layout, included, multiple):
                return Extent(0, 0)
            return None
        if size > actual:
            # Some writers state the size of the file, or what a RIFF has behind its first 8 bytes.
            is_whole_file = size - actual in (position, position - 8)
            return None if is_whole_file else Extent(size, actual)
        behind = position + size
        explained = any(  # the last chunk may lack its padding
            _is_explained(handle, first, end, layout, included, multiple)
            for first in (behind, behind + -(size + included) % multiple)
        )
        return Extent(size, size if explained else actual)
    return None


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _read_chunk(handle: Seekable, position: int, layout: str) -> tuple[bytes, int] | None:
    handle.seek(position)
    head = handle.read(struct.calcsize(layout))
    return struct.unpack(layout, head) if len(head) == struct.calcsize(layout) else None


def _is_explained(
    handle: Seekable, position: int, end: int, layout: str, included: int, multiple: int
) -> bool:
    """Return whether a file continues with chunks other than samples, a tag or zeros to its end."""
    while position < end:
        handle.seek(position)
        if is_tag(handle):
            return True
        chunk = _read_chunk(handle, position, layout)
        if chunk is None or chunk[0].startswith((*_SAMPLES, *_CHUNKS)):
            return False
        name, size = chunk
        if size < included or not name[:4].isascii() or not name[:4].decode().isprintable():
            return False
        position += struct.calcsize(layout) - included + size
        if position > end:
            return False
        position = position + -size % multiple
    return True


def is_tag(handle: Seekable) -> bool:
    """Return whether the rest of a file is an ID3v1 tag, or zeros."""
    rest = handle.read(_ID3V1 + 1)
    if rest.startswith(b"TAG") and len(rest) == _ID3V1:
        return True
    while rest and not rest.strip(b"\0"):
        rest = handle.read(1 << 20)
    return not rest


def find_parts(handle: BinaryIO, start: int, end: int, name: str) -> list[Part]:
    """Return the recordings that are joined in an Ogg, FLAC or MP3 file; in any other, one.

    Raises:
        UserError: if it is Ogg, and a page is damaged or missing, or a stream has no last page.
    """
    handle.seek(start)
    magic = handle.read(4)
    if magic == b"OggS":
        return _find_ogg_parts(handle, start, name)
    firsts: dict[int, int] = {start: 0}  # the samples that each part states
    if magic == b"fLaC":
        firsts |= {position: 0 for position, _ in _find_all(handle, start, _FLAC)}
    elif len(magic) == 4 and magic[0] == 0xFF and magic[1] & 0xE6 == 0xE2:
        for position, match in _find_all(handle, start, _XING):
            firsts[position] = _read_xing(match)
    else:
        return [Part(start, end)]
    ends = [*list(firsts)[1:], end]
    return [
        Part(first, _skip_tag_before(handle, behind), samples=samples)
        for (first, samples), behind in zip(firsts.items(), ends, strict=True)
    ]


def _skip_tag_before(handle: BinaryIO, end: int) -> int:
    """Return the position where the ID3v1 tag that ends there begins, or `end` if there is none.

    FFmpeg keeps the padding of an MP3 with many bytes that its header does not count.
    """
    handle.seek(max(0, end - _ID3V1))
    return end - _ID3V1 * handle.read(3).startswith(b"TAG")


def _find_all(
    handle: BinaryIO, start: int, pattern: re.Pattern[bytes]
) -> Iterator[tuple[int, re.Match[bytes]]]:
    """Yield the matches of a pattern of less than 200 bytes in a file, and their positions."""
    handle.seek(start)
    content = b""
    while chunk := handle.read(1 << 20):
        content += chunk
        searched = max(0, len(content) - 200)
        for match in pattern.finditer(content):
            yield start + match.start(), match
            searched = max(searched, match.end())
        content, start = content[searched:], start + searched


def _read_xing(match: re.Match[bytes]) -> int:
    version, flags, frames, delays = match.groups()
    if not flags[3] & 1:
        return 0
    samples = 1152 if version[0] & 0x18 == 0x18 else 576
    trimmed = int.from_bytes(delays)  # the encoder's delay and its padding
    return samples * int.from_bytes(frames) - (trimmed >> 12) - (trimmed & 0xFFF)


def _find_ogg_parts(handle: BinaryIO, start: int, name: str) -> list[Part]:
    """Return the recordings that are joined in an Ogg file.

    The format of pages and their checksum is that of RFC 3533.

    Raises:
        UserError: as `find_parts` does.
    """
    parts: list[Part] = []
    expected: dict[int, int] = {}  # the next page of each stream without a last one
    position = start
    while True:
        handle.seek(position)
        if is_tag(handle):
            break
        handle.seek(position)
        head = handle.read(27)
        table = handle.read(head[26]) if len(head) == 27 else b""
        body = handle.read(sum(table))
        if not head.startswith(b"OggS"[: len(head)]):
            raise UserError(f"{name} is damaged: byte {position:,} must begin an Ogg page")
        if len(head) < 27 or len(table) < head[26] or len(body) < sum(table):
            raise UserError(f"{name} is truncated: its last Ogg page is not complete")
        [checksum] = struct.unpack_from("<I", head, 22)
        if _ogg_checksum(head[:22] + bytes(4) + head[26:] + table + body) != checksum:
            raise UserError(f"{name} is damaged: the Ogg page at byte {position:,} has errors")
        stream, number = struct.unpack_from("<II", head, 14)
        is_first, is_last = head[5] & 2, head[5] & 4
        if is_first and not expected:
            codec = body.startswith((b"\x01vorbis", b"OpusHead"))
            parts.append(Part(position, position, codec))
        elif is_first:
            parts[-1] = parts[-1]._replace(is_vorbis_or_opus=False)
        elif expected.get(stream) != number:
            raise UserError(f"{name} is damaged: an Ogg page is missing before byte {position:,}")
        expected[stream] = number + 1 & 0xFFFFFFFF
        if is_last:
            del expected[stream]
        position += len(head) + len(table) + len(body)
        parts[-1] = parts[-1]._replace(end=position)
    if expected:
        raise UserError(f"{name} is truncated: its last Ogg page does not end it")
    return parts


def _ogg_checksum(page: bytes) -> int:
    # zlib has the same polynomial, but with the bits of bytes and of the result in reverse.
    reversed_checksum = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_checksum:032b}"[::-1], 2)
