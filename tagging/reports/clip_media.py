"""Images and sound of clips for a page: spectrograms as PNG, sound as Ogg/Opus."""

import io

import av
import numpy as np
import soxr

from tagging.data.clips import Features
from tagging.reports.spectrogram import SpectrogramImage

OPUS_RATE = 48_000  # Hz
BIT_RATE = 32_000  # a second


def read_samples(waveforms: Features, clips: np.ndarray) -> np.ndarray:
    """Return the samples of clips, one after the other: float32 (samples,)."""
    assert waveforms.scales is not None
    return np.concatenate(
        [
            waveforms.values[clip, 0, : waveforms.frames[clip], 0].astype(np.float32)
            * waveforms.scales[clip]
            for clip in clips
        ]
    )


def encode_spectrogram(samples: np.ndarray, sample_rate: int) -> bytes:
    """Return a log-mel spectrogram as PNG.

    Args:
        samples: float32 (samples,).
        sample_rate: of the samples (Hz).
    """
    image = SpectrogramImage(sample_rate)
    for _ in image.watch([samples]):
        pass
    return image.png()


def encode_opus(samples: np.ndarray, sample_rate: int) -> bytes:
    """Return sound as Ogg/Opus; the same samples have the same bytes.

    Args:
        samples: float32 (samples,).
        sample_rate: of the samples (Hz).
    """
    resampled = soxr.resample(samples, sample_rate, OPUS_RATE).astype(np.float32)
    out = io.BytesIO()
    # Without the flag, the stream has a random serial number.
    with av.open(out, "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libopus", OPUS_RATE, layout="mono")
        stream.bit_rate = BIT_RATE
        frame = av.AudioFrame.from_ndarray(resampled[None].clip(-1, 1), "fltp", "mono")
        frame.sample_rate = OPUS_RATE
        resampler = av.AudioResampler(
            stream.format, "mono", OPUS_RATE, frame_size=stream.frame_size or 960
        )
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return out.getvalue()
