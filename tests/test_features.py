import io
import os
import warnings
import zipfile
from pathlib import Path

import librosa
import numpy as np
import pytest
import python_speech_features
import soundfile
import soxr
import torch
from torch.nn import functional
from transformers import ASTFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from tagging.base.errors import UserError
from tagging.features import log_mel, mfcc, multi_log_mel
from tagging.features.mel import mel_filters
from tagging.parameters import parse

MIRROR = os.environ.get("DOWNLOAD_MIRROR")
TRANSFORMS = {
    **{preset: log_mel.Transform(log_mel.Settings(preset=preset)) for preset in log_mel.PRESETS},
    "odd": log_mel.Transform(
        log_mel.Settings(
            sample_rate=8000, window=161, fft=202, hop=67, bins=20, framing="reflect", power=1.0
        )
    ),
    "mfcc": mfcc.Transform(mfcc.Settings()),
    "multi_log_mel": multi_log_mel.Transform(multi_log_mel.Settings()),
}
LENGTHS = (1, 2, 99, 160, 255, 399, 400, 401, 513, 514, 2048, 6000, 8001, 16000, 33333)


def waveform(samples: int, rate: int = 16000) -> np.ndarray:
    """Tones that come and go over noise, loud and soft."""
    rng = np.random.default_rng(samples)
    time = np.arange(samples) / rate
    tones = sum(np.sin(2 * np.pi * f * time) for f in (110.0, 1234.5, 5000.0)) * 0.2
    return (tones * np.sin(3 * time) + 0.01 * rng.standard_normal(samples)).astype(np.float32)


def clips(rate: int) -> list[np.ndarray]:
    """Waveforms at `rate`: made ones and, where they are at hand, recordings of ESC-10."""
    made = [waveform(3 * rate, rate), 0.1 * waveform(rate + 17, rate)]
    if MIRROR is None:
        return made
    [path] = Path(MIRROR, "github.com/karoldvl/ESC-10/archive").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".ogg")]
        for name in names[::20]:
            wave, given = soundfile.read(io.BytesIO(archive.read(name)), dtype="float32")
            made.append(soxr.resample(wave, given, rate))
    return made


def transformed(transform: torch.nn.Module, wave: np.ndarray) -> np.ndarray:
    [[out]] = transform(torch.from_numpy(wave).unsqueeze(0))
    return out.numpy()


