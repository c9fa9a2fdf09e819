"""Recordings as waveforms: WAV, FLAC, Ogg (Vorbis, Opus), MP3 and what else libsndfile reads.

A waveform is one channel, the mean of the file's, as float32 at the rate asked for; whole numbers
of the file become numbers in [-1, 1). Resampling is soxr's "HQ".
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from tagging.base.errors import UserError

_TAKES = "it takes a whole recording as WAV, FLAC, Ogg or MP3"
_BLOCK = 1 << 18  # samples of each channel that are read at once: 6 s of a CD
_UNKNOWN = 2**63 - 1  # libsndfile's length of a FLAC that states none
# A WAV that was written to a pipe states a size near the largest there is, whatever follows.
_STREAMED = 0x7FFF0000


class _Stream(soundfile.SoundFile):
    """A file that is read from front to back.

    Where a file can be sought in, soundfile seeks after each block, and MP3 is wrong at the seams.
    """

    def seekable(self) -> bool:
        return False


def decode(content: bytes, name: str, rate: int) -> np.ndarray:
    """Return a recording as one waveform, float32 (samples,), at `rate` (Hz).

    Args:
        content: the file's bytes.
        name: what errors call the file.

    Raises:
        UserError: if it is empty, no sound, cut off, or has samples that are no numbers.
    """
    return np.concatenate(list(_resampled(content, name, rate)))


def blocks(source: bytes | Path, name: str, rate: int, seconds: float) -> Iterator[np.ndarray]:
    """Give a recording piece by piece: in a row they are what `decode` returns.

    Memory is that of a few pieces, however long the recording is. What is wrong with a file may be
    found after its first pieces were given.

    Args:
        source: the file's bytes, or where it is.
        name: what errors call the file.
        seconds: how long a piece is; the last may be shorter.

    Yields:
        float32 (samples,), at `rate` (Hz).

    Raises:
        UserError: as `decode` does.
        OSError: if the file cannot be opened.
    """
    size = max(1, round(seconds * rate))
    waiting = [np.zeros(0, np.float32)]
    for part in _resampled(source, name, rate):
        waiting.append(part)
        if sum(map(len, waiting)) >= size:
            joined = np.concatenate(waiting)
            whole = len(joined) // size * size
            yield from joined[:whole].reshape(-1, size)
            waiting = [joined[whole:]]
    rest = np.concatenate(waiting)
    if len(rest):
        yield rest


def _resampled(source: bytes | Path, name: str, rate: int) -> Iterator[np.ndarray]:
    """Give a recording's waveform in pieces of any length, at least one sample in all.

    Raises:
        UserError: as `decode` does.
    """
    samples = 0
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as handle:
        exact = _states_length(handle, name)
        with _opened(handle, name) as file:
            parts = _mono(file, handle, name, exact or file.format != "MP3")
            if file.samplerate != rate:
                parts = _at_rate(parts, file.samplerate, rate)
            for part in parts:
                samples += len(part)
                yield part
    if not samples:
        raise UserError(f"{name} has no sample at {rate} Hz; {_TAKES}")


def _states_length(handle: BinaryIO, name: str) -> bool:
    """Tell whether a file, if it is an MP3, begins with a table of its length.

    Without one libsndfile reckons the length from the size and the first frame's bit rate.

    Raises:
        UserError: if the file is empty.
    """
    head = handle.read(10)
    if not head:
        raise UserError(f"{name} is empty; {_TAKES}")
    if head.startswith(b"ID3"):
        # The size of the tag before the sound has seven bits a byte.
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte
        handle.seek(10 + size)
    first = head + handle.read(4096)
    handle.seek(0)
    return b"Xing" in first or b"Info" in first


def _opened(handle: BinaryIO, name: str) -> _Stream:
    """Open a recording.

    Raises:
        UserError: if it is no sound, or cut off as its header tells.
    """
    try:
        file = _Stream(handle)
    except soundfile.LibsndfileError as error:
        # Of an MP3 without two whole frames libsndfile says that the file does not exist.
        reason = "too little of it" if error.code == 7 else error.error_string.rstrip(".")
        raise UserError(f"{name} cannot be read as sound ({reason}); {_TAKES}") from None
    log = file.extra_info
    if re.search("^Ogg ?: (Last page lacks an end|Junk after the last page)", log, re.MULTILINE):
        raise UserError(f"{name} is cut off: its last Ogg page does not end it; {_TAKES}")
    sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if sizes and int(sizes[2]) < int(sizes[1]) < _STREAMED:
        raise UserError(
            f"{name} is cut off: it states {sizes[1]} bytes of samples and has {sizes[2]}; {_TAKES}"
        )
    return file


def _mono(file: _Stream, handle: BinaryIO, name: str, exact: bool) -> Iterator[np.ndarray]:
    """Give the mean of a file's channels, float32, in pieces, at the file's rate.

    Args:
        exact: whether the length that the file states is no estimate.

    Raises:
        UserError: if the file ends early, or a sample is no number.
    """
    read = 0
    # libsndfile stops where it reckons the end to be, though more follows. By small steps it goes
    # no farther in the file either, which tells.
    step = _BLOCK if exact else 1 << 12
    while True:
        buffer = np.empty((step, file.channels), np.float32)
        try:
            block = file.read(out=buffer)
        except soundfile.LibsndfileError as error:
            reason = error.error_string.removeprefix("Error : ").rstrip(".")
            raise UserError(f"{name} is cut off or damaged ({reason}); {_TAKES}") from None
        if not len(block):
            break
        mono = block[:, 0] if file.channels == 1 else block.mean(axis=1)
        finite = np.isfinite(mono)
        if not finite.all():
            at = (read + finite.argmin()) / file.samplerate
            raise UserError(f"{name} has a sample at {at:.3f} s that is no finite number")
        read += len(block)
        yield mono
    if exact and read < file.frames < _UNKNOWN:
        states, has = file.frames / file.samplerate, read / file.samplerate
        raise UserError(f"{name} is cut off: it states {states:.2f} s and has {has:.2f}; {_TAKES}")
    at = handle.tell()
    size = handle.seek(0, io.SEEK_END)
    if not exact and size - at > size // 100:
        raise UserError(
            f"{name} is an MP3 of variable bit rate without a table of its length (Xing), so that "
            f"its end is not found; {_TAKES}"
        )


def _at_rate(parts: Iterator[np.ndarray], given: int, wanted: int) -> Iterator[np.ndarray]:
    """Resample a waveform that comes in pieces from the rate `given` to `wanted` (Hz)."""
    resampler = soxr.ResampleStream(given, wanted, 1, dtype="float32")
    for part in parts:
        yield resampler.resample_chunk(part)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
