import io
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from tagging.base.errors import UserError
from tagging.features.decoding import decode, decode_blocks, estimate_duration
from tests.recordings import ID3V1, ID3V2, encoded, written

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
# Other containers that state their length, and codecs in WAV.
STATING = [
    ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("RF64", "PCM_16"), ("CAF", "PCM_16"),
    ("SVX", "PCM_16"), ("NIST", "PCM_16"), ("WAV", "IMA_ADPCM"), ("WAV", "ULAW"), ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_24"), ("AIFF", "FLOAT"), ("CAF", "ALAC_16"),
]  # fmt: skip
# FFmpeg's names of container and codec.
ENCODED = {
    "M4A": ("mp4", "aac"), "3GP": ("3gp", "aac"), "MOV": ("mov", "pcm_s16le"),
    "MKV": ("matroska", "aac"),
    "WebM": ("webm", "libopus"), "AVI": ("avi", "libmp3lame"), "FLV": ("flv", "aac"),
    "WavPack": ("wv", "wavpack"), "TTA": ("tta", "tta"), "ALAC": ("ipod", "alac"),
    "AAC": ("adts", "aac"), "AC-3": ("ac3", "ac3"), "MPEG-TS": ("mpegts", "aac"),
    "FLAC in Ogg": ("ogg", "flac"),
}  # fmt: skip
WITHOUT_LENGTH = ("AAC", "AC-3", "MPEG-TS")


def sound(seconds: float = 2.0, rate: int = 48000, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate))[:, None] / rate
    tones = 0.2 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) * time)
    wave = tones + 0.02 * rng.standard_normal(tones.shape)
    return np.squeeze(wave.astype(np.float32), 1) if channels == 1 else wave.astype(np.float32)


def with_data_size(wav: bytes, size: int) -> bytes:
    place = wav.index(b"data") + 4
    return wav[:place] + struct.pack("<I", size) + wav[place + 4 :]


def without_table(mp3: bytes) -> bytes:
    return mp3[mp3.index(mp3[:2], 4) :]


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_each_format_is_decoded_and_resampled(kind, subtype):
    wave = sound()
    output = decode(written(wave, 48000, kind, subtype), f"a.{kind}", 16000)
    assert output.dtype == np.float32
    assert output.shape == (32000,)
    expected = soxr.resample(wave, 48000, 16000)
    lossless = kind in ("WAV", "FLAC")
    assert np.abs(output - expected).max() < (1e-4 if lossless else 0.15)
    assert np.corrcoef(output, expected)[0, 1] > (0.999999 if lossless else 0.98)


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_blocks_are_the_whole_recording(kind, subtype, tmp_path):
    content = written(sound(15), 48000, kind, subtype)
    path = tmp_path / "a"
    path.write_bytes(content)
    for rate in (16000, 48000):
        whole = decode(content, "a", rate)
        for seconds in (0.25, 4.0, 20.0):
            for source in (content, path):
                blocks = list(decode_blocks(source, "a", rate, seconds))
                assert np.array_equal(np.concatenate(blocks), whole)
                size = round(seconds * rate)
                assert {len(block) for block in blocks[:-1]} <= {size}
                assert 0 < len(blocks[-1]) <= size


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [*FORMATS, *STATING, ("VOC", "PCM_16"), ("AVR", "PCM_16"), ("FLAC", "PCM_24"), ("AU", "FLOAT")],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_waveforms_are_those_of_libsndfile(kind, subtype, channels):
    if (kind, subtype) == ("SVX", "PCM_16") and channels == 2:
        pytest.skip("the format has one channel")
    content = written(sound(1.3, channels=channels), 48000, kind, subtype)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    output = decode(content, "a", 48000)
    if kind == "CAF" and subtype == "ALAC_16":  # FFmpeg misses less than a block of 4,096 samples
        assert len(output) > len(expected) - 4096
        expected = expected[: len(output)]
    assert output.shape == expected.shape[:1]
    assert np.abs(output - expected.mean(axis=1)).max() < 1e-5


