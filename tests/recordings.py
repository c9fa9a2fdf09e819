"""Recordings in the formats of libsndfile and FFmpeg."""

import io
from fractions import Fraction

import av
import numpy as np
import soundfile

ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
ID3V2 = b"ID3\x04\x00\x00\x00\x00\x4e\x10" + bytes(0x4E << 7 | 0x10)


def written(wave: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, wave, rate, format=kind, subtype=subtype)
    return content.getvalue()


def encoded(
    wave: np.ndarray, rate: int, container: str, codec: str, video: bool = False, **options: str
) -> bytes:
    """Write a wave of one channel as FFmpeg does, beside a video of ten frames a second or not."""
    content = io.BytesIO()
    with av.open(content, "w", format=container, options=options) as file:
        sound_stream = file.add_stream(codec, rate=rate, layout="mono")
        video_stream = file.add_stream("mpeg4", rate=10) if video else None
        if video_stream:
            video_stream.width = video_stream.height = 64
            video_stream.pix_fmt = "yuv420p"
            rng = np.random.default_rng(0)
            for number in range(len(wave) * 10 // rate):
                pixels = rng.integers(0, 255, (96, 64), np.uint8)
                image = av.VideoFrame.from_ndarray(pixels, "yuv420p")
                image.pts, image.time_base = number, Fraction(1, 10)
                file.mux(video_stream.encode(image))
            file.mux(video_stream.encode())
        frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
        frame.sample_rate, frame.pts = rate, 0
        file.mux(sound_stream.encode(frame))
        file.mux(sound_stream.encode())
    return content.getvalue()
