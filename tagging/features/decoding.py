"""Decode recordings, and the sound of videos, in all formats that FFmpeg reads.

A waveform is one channel, by default the mean of the file's, float32 at the requested sample rate;
integers of the file become values in [-1, 1), and what a codec has above 1 stays. Resampling is
soxr's "HQ".
"""

import io
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

import av
import numpy as np
import soundfile
import soxr
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from tagging.base.errors import UserError
from tagging.features.channels import mix_down
from tagging.features.containers import (
    CHUNKED,
    Extent,
    find_parts,
    measure_chunks,
    skip_tags,
)

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 1_000_000  # Hz
# Decoders of MP3, Vorbis and Opus exceed full scale, 1, by a factor of up to 3.4. Integers that are
# converted to floats without scaling exceed this limit even in a quiet recording.
MAX_AMPLITUDE = 10

_EXPECTED = "it must be a complete recording in a format that FFmpeg reads"
_BLOCK = 1 << 18  # samples, of all channels together, that are mixed and resampled at once
_DTYPES = {
    "u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32,
    "dbl": np.float64,
}  # fmt: skip
# Containers whose header states the duration. FFmpeg estimates that of others from the bit rate.
_STATING = {
    "aiff", "ape", "asf", "au", "avi", "caf", "dsf", "flac", "flv", "matroska,webm",
    "mov,mp4,m4a,3gp,3g2,mj2", "nistsphere", "tak", "tta", "wav", "wv",
}  # fmt: skip
# Codecs of blocks pad the last one, and their decoders start late: by 2,112 samples for AAC.
_PADDING = 4096
_ROUNDING = 0.15  # seconds between the stated end of a video, in ms, and that of its last packet


class _Content:
    """A part of a file, without the file's name, by which FFmpeg would guess the format."""

    def __init__(self, handle: BinaryIO, start: int, end: int) -> None:
        self._handle, self._start, self._end = handle, start, end
        handle.seek(start)

    def read(self, size: int = -1) -> bytes:
        rest = max(0, self._end - self._handle.tell())
        return self._handle.read(min(size, rest) if size >= 0 else rest)

    def tell(self) -> int:
        return self._handle.tell() - self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        first = {io.SEEK_SET: self._start, io.SEEK_CUR: self._handle.tell(), io.SEEK_END: self._end}
        return self._handle.seek(first[whence] + offset) - self._start


class _SoundFile(soundfile.SoundFile):
    """A file that is read sequentially, without the seek to each block that soundfile adds."""

    def seekable(self) -> bool:
        return False


def decode(content: bytes, name: str, rate: int) -> np.ndarray:
    """Return a recording as one waveform, float32 (samples,).

    Args:
        content: the file's bytes.
        name: the file's name in errors.
        rate: the sample rate of the waveform, in Hz.

    Raises:
        UserError: if the file is empty, not sound, incomplete, damaged, or has samples that are not
            finite or far above full scale.
    """
    return np.concatenate(list(_resampled(content, name, rate, mix_down)))


def decode_blocks(
    source: bytes | Path,
    name: str,
    rate: int,
    seconds: float,
    mix: Callable[[np.ndarray], np.ndarray] = mix_down,
) -> Iterator[np.ndarray]:
    """Yield a recording in blocks, which together are the waveform that `decode` returns.

    Memory does not grow with the length of the recording. An error of the file may be raised after
    its first blocks.

    Args:
        source: the file's bytes, or its path.
        name: the file's name in errors.
        rate: the sample rate of the waveform, in Hz.
        seconds: the length of a block; the last may be shorter.
        mix: computes one channel, (samples,), of a block, float32 (samples, channels).

    Yields:
        float32 (samples,).

    Raises:
        UserError: as `decode` does.
        OSError: if the file cannot be opened.
    """
    size = max(1, round(seconds * rate))
    waiting = [np.zeros(0, np.float32)]
    for part in _resampled(source, name, rate, mix):
        waiting.append(part)
        if sum(map(len, waiting)) >= size:
            joined = np.concatenate(waiting)
            complete = len(joined) // size * size
            yield from joined[:complete].reshape(-1, size)
            waiting = [joined[complete:]]
    rest = np.concatenate(waiting)
    if len(rest):
        yield rest


class Header(NamedTuple):
    """What a recording states: its sample rate (Hz), and its length in seconds, or 0."""

    sample_rate: int
    seconds: float


def read_header(path: Path) -> Header | None:
    """Return what a recording states, or None if it is not one.

    Raises:
        OSError: if the file cannot be opened.
    """
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, io.SEEK_END)
            with _open(_Content(handle, skip_tags(handle), size)) as container:
                stream = container.streams.best("audio")
                if not isinstance(stream, AudioStream) or stream.codec_context is None:
                    return None
                return Header(stream.sample_rate, (container.duration or 0) / av.time_base)
    except av.FFmpegError:
        return None