@pytest.mark.parametrize("kind", ENCODED)
def test_other_formats_are_decoded(kind):
    wave = sound()
    output = decode(encoded(wave, 48000, *ENCODED[kind]), "a", 48000)
    # Without edit lists, the delay of AAC, 1,024 samples, is heard, and its last block is padded.
    assert 96000 <= len(output) <= 96000 + 3072
    shift = np.argmax(np.correlate(output[:6000], wave[2048:4048]))
    assert np.corrcoef(output[shift:][:90000], wave[2048:][:90000])[0, 1] > 0.95


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_the_sound_of_a_video_is_decoded(container):
    wave = sound(5)
    content = encoded(wave, 48000, container, "libmp3lame", video=True)
    output = decode(content, "a", 48000)
    assert abs(len(output) - len(wave)) < 4096
    with pytest.raises(UserError, match=r"^a is truncated|^a cannot be read as sound"):
        decode(content[: len(content) // 2], "a", 48000)


def test_a_video_without_sound_is_refused():
    content = io.BytesIO()
    with av.open(content, "w", format="avi") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        file.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        file.mux(stream.encode())
    with pytest.raises(UserError, match=r"^a\.avi has no sound, or of an unknown codec; it must"):
        decode(content.getvalue(), "a.avi", 48000)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile {0}\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:{0}\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
)
def test_a_list_of_files_or_addresses_opens_none(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.wav").write_bytes(written(sound(), 48000, "WAV"))
    with pytest.raises(UserError, match=r"^list cannot be read as sound"):
        decode(text.format("a.wav").encode(), "list", 16000)


def test_decoding_at_the_file_s_own_rate_changes_no_sample():
    wave = sound()
    assert np.array_equal(decode(written(wave, 48000, "WAV", "FLOAT"), "a.wav", 48000), wave)


@pytest.mark.parametrize(
    ("subtype", "step"), [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23)]
)
def test_integers_become_values_around_zero(subtype, step):
    wave = sound()
    output = decode(written(wave, 48000, "WAV", subtype), "a.wav", 48000)
    assert np.abs(output - wave).max() <= step * 1.01


def test_channels_are_averaged():
    wave = sound(channels=6)
    output = decode(written(wave, 48000, "WAV", "FLOAT"), "a.wav", 48000)
    np.testing.assert_allclose(output, wave.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 96000])
def test_low_and_high_rates_are_resampled(rate):
    wave = sound(rate=rate)
    output = decode(written(wave, rate, "WAV", "FLOAT"), "a.wav", 16000)
    assert np.array_equal(output, soxr.resample(wave, rate, 16000))
    assert output.shape == (32000,)


def test_ten_milliseconds_and_silence_are_recordings():
    output = decode(written(sound(0.01), 48000, "WAV"), "a.wav", 16000)
    assert output.shape == (160,)
    output = decode(written(np.zeros(4800, np.float32), 48000, "OGG"), "a.ogg", 16000)
    assert not output.any()
    assert output.shape == (1600,)


def test_an_empty_file_is_refused():
    with pytest.raises(UserError, match=r"^b/a\.wav is empty; it must be a complete recording"):
        decode(b"", "b/a.wav", 16000)


def test_text_called_wav_is_refused():
    with pytest.raises(
        UserError, match=r"^a\.wav cannot be read as sound \(Invalid data found when .*\)"
    ):
        decode(b"not a recording\n" * 100, "a.wav", 16000)


def test_a_file_without_samples_is_refused():
    content = written(np.zeros(0, np.float32), 16000, "WAV")
    with pytest.raises(UserError, match=r"^a\.wav has no samples at 16000 Hz"):
        decode(content, "a.wav", 16000)
    with pytest.raises(UserError, match=r"^a\.wav has no samples"):
        list(decode_blocks(content, "a.wav", 16000, 1.0))


@pytest.mark.parametrize(
    "kinds",
    [
        (("OGG", "VORBIS"),) * 3,
        (("OGG", "OPUS"),) * 2,
        (("FLAC", "PCM_16"),) * 2,
        (("MP3", None),) * 2,
        (("OGG", "VORBIS"), ("OGG", "OPUS")),
    ],
)
def test_files_joined_end_to_end_are_read_to_the_last_one(kinds):
    parts = [written(sound(2), 48000, *kind) for kind in kinds]
    waves = [decode(part, "a", 48000) for part in parts]
    output = decode(b"".join(parts), "a", 48000)
    assert output.shape == (len(kinds) * 96000,)
    assert np.abs(output - np.concatenate(waves)).max() < 1e-5


@pytest.mark.parametrize("kind", ["MP3", "OGG"])
def test_files_of_different_rates_and_channels_are_joined(kind):
    parts = [written(sound(2, 48000), 48000, kind), written(sound(2, 32000, 2), 32000, kind)]
    output = decode(b"".join(parts), "a", 16000)
    assert output.shape == (4 * 16000,)