def test_preset_librosa_is_librosa_s():
    for wave in clips(22050):
        power = librosa.feature.melspectrogram(y=wave, sr=22050)
        expected = np.log(np.maximum(power, 1e-5)).T
        found = transformed(TRANSFORMS["librosa"], wave)
        np.testing.assert_allclose(found, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize(("scale", "area"), [("slaney", True), ("htk", False)])
def test_other_settings_are_librosa_s(scale, area):
    settings = {"sample_rate": 16000, "window": 400, "fft": 512, "hop": 160, "bins": 64}
    band = {"low": 50.0, "high": 7000.0}
    transform = log_mel.Transform(
        log_mel.Settings(
            **settings, **band, framing="reflect", scale=scale, area=area, log="db", floor=1e-3
        )
    )
    for wave in clips(16000):
        expected = librosa.feature.melspectrogram(
            y=wave, sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=64, fmin=50,
            fmax=7000, pad_mode="reflect", htk=scale == "htk",
            norm="slaney" if area else None,
        )  # fmt: skip
        expected = librosa.power_to_db(expected, amin=1e-3, top_db=None).T
        # As close as 5e-4 of a natural logarithm, in decibels: processors' sums differ a little.
        close = 5e-4 * 10 / np.log(10)
        np.testing.assert_allclose(transformed(transform, wave), expected, atol=close, rtol=0)


def test_magnitudes_are_librosa_s():
    settings = log_mel.Settings(sample_rate=16000, window=400, hop=160, bins=40, power=1.0,
                                log="db", floor=1e-2)  # fmt: skip
    transform = log_mel.Transform(settings)
    for wave in clips(16000):
        expected = librosa.feature.melspectrogram(
            y=wave, sr=16000, n_fft=400, hop_length=160, n_mels=40, power=1.0
        )
        expected = librosa.amplitude_to_db(expected, amin=1e-2, top_db=None).T
        np.testing.assert_allclose(transformed(transform, wave), expected, atol=5e-4, rtol=0)


def test_preset_musicnn_is_its_original_s():
    for wave in clips(16000):
        power = librosa.feature.melspectrogram(
            y=wave, sr=16000, n_fft=512, hop_length=256, n_mels=96
        )
        rounded = power.T.astype(np.float16).astype(np.float32)
        expected = np.log10(10000 * rounded + 1)
        found = transformed(TRANSFORMS["musicnn"], wave)
        np.testing.assert_allclose(found, expected, atol=5e-4, rtol=0)


def test_preset_ast_is_that_of_transformers():
    with warnings.catch_warnings():
        # Its 128 filters of 257 frequencies leave some of the lowest without any.
        warnings.simplefilter("ignore", UserWarning)
        extractor = ASTFeatureExtractor()
    for wave in [*clips(16000), waveform(400), waveform(559), waveform(560)]:
        expected = extractor(wave, sampling_rate=16000, return_tensors="np")["input_values"][0]
        found = transformed(TRANSFORMS["ast"], wave)
        np.testing.assert_allclose(found, expected[: len(found)], atol=5e-4, rtol=0)
        assert (expected[len(found) :] == expected[-1, 0]).all()  # its padding: no frame is missing


def test_preset_efficientat_is_its_original_s():
    # As EfficientAT's program reckons it, with Kaldi's filters from their definition.
    edges = 1127 * np.log(1 + np.array([0.0, 15000.0]) / 700)
    corners = np.linspace(*edges, 130)
    places = 1127 * np.log(1 + np.arange(512) * 32000 / 1024 / 700)
    filters = np.zeros((513, 128))
    for i in range(128):
        left, centre, right = corners[i : i + 3]
        rising, falling = (places - left) / (centre - left), (right - places) / (right - centre)
        filters[:512, i] = np.maximum(0, np.minimum(rising, falling))
    window = torch.hann_window(800, periodic=False)
    for wave in clips(32000):
        x = functional.conv1d(torch.from_numpy(wave)[None, None], torch.tensor([[[-0.97, 1.0]]]))
        spectra = torch.stft(x[0], 1024, 320, 800, window, center=True, return_complex=True)
        power = spectra[0].abs().double().square().T.numpy() @ filters
        expected = (np.log(power + 1e-5) + 4.5) / 5
        found = transformed(TRANSFORMS["efficientat"], wave)
        np.testing.assert_allclose(found, expected, atol=5e-4, rtol=0)


def test_mfcc_is_that_of_python_speech_features():
    # Noise, as the package takes the logarithm of 1e-26 where a recording is all but silent.
    noisy = [wave + 1e-3 * waveform(len(wave)) for wave in clips(12000)]
    for wave in [*noisy, waveform(6000), waveform(300), waveform(301), np.zeros(999, "f4")]:
        expected = python_speech_features.mfcc(wave, 12000)
        np.testing.assert_allclose(
            transformed(TRANSFORMS["mfcc"], wave), expected, atol=5e-3, rtol=1e-4
        )
    other = mfcc.Settings(sample_rate=16000, window=400, hop=160, filters=40, coefficients=20,
                          low=100.0, high=7000.0, lifter=0, preemphasis=0)  # fmt: skip
    expected = python_speech_features.mfcc(
        waveform(16000), 16000, nfilt=40, numcep=20, lowfreq=100, highfreq=7000, ceplifter=0,
        preemph=0,
    )  # fmt: skip
    found = transformed(mfcc.Transform(other), waveform(16000))
    np.testing.assert_allclose(found, expected, atol=5e-3, rtol=1e-4)


def test_half_a_second_at_12_khz_is_49_frames_of_13():
    transform = TRANSFORMS["mfcc"]
    assert (transform.channels, transform.frames(6000), transform.bins) == (1, 49, 13)
    assert transform(torch.zeros(2, 6000)).shape == (2, 1, 49, 13)


def test_half_a_second_at_44_1_khz_is_44_frames_of_128():
    settings = log_mel.Settings(sample_rate=44100, window=2048, hop=512, bins=128)
    transform = log_mel.Transform(settings)
    assert (transform.channels, transform.frames(22050), transform.bins) == (1, 44, 128)
    assert transform(torch.zeros(2, 22050)).shape == (2, 1, 44, 128)


def test_multi_log_mel_has_a_channel_a_window_each_brought_to_one_size():
    transform = TRANSFORMS["multi_log_mel"]
    assert (transform.channels, transform.bins) == (3, 128)
    for samples in (16000, 7000, 80000):
        wave = waveform(samples)
        [found] = transform(torch.from_numpy(wave).unsqueeze(0))
        assert found.shape == (3, 101, 128)
        for channel, size in zip(found.numpy(), (160, 320, 480), strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # filters between two frequencies
                power = librosa.feature.melspectrogram(
                    y=wave, sr=16000, n_fft=512, win_length=size, hop_length=size, n_mels=128,
                    pad_mode="reflect", htk=True, norm=None,
                )  # fmt: skip
            logs = np.log(power + 1e-6)
            # The middle of frame i of n lies at (i + 1/2) / n, beyond the first and last is theirs.
            places = (np.arange(101) + 0.5) / 101 * logs.shape[1] - 0.5
            expected = [np.interp(places, np.arange(logs.shape[1]), row) for row in logs]
            np.testing.assert_allclose(channel, np.transpose(expected), atol=5e-4, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_frames_are_told_for_any_length(name):
    transform = TRANSFORMS[name]
    for samples in LENGTHS:
        waves = torch.from_numpy(waveform(samples)).repeat(2, 1)
        found = transform(waves)
        assert found.dtype == torch.float32
        assert found.shape == (2, transform.channels, transform.frames(samples), transform.bins)
        assert transform.frames(samples) >= 1
        assert found.isfinite().all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_clip_s_features_depend_on_no_other_clip(name):
    waves = torch.stack([torch.from_numpy(waveform(16000)) * scale for scale in (1.0, 0.1, 0.0)])
    together = TRANSFORMS[name](waves)
    alone = torch.cat([TRANSFORMS[name](wave.unsqueeze(0)) for wave in waves])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_leaves_its_waveform_alone_and_has_nothing_to_save(name):
    wave = torch.from_numpy(waveform(16000)).unsqueeze(0)
    before = wave.clone()
    TRANSFORMS[name](wave)
    assert torch.equal(wave, before)
    assert not TRANSFORMS[name].state_dict()


def test_kaldi_s_filters_are_those_of_transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = mel_filter_bank(257, 128, 20, 8000, 16000, None, "kaldi", True)
    found = mel_filters(16000, 512, 128, 20, 8000, "kaldi", False)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_a_setting_stands_in_place_of_the_preset_s():
    settings = parse(log_mel.Settings, {"preset": "efficientat", "bins": 64}, "features.log_mel")
    assert (settings.bins, settings.window, settings.scale) == (64, 800, "kaldi")
    assert parse(log_mel.Settings, {"preset": "librosa"}, "features.log_mel").hop == 512


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "vggish"}, r"preset is 'vggish'; it takes librosa, efficientat, musicnn, ast"),
        ({"preset": "ast", "scale": "bark"}, "scale is 'bark'; it takes slaney, htk or kaldi$"),
        ({"preset": "ast", "window_size": 3}, "window_size is unknown; "),
        ({"window": 400, "hop": 160, "bins": 64}, "sample_rate is missing; it takes a whole"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(UserError, match=r"^params\.yaml: features\.log_mel\." + message):
        parse(log_mel.Settings, values, "features.log_mel")


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (
            log_mel,
            {"preset": "ast", "fft": 399},
            r"log_mel\.fft is 399; it takes an even .* 400 or more",
        ),
        (
            log_mel,
            {"preset": "ast", "high": 8001.0},
            r"log_mel\.high is 8001 Hz; it takes .* 8000$",
        ),
        (log_mel, {"preset": "ast", "low": 8000.0}, r"log_mel\.high is 8000 Hz; .* which is 8000"),
        (mfcc, {"fft": 256}, r"mfcc\.fft is 256; it takes an even .* 300 or more"),
        (mfcc, {"coefficients": 27}, r"mfcc\.coefficients is 27; it takes at most .*, 26$"),
        (mfcc, {"high": 6001.0}, r"mfcc\.high is 6001 Hz"),
        (log_mel, {"preset": "ast", "fft": 513}, r"log_mel\.fft is 513; it takes an even number"),
        (mfcc, {"fft": 513}, r"mfcc\.fft is 513; it takes an even number"),
        (multi_log_mel, {"fft": 513}, r"multi_log_mel\.fft is 513; it takes an even number"),
        (multi_log_mel, {"windows": [160, 513]}, r"multi_log_mel\.windows has 513; .*, 512$"),
    ],
)
def test_settings_that_do_not_fit_are_refused(module, values, message):
    with pytest.raises(UserError, match=r"^features\." + message):
        module.Transform(module.Settings(**values))