def estimate_duration(path: Path) -> float:
    """Return about how many seconds a recording has, by its header, or 0 if it is not known.

    Raises:
        OSError: if the file cannot be opened.
    """
    header = read_header(path)
    return header.seconds if header else 0.0


def _resampled(
    source: bytes | Path, name: str, rate: int, mix: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield a recording's waveform in blocks of any length, with at least one sample in all.

    Raises:
        UserError: as `decode` does.
    """
    samples = 0
    # The rate changes where files of different rates were joined.
    for file_rate, blocks in groupby(_read(source, name), key=lambda pair: pair[0]):
        mixed = (mix(block) for _, block in blocks)
        for part in mixed if file_rate == rate else _resample(mixed, file_rate, rate):
            samples += len(part)
            yield part
    if not samples:
        raise UserError(f"{name} has no samples at {rate} Hz; {_EXPECTED}")


def _resample(blocks: Iterator[np.ndarray], rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Resample the blocks of a waveform from `rate` to `new_rate` (Hz)."""
    resampler = soxr.ResampleStream(rate, new_rate, 1, dtype="float32")
    for block in blocks:
        yield resampler.resample_chunk(np.ascontiguousarray(block))
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _read(source: bytes | Path, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield a recording in blocks: their rate (Hz), and their samples, float32 (samples, channels).

    Raises:
        UserError: as `decode` does.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as handle:
        size = handle.seek(0, io.SEEK_END)
        if not size:
            raise UserError(f"{name} is empty; {_EXPECTED}")
        start = skip_tags(handle)
        seconds = 0.0
        for part in find_parts(handle, start, size, name):
            content = _Content(handle, part.start, part.end)
            # libsndfile has the reference decoders. FFmpeg's misses the end of Vorbis by up to
            # 20 ms, and differs from Opus's by 1e-4.
            if part.is_vorbis_or_opus:
                blocks = _read_with_libsndfile(content, name)
            else:
                blocks = _read_with_ffmpeg(content, name, part.samples)
            for rate, block in blocks:
                _check_samples(block, name, seconds, rate)
                seconds += len(block) / rate
                yield rate, block


def _check_samples(block: np.ndarray, name: str, seconds: float, rate: int) -> None:
    """Refuse a block, (samples, channels), that begins at `seconds`, if it cannot be sound.

    Raises:
        UserError: because of its rate, or its values.
    """
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise UserError(
            f"{name} must have a sample rate from {MIN_SAMPLE_RATE:,} to {MAX_SAMPLE_RATE:,} Hz, "
            f"got {rate:,}"
        )
    peak = float(np.abs(block).max(initial=0))
    if peak <= MAX_AMPLITUDE:
        return
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        seconds += finite.argmin() / rate
        raise UserError(f"{name} has a sample at {seconds:.3f} s that is not finite")
    raise UserError(
        f"{name} must have floats in [-1, 1], got a peak of {peak:g}; store integers in their "
        "integer type, or divide by its full scale"
    )


def _read_with_libsndfile(content: _Content, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the blocks of a recording, as `_read` does.

    Raises:
        UserError: if it is damaged.
    """
    try:
        with _SoundFile(content) as file:
            while len(block := file.read(_BLOCK // file.channels, np.float32, always_2d=True)):
                yield file.samplerate, block
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise UserError(f"{name} is damaged ({reason}); {_EXPECTED}") from None


def _read_with_ffmpeg(
    content: _Content, name: str, samples: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the blocks of a recording, as `_read` does; it states a number of samples, or 0.

    Raises:
        UserError: as `decode` does.
    """
    extent = measure_chunks(content)
    try:
        # FFmpeg takes an MP3 of two frames for something else.
        container = _open(content, "mp3" if samples else None)
    except av.FFmpegError as error:
        raise UserError(f"{name} cannot be read as sound ({error.strerror}); {_EXPECTED}") from None
    with container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream) or stream.codec_context is None:
            raise UserError(f"{name} has no sound, or of an unknown codec; {_EXPECTED}")
        if extent and extent.stated != extent.actual:
            _refuse_extent(extent, name, stream.codec_context.bit_rate or 0)
        if extent and not extent.actual:  # FFmpeg would read chunks behind the samples
            return
        stated = samples / stream.sample_rate or _stated_seconds(container, stream)
        yield from _read_stream(container, stream, name, stated)


def _open(content: _Content, format_name: str | None = None) -> InputContainer:
    """Open a recording, of a given format of FFmpeg's or of any.

    Raises:
        FFmpegError: if it cannot be read.
    """
    # Playlists and descriptions of streams must not make FFmpeg open other files or addresses.
    options = {"protocol_whitelist": "none"}
    content.seek(0)
    if content.read(4) in CHUNKED:
        # FFmpeg searches the PCM of a WAV for other codecs, which takes longer than decoding.
        options["max_probe_packets"] = "1"
    content.seek(0)
    return av.open(content, "r", format_name, options=options, metadata_errors="ignore")


def _refuse_extent(extent: Extent, name: str, bit_rate: int) -> NoReturn:
    """Refuse a container that states more or less than it has.

    Raises:
        UserError: always.
    """
    if bit_rate:
        stated, actual = (8 * size / bit_rate for size in extent)
        lengths = f"it states {stated:.2f} s and has {actual:.2f}"
    else:
        lengths = f"it states {extent.stated:,} bytes of samples and has {extent.actual:,}"
    if extent.stated > extent.actual:
        raise UserError(f"{name} is truncated: {lengths}; {_EXPECTED}")
    raise UserError(
        f"{name} has a wrong header: {lengths}; if all of it is sound, correct the header, for a "
        "WAV with ffmpeg -ignore_length 1 -i OLD.wav -c copy NEW.wav"
    )


def _stated_seconds(container: InputContainer, stream: AudioStream) -> float:
    """Return the duration that the header states, or 0 if it states none."""
    if container.format.name not in _STATING:
        return 0.0
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _read_stream(
    container: InputContainer, stream: AudioStream, name: str, stated: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the blocks of a recording, as `_read` does.

    Args:
        container: the opened file.
        stream: its sound.
        name: the file's name in errors.
        stated: the duration that it states, in seconds, or 0.

    Raises:
        UserError: if it ends early or is damaged.
    """
    codec = stream.codec_context
    codec.thread_count = 1
    # libsndfile states an even number of bytes in a CAF, which is one sample more.
    is_exact = container.format.name != "caf" and codec.name.startswith(("flac", "pcm", "mp3"))
    if codec.name == "flac":
        codec.options = {"err_detect": "crccheck+explode"}
    latest: dict[int, Packet] = {}  # of each stream
    seconds, rate = 0.0, 1
    try:
        for rate, block in _join_frames(_decode_frames(container, stream, latest)):
            seconds += len(block) / rate
            yield rate, block
    except av.FFmpegError as error:
        length = f" of {stated:.2f}" if stated else ""
        raise UserError(
            f"{name} is truncated or damaged at {seconds:.2f} s{length} ({error.strerror}); "
            f"{_EXPECTED}"
        ) from None
    actual, tolerance = seconds, ((0 if is_exact else _PADDING) + 0.5) / rate
    if not stream.duration:  # the header states the end of all streams
        ends = [
            float(((packet.pts or 0) + (packet.duration or 0)) * packet.time_base)
            for packet in latest.values()
        ]
        actual, tolerance = max(ends, default=0.0), _ROUNDING
    if stated - actual > tolerance:
        raise UserError(
            f"{name} is truncated: it states {stated:.2f} s and has {actual:.2f}; {_EXPECTED}"
        )


def _decode_frames(
    container: InputContainer, stream: AudioStream, latest: dict[int, Packet]
) -> Iterator[AudioFrame]:
    """Yield the frames of a stream, and put the last packet of each stream into `latest`.

    Raises:
        FFmpegError: if a frame is damaged.
    """
    # The other streams of a container are read where it states their common end only.
    packets = container.demux(stream) if stream.duration else container.demux()
    for packet in packets:
        if packet.size:
            latest[packet.stream_index] = packet
        if packet.stream_index == stream.index:
            yield from cast(list[AudioFrame], packet.decode())


def _join_frames(frames: Iterable[AudioFrame]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield frames, of some hundred samples, in blocks: rate (Hz), float32 (samples, channels)."""
    copies = ((frame.sample_rate, _copy_samples(frame)) for frame in frames)
    for (rate, _, _), alike in groupby(copies, key=_block_layout):
        parts: list[np.ndarray] = []
        size = 0
        for _, samples in alike:
            parts.append(samples)
            size += samples.size
            if size >= _BLOCK:
                yield rate, _to_float(np.concatenate(parts))
                parts, size = [], 0
        if parts:
            yield rate, _to_float(np.concatenate(parts))


def _block_layout(block: tuple[int, np.ndarray]) -> tuple[int, int, str]:
    rate, samples = block
    return rate, samples.shape[1], samples.dtype.char


def _copy_samples(frame: AudioFrame) -> np.ndarray:
    """Return a frame's samples, (samples, channels), in the type of its format.

    `AudioFrame.to_ndarray` takes as long as decoding.
    """
    dtype = _DTYPES[frame.format.name.removesuffix("p")]
    planes: tuple[Any, ...] = frame.planes  # whose stubs do not say that they are buffers
    samples = frame.samples
    if len(planes) > 1:
        return np.stack([np.frombuffer(plane, dtype, samples) for plane in planes], axis=1)
    channels = frame.layout.nb_channels
    return np.frombuffer(planes[0], dtype, samples * channels).reshape(samples, channels).copy()


def _to_float(samples: np.ndarray) -> np.ndarray:
    """Return samples as float32; integers become values in [-1, 1)."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) * np.float32(-1 / np.iinfo(samples.dtype).min)
    with np.errstate(over="ignore"):  # infinity is refused
        return samples.astype(np.float32)