def test_a_truncated_part_of_joined_files_is_refused():
    for kind in ("OGG", "MP3"):
        content = written(sound(), 48000, kind)
        cut = content[: len(content) * 3 // 4]
        with pytest.raises(UserError, match=r"^a is truncated|^a is damaged: an Ogg page is miss"):
            decode(content + cut, "a", 48000)
    content = written(sound(), 48000, "OGG")
    with pytest.raises(UserError, match=r"^a is (truncated|damaged)"):
        decode(content[: len(content) * 3 // 4] + content, "a", 48000)


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(("kind", "subtype"), [*FORMATS, *STATING])
def test_a_truncated_file_is_refused(kind, subtype, part):
    content = written(sound(), 48000, kind, subtype)
    decode(content, "a", 16000)
    if part == 0.99 and subtype in ("ALAC_16", "IMA_ADPCM"):
        part = 0.9  # less is missing than a block is padded
    with pytest.raises(UserError, match=r"^a is truncated|^a cannot be read as sound"):
        decode(content[: round(part * len(content))], "a", 16000)


@pytest.mark.parametrize("kind", [kind for kind in ENCODED if kind not in WITHOUT_LENGTH])
def test_half_a_file_of_other_formats_is_refused(kind):
    content = encoded(sound(), 48000, *ENCODED[kind])
    with pytest.raises(UserError, match=r"^a is truncated|^a cannot be read as sound"):
        decode(content[: len(content) // 2], "a", 16000)


@pytest.mark.parametrize("kind", ["WAV", "W64", "AIFF", "CAF", "MP3"])
def test_a_truncated_file_is_refused_with_its_lengths(kind):
    content = written(sound(), 48000, kind)
    with pytest.raises(UserError, match=r"^a is truncated: it states 2\.00 s and has (0\.9|1\.0)"):
        decode(content[: len(content) // 2], "a", 16000)


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "CAF"])
def test_sound_behind_the_stated_length_is_refused(kind):
    content = written(sound(), 48000, kind)
    with pytest.raises(UserError, match=r"^a has a wrong header: it states 2\.00 s and has 4\.0"):
        decode(content + content, "a", 16000)


def test_a_wav_whose_header_states_less_than_there_is_is_refused():
    content = with_data_size(written(sound(10), 48000, "WAV", "PCM_16"), 2 * 2 * 48000)
    with pytest.raises(
        UserError,
        match=r"^a\.wav has a wrong header: it states 2\.00 s and has 10\.00; if all of it is "
        "sound, correct the header, for a WAV with ffmpeg -ignore_length 1",
    ):
        decode(content, "a.wav", 16000)


@pytest.mark.parametrize(
    "behind",
    [
        b"LIST" + struct.pack("<I", 10) + b"INFOICMT\0\0",
        b"note" + struct.pack("<I", 3) + b"abc\0" + b"note" + struct.pack("<I", 2) + b"ab",
        b"PAD " + struct.pack("<I", 3) + b"abc",  # the last chunk is not padded
        ID3V1,
        bytes(4096),
    ],
)
def test_chunks_tags_and_zeros_may_follow_the_sound_of_a_wav(behind):
    content = written(sound(), 48000, "WAV", "PCM_16")
    assert np.array_equal(decode(content + behind, "a", 16000), decode(content, "a", 16000))


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_a_tag_behind_the_sound_is_passed_over(kind, subtype):
    content = written(sound(), 48000, kind, subtype)
    assert np.array_equal(decode(content + ID3V1, "a", 16000), decode(content, "a", 16000))


@pytest.mark.parametrize(("kind", "subtype"), [*FORMATS, ("AIFF", "PCM_16"), ("W64", "PCM_16")])
def test_tags_before_the_sound_are_passed_over(kind, subtype):
    content = written(sound(), 48000, kind, subtype)
    for tags in (ID3V2, ID3V2 + ID3V2):
        assert np.array_equal(decode(tags + content, "a", 16000), decode(content, "a", 16000))
    with pytest.raises(UserError, match=r"^a is truncated"):
        decode(ID3V2 + content[: len(content) // 2], "a", 16000)


@pytest.mark.parametrize("excess", [36, 44])
def test_a_data_size_with_the_header_is_read(excess):
    wave = sound()
    content = written(wave, 48000, "WAV", "PCM_16")
    output = decode(with_data_size(content, 2 * len(wave) + excess), "a", 48000)
    assert np.array_equal(output, decode(content, "a", 48000))


def test_a_wav_without_sizes_is_read_to_its_end():
    """Its writer was interrupted before it wrote them."""
    content = written(sound(), 48000, "WAV", "PCM_16")
    without = with_data_size(content, 0)
    without = without[:4] + bytes(4) + without[8:]
    assert np.array_equal(decode(without, "a", 48000), decode(content, "a", 48000))
    empty = with_data_size(content[:44], 0) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(UserError, match=r"^a has no samples"):
        decode(empty, "a", 48000)


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_changed_bytes_are_refused_by_checksums(kind):
    content = written(sound(), 48000, kind)
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content) // 2, len(content), 20):
        damaged = bytearray(content)
        damaged[place] ^= rng.integers(1, 256)
        with pytest.raises(UserError, match=r"^a is (truncated|damaged)"):
            decode(bytes(damaged), "a", 48000)


def test_integers_stored_as_floats_are_refused():
    wave = np.rint(sound() * 40000).clip(-11000, 11000).astype(np.float32)
    content = written(wave, 48000, "WAV", "FLOAT")
    with pytest.raises(
        UserError,
        match=r"^a\.wav must have floats in \[-1, 1\], got a peak of 11000; store integers in "
        "their integer type, or divide by its full scale$",
    ):
        decode(content, "a.wav", 48000)


def test_peaks_above_full_scale_are_kept():
    wave = sound() * 7
    assert np.abs(wave).max() > 1.4
    assert np.array_equal(decode(written(wave, 48000, "WAV", "FLOAT"), "a.wav", 48000), wave)
    output = decode(written(np.sign(sound()), 48000, "MP3"), "a.mp3", 48000)
    assert np.abs(output).max() > 1


def test_channels_are_mixed_as_the_caller_says():
    wave = sound(channels=3)
    content = written(wave, 48000, "WAV", "FLOAT")
    blocks = decode_blocks(content, "a", 48000, 1.0, lambda block: block[:, 2])
    assert np.array_equal(np.concatenate(list(blocks)), wave[:, 2])


def test_a_duration_is_estimated_from_the_header(tmp_path):
    path = tmp_path / "caf\udce9"
    for kind, subtype in [*FORMATS, *STATING]:
        path.write_bytes(ID3V2 + written(sound(), 48000, kind, subtype))
        assert estimate_duration(path) == pytest.approx(2, abs=0.05)
    path.write_bytes(b"text")
    assert estimate_duration(path) == 0


def test_a_wav_that_was_written_to_a_pipe_is_decoded():
    wave = sound()
    content = bytearray(written(wave, 48000, "WAV", "PCM_16"))
    place = content.index(b"data") + 4
    content[place : place + 4] = b"\xff\xff\xff\xff"
    assert len(decode(bytes(content), "a.wav", 48000)) == len(wave)


def test_a_flac_without_a_stated_length_is_decoded():
    wave = sound()
    content = bytearray(written(wave, 48000, "FLAC"))
    content[21] &= 0xF0  # 36 bits of the stream's description
    content[22:26] = bytes(4)
    assert len(decode(bytes(content), "a.flac", 48000)) == len(wave)


def test_an_mp3_of_constant_bit_rate_needs_no_table_of_its_length():
    content = io.BytesIO()
    soundfile.write(
        content, sound(), 48000, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5
    )
    output = decode(without_table(content.getvalue()), "a.mp3", 48000)
    assert 96000 <= len(output) < 96000 + 3 * 1152


def test_an_mp3_of_variable_bit_rate_needs_no_table_of_its_length():
    whole = written(sound(5), 48000, "MP3")
    output = decode(without_table(whole), "a.mp3", 48000)
    assert 5 * 48000 <= len(output) < 5 * 48000 + 3 * 1152
    assert np.abs(output[1105:][: 5 * 48000] - decode(whole, "a.mp3", 48000)).max() < 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_is_refused(value):
    wave = sound()
    wave[24000] = value
    with pytest.raises(UserError, match=r"^a\.wav has a sample at 0\.500 s that is not finite"):
        decode(written(wave, 48000, "WAV", "FLOAT"), "a.wav", 16000)


def test_a_missing_file_is_an_error_of_the_system():
    with pytest.raises(FileNotFoundError):
        list(decode_blocks(Path("nothing.wav"), "nothing.wav", 16000, 1.0))


def test_memory_does_not_grow_with_the_recording(tmp_path):
    path = tmp_path / "long.flac"
    minute = (sound(60, 8000) * 2**15).astype(np.int16)
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(180):
            file.write(minute)
    tracemalloc.start()
    samples = sum(len(block) for block in decode_blocks(path, "long", 4000, 10.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples == 3 * 3600 * 4000
    assert peak < 16 << 20  # the whole is 173 MB


@pytest.mark.skipif(MIRROR is None, reason="DOWNLOAD_MIRROR is not set")
def test_recordings_of_esc_10_are_decoded_as_soundfile_and_soxr_do():
    [path] = Path(MIRROR, "github.com/karoldvl/ESC-10/archive").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".ogg")]
        for name in names[::40]:
            content = archive.read(name)
            wave, rate = soundfile.read(io.BytesIO(content), dtype="float32")
            assert np.array_equal(decode(content, name, 32000), soxr.resample(wave, rate, 32000))
