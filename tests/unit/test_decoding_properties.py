"""Random recordings, joined, tagged, cut and damaged: read as they were written, or refused.

`DECODING_CASES=2000 pytest tests/unit/test_decoding_properties.py` tries more of them.
"""

import io
import os

import numpy as np
import soundfile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tagging.base.errors import UserError
from tagging.features.decoding import MAX_AMPLITUDE, decode
from tests.recordings import ID3V1, ID3V2, written

CASES = int(os.environ.get("DECODING_CASES", "200"))
OPUS_RATES = [48000]  # of any other, libsndfile decodes at that rate, and FFmpeg at 48000
MP3_RATES = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000]
RATES = [*MP3_RATES, 37800, 96000]
PCM = ["PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]
FORMATS = [
    *(("WAV", subtype) for subtype in (*PCM, "PCM_U8", "IMA_ADPCM", "MS_ADPCM")),
    *(("WAVEX", subtype) for subtype in (*PCM, "PCM_U8")),
    *(("RF64", subtype) for subtype in (*PCM, "PCM_U8")),
    *(("W64", subtype) for subtype in (*PCM, "PCM_U8")),
    *(("AIFF", subtype) for subtype in (*PCM, "PCM_S8")),
    *(("AU", subtype) for subtype in (*PCM, "PCM_S8")),
    *(("CAF", subtype) for subtype in (*PCM, "PCM_S8")),
    *(("FLAC", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24") * 3),
    *[("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")] * 6,
]
JOINED = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")]
# A cut of less than a block of samples, which codecs pad, is not seen; nor are 36 and 44 bytes of a
# WAV, which some writers count too much.
TOLERANCES = {"IMA_ADPCM": 4096, "MS_ADPCM": 4096}


@st.composite
def recordings(draw: st.DrawFn, formats: list[tuple[str, str]]) -> tuple[str, str, bytes]:
    """Draw a file: its format, its subtype and its bytes."""
    kind, subtype = draw(st.sampled_from(formats))
    rates = {"OPUS": OPUS_RATES, "MPEG_LAYER_III": MP3_RATES}.get(subtype, RATES)
    rate = draw(st.sampled_from(rates))
    channels = draw(st.integers(1, 2 if kind == "MP3" or "ADPCM" in subtype else 4))
    # FFmpeg does not find the start of an MP3 of less than 47 samples.
    samples = draw(st.integers(100 if kind == "MP3" else 1, 20_000))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    wave = 0.1 * rng.standard_normal((samples, channels)).clip(-9, 9)
    wave *= rng.random(channels)
    return kind, subtype, written(wave.astype(np.float32), rate, kind, subtype)


def expected_wave(content: bytes) -> tuple[np.ndarray, int]:
    """Return the waveform, (samples,), and the rate that libsndfile reads."""
    wave, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return wave.mean(axis=1), rate


def decode_or_refuse(content: bytes, rate: int) -> np.ndarray | None:
    """Return the waveform, or None if the file is refused with a reason."""
    try:
        output = decode(content, "a file", rate)
    except UserError as error:
        assert str(error).startswith("a file ")
        return None
    assert output.dtype == np.float32
    assert np.abs(output).max() <= MAX_AMPLITUDE * 1.5  # resampling overshoots
    return output


def assert_equal(output: np.ndarray, expected: np.ndarray, subtype: str = "") -> None:
    assert output.shape == expected.shape
    # Decoders round the steps of ADPCM differently.
    tolerance = 1e-3 if "ADPCM" in subtype else 1e-5
    np.testing.assert_allclose(output, expected, atol=tolerance, rtol=0)


@settings(max_examples=CASES // 4, deadline=None)
@given(recordings(FORMATS), st.booleans(), st.booleans())
def test_a_recording_is_read_as_written_with_tags_or_without(file, tag_before, tag_behind):
    kind, subtype, content = file
    expected, rate = expected_wave(content)
    if tag_before:
        content = ID3V2 + content
    if tag_behind and kind not in ("AU", "CAF"):  # whose samples extend to the end of the file
        content += ID3V1
    assert_equal(decode(content, "a file", rate), expected, subtype)


@settings(max_examples=CASES // 8, deadline=None)
@given(recordings(JOINED), st.integers(2, 4))
def test_joined_recordings_are_read_to_the_last_one(file, count):
    _, _, content = file
    expected, rate = expected_wave(content)
    assert_equal(decode(content * count, "a file", rate), np.tile(expected, count))


@settings(max_examples=CASES // 8, deadline=None)
@given(recordings(JOINED), recordings(JOINED))
def test_joined_recordings_of_other_rates_are_read_to_the_last_one(file, other):
    assume(file[0] == other[0] and expected_wave(file[2])[1] != expected_wave(other[2])[1])
    output = decode(file[2] + other[2], "a file", 48000)
    waves = [decode(content, "a file", 48000) for _, _, content in (file, other)]
    assert_equal(output, np.concatenate(waves))


@settings(max_examples=CASES // 4, deadline=None)
@given(recordings(FORMATS), st.floats(0, 1))
def test_a_cut_recording_is_refused(file, part):
    kind, subtype, content = file
    expected, rate = expected_wave(content)
    size = int(part * len(content))
    assume(kind != "WAV" or len(content) - size not in (36, 44))
    output = decode_or_refuse(content[:size], rate)
    if output is not None:
        tolerance = TOLERANCES.get(subtype, 0)
        assert len(expected) - tolerance <= len(output) <= len(expected)
        assert_equal(output, expected[: len(output)], subtype)


@settings(max_examples=CASES // 8, deadline=None)
@given(
    recordings([("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_a_changed_byte_is_refused_where_there_are_checksums(file, place, change):
    _, _, content = file
    expected, rate = expected_wave(content)
    damaged = bytearray(content)
    damaged[int(place * len(damaged))] ^= change
    output = decode_or_refuse(bytes(damaged), rate)
    if output is not None:
        assert_equal(output, expected)


@settings(max_examples=CASES // 8, deadline=None)
@given(recordings(FORMATS), st.integers(0, 127), st.integers(1, 255))
def test_a_changed_byte_of_a_header_is_refused_or_harmless(file, place, change):
    kind, subtype, content = file
    expected, rate = expected_wave(content)
    damaged = bytearray(content)
    place %= len(damaged)
    damaged[place] ^= change
    output = decode_or_refuse(bytes(damaged), rate)
    # Nothing in the file contradicts another rate or codec, or the first samples.
    if output is not None and kind == "WAV" and subtype == "PCM_16" and not 16 <= place < 36:
        assert_equal(output[22:], expected[22:]) if place >= 44 else assert_equal(output, expected)
