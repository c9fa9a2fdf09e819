"""Decode recordings (WAV, FLAC, Ogg, MP3 and libsndfile's other formats) to waveforms.

A waveform is the mean of the file's channels, float32 at the requested sample rate; integers of the
file become values in [-1, 1). Resampling is soxr's "HQ".
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

_EXPECTED = "it must be a complete recording as WAV, FLAC, Ogg or MP3"
_BLOCK = 1 << 18  # samples of each channel that are read at once: 6 s of a CD
_UNKNOWN_LENGTH = 2**63 - 1  # libsndfile's length of a FLAC that states none
# A WAV that was written to a pipe states a size near the maximum, whatever follows.
_STREAMED_SIZE = 0x7FFF0000


class _Stream(soundfile.SoundFile):
    """A file that is read sequentially.

    soundfile seeks after each block of a seekable file, and MP3 then has errors at the boundaries.
    """

    def seekable(self) -> bool:
        return False


def decode(content: bytes, name: str, rate: int) -> np.ndarray:
    """Return a recording as one waveform, float32 (samples,).

    Args:
        content: the file's bytes.
        name: the file's name in errors.
        rate: the sample rate of the waveform, in Hz.

    Raises:
        UserError: if the file is empty, not sound, truncated, or has samples that are not finite.
    """
    return np.concatenate(list(_resampled(content, name, rate)))


def decode_blocks(
    source: bytes | Path, name: str, rate: int, seconds: float
) -> Iterator[np.ndarray]:
    """Yield a recording in blocks, which together are the waveform that `decode` returns.

    Memory does not grow with the length of the recording. An error of the file may be raised after
    its first blocks.

    Args:
        source: the file's bytes, or its path.
        name: the file's name in errors.
        rate: the sample rate of the waveform, in Hz.
        seconds: the length of a block; the last may be shorter.

    Yields:
        float32 (samples,).

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
            complete = len(joined) // size * size
            yield from joined[:complete].reshape(-1, size)
            waiting = [joined[complete:]]
    rest = np.concatenate(waiting)
    if len(rest):
        yield rest


def _resampled(source: bytes | Path, name: str, rate: int) -> Iterator[np.ndarray]:
    """Yield a recording's waveform in blocks of any length, with at least one sample in all.

    Raises:
        UserError: as `decode` does.
    """
    samples = 0
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as handle:
        exact = _has_length_table(handle, name)
        with _open(handle, name) as file:
            blocks = _mix_down(file, handle, name, exact or file.format != "MP3")
            if file.samplerate != rate:
                blocks = _resample(blocks, file.samplerate, rate)
            for block in blocks:
                samples += len(block)
                yield block
    if not samples:
        raise UserError(f"{name} has no samples at {rate} Hz; {_EXPECTED}")


def _has_length_table(handle: BinaryIO, name: str) -> bool:
    """Return whether a file, if it is an MP3, begins with a table of its length (Xing).

    Without one libsndfile estimates the length from the size and the first frame's bit rate.

    Raises:
        UserError: if the file is empty.
    """
    head = handle.read(10)
    if not head:
        raise UserError(f"{name} is empty; {_EXPECTED}")
    if head.startswith(b"ID3"):
        # The size of the tag before the sound has seven bits a byte.
        size = 0
        for byte in head[6:]:
            size = size << 7 | byte
        handle.seek(10 + size)
    first = head + handle.read(4096)
    handle.seek(0)
    return b"Xing" in first or b"Info" in first


def _open(handle: BinaryIO, name: str) -> _Stream:
    """Open a recording.

    Raises:
        UserError: if it is not sound, or shorter than its header states.
    """
    try:
        file = _Stream(handle)
    except soundfile.LibsndfileError as error:
        # For an MP3 without two complete frames libsndfile says that the file does not exist.
        reason = "it is too short" if error.code == 7 else error.error_string.rstrip(".")
        raise UserError(f"{name} cannot be read as sound ({reason}); {_EXPECTED}") from None
    log = file.extra_info
    if re.search("^Ogg ?: (Last page lacks an end|Junk after the last page)", log, re.MULTILINE):
        raise UserError(f"{name} is truncated: its last Ogg page does not end it; {_EXPECTED}")
    sizes = re.search(r"^data : (\d+) \(should be (\d+)\)", log, re.MULTILINE)
    if sizes and int(sizes[2]) < int(sizes[1]) < _STREAMED_SIZE:
        raise UserError(
            f"{name} is truncated: it states {sizes[1]} bytes of samples and has {sizes[2]}; "
            f"{_EXPECTED}"
        )
    return file


def _mix_down(file: _Stream, handle: BinaryIO, name: str, exact: bool) -> Iterator[np.ndarray]:
    """Yield the mean of a file's channels, float32, in blocks, at the file's rate.

    Args:
        file: the opened file.
        handle: the file that it reads.
        name: the file's name in errors.
        exact: whether the stated length is exact, not an estimate.

    Raises:
        UserError: if the file ends early, or a sample is not finite.
    """
    read = 0
    # libsndfile stops at an estimated end even if more follows. With small steps it does not read
    # ahead, so that the position in the file shows whether it stopped early.
    step = _BLOCK if exact else 1 << 12
    while True:
        buffer = np.empty((step, file.channels), np.float32)
        try:
            block = file.read(out=buffer)
        except soundfile.LibsndfileError as error:
            reason = error.error_string.removeprefix("Error : ").rstrip(".")
            raise UserError(f"{name} is truncated or damaged ({reason}); {_EXPECTED}") from None
        if not len(block):
            break
        mono = block[:, 0] if file.channels == 1 else block.mean(axis=1)
        finite = np.isfinite(mono)
        if not finite.all():
            seconds = (read + finite.argmin()) / file.samplerate
            raise UserError(f"{name} has a sample at {seconds:.3f} s that is not finite")
        read += len(block)
        yield mono
    if exact and read < file.frames < _UNKNOWN_LENGTH:
        stated, actual = file.frames / file.samplerate, read / file.samplerate
        raise UserError(
            f"{name} is truncated: it states {stated:.2f} s and has {actual:.2f}; {_EXPECTED}"
        )
    position = handle.tell()
    size = handle.seek(0, io.SEEK_END)
    if not exact and size - position > size // 100:
        raise UserError(
            f"{name} is an MP3 of variable bit rate without a table of its length (Xing), so its "
            f"end is unknown; {_EXPECTED}"
        )


def _resample(blocks: Iterator[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resample the blocks of a waveform from `rate` to `new_rate` (Hz)."""
    resampler = soxr.ResampleStream(rate, new_rate, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
