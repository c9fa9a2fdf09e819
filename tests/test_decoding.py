import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from tagging.base.errors import UserError
from tagging.features.decoding import decode, decode_blocks

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]


def sound(seconds: float = 2.0, rate: int = 48000, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(round(seconds * rate))[:, None] / rate
    tones = 0.2 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) * time)
    wave = tones + 0.02 * rng.standard_normal(tones.shape)
    return np.squeeze(wave.astype(np.float32), 1) if channels == 1 else wave.astype(np.float32)


def written(wave: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, wave, rate, format=kind, subtype=subtype)
    return content.getvalue()


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


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_a_truncated_file_is_refused(kind, subtype, part):
    content = written(sound(), 48000, kind, subtype)
    decode(content, "a", 16000)
    with pytest.raises(UserError, match=r"^a is truncated|^a cannot be read as sound"):
        decode(content[: round(part * len(content))], "a", 16000)


def test_a_truncated_mp3_is_refused_with_its_lengths():
    content = written(sound(), 48000, "MP3")
    with pytest.raises(UserError, match=r"^a\.mp3 is truncated: it states 2\.00 s and has 0\.\d"):
        decode(content[: len(content) // 2], "a.mp3", 16000)


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


def test_a_tag_before_the_sound_is_skipped():
    content = written(sound(), 48000, "MP3")
    tag = b"ID3\x04\x00\x00\x00\x00\x4e\x10" + bytes(0x4E << 7 | 0x10)
    assert np.array_equal(decode(tag + content, "a.mp3", 48000), decode(content, "a.mp3", 48000))
    with pytest.raises(UserError, match=r"is truncated: it states 2\.00 s"):
        decode(tag + content[: len(content) // 2], "a.mp3", 48000)


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
