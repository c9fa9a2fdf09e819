"""An image of a recording's spectrogram, computed while the recording is decoded."""

import struct
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from tagging.features import log_mel

COLUMNS, BINS = 1200, 64  # at most twice as many columns
DYNAMIC_RANGE_DB = 70
# From soft to loud, evenly spaced: dark violet, red, yellow.
COLOURS = (
    (10, 8, 34),
    (68, 16, 104),
    (150, 40, 100),
    (221, 81, 58),
    (252, 165, 32),
    (252, 250, 190),
)


class SpectrogramImage:
    """A log-mel spectrogram of a recording of any length, averaged to at most 2,400 columns.

    Args:
        sample_rate: of the waveform (Hz).
    """

    def __init__(self, sample_rate: int) -> None:
        self._hop = max(1, sample_rate // 50)
        settings = log_mel.Settings(
            sample_rate=sample_rate, window=2 * self._hop, hop=self._hop, bins=BINS, scale="htk",
            fft=max(2 * self._hop, 1024), log="db", floor=1e-8,
        )  # fmt: skip
        self._transform = log_mel.Transform(settings)
        self._columns = np.zeros((0, BINS), np.float32)
        self._remainder = self._columns  # frames that do not fill a column yet
        self._frames_per_column = 1

    def watch(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the pieces of a waveform unchanged, and add each to the image."""
        for piece in pieces:
            self._add_piece(piece)
            yield piece

    @torch.inference_mode()
    def _add_piece(self, piece: np.ndarray) -> None:
        frames = self._transform(torch.from_numpy(piece)[None])[0, 0].numpy()
        frames = np.concatenate([self._remainder, frames[: max(1, len(piece) // self._hop)]])
        complete = len(frames) // self._frames_per_column * self._frames_per_column
        self._add_columns(frames[:complete].reshape(-1, self._frames_per_column, BINS).mean(1))
        self._remainder = frames[complete:]

    def _add_columns(self, columns: np.ndarray) -> None:
        self._columns = np.concatenate([self._columns, columns])
        while len(self._columns) > 2 * COLUMNS:
            pairs = len(self._columns) // 2
            last = self._columns[2 * pairs :]
            # A column without a partner becomes frames again.
            self._remainder = np.concatenate(
                [np.repeat(last, self._frames_per_column, 0), self._remainder]
            )
            self._columns = self._columns[: 2 * pairs].reshape(pairs, 2, BINS).mean(1)
            self._frames_per_column *= 2

    def png(self) -> bytes:
        """Return the image: low frequencies at the bottom, louder ones brighter."""
        decibels = self._columns if len(self._columns) else self._remainder
        peak = float(decibels.max()) if decibels.size else 0.0
        levels = (decibels - peak + DYNAMIC_RANGE_DB) / DYNAMIC_RANGE_DB * 255
        return _encode_png(np.clip(levels, 0, 255).astype(np.uint8).T[::-1])


def _encode_png(levels: np.ndarray) -> bytes:
    """Return an image, uint8 (rows, columns), as PNG with a palette."""
    positions = np.linspace(0, len(COLOURS) - 1, 256)
    channels = zip(*COLOURS, strict=True)
    palette = np.stack(
        [np.interp(positions, range(len(COLOURS)), channel) for channel in channels], 1
    )
    rows = np.pad(levels, ((0, 0), (1, 0)))  # each row begins with 0: no filter
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
