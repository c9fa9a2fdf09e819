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
from tagging.data.parameters import parse
from tagging.features import log_mel, mfcc, multi_log_mel
from tagging.features.mel import mel_filters

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
    """Return tones of varying loudness over noise."""
    rng = np.random.default_rng(samples)
    time = np.arange(samples) / rate
    tones = sum(np.sin(2 * np.pi * f * time) for f in (110.0, 1234.5, 5000.0)) * 0.2
    return (tones * np.sin(3 * time) + 0.01 * rng.standard_normal(samples)).astype(np.float32)


def clips(rate: int) -> list[np.ndarray]:
    """Return generated waveforms at `rate` and, if DOWNLOAD_MIRROR is set, recordings of ESC-10."""
    waveforms = [waveform(3 * rate, rate), 0.1 * waveform(rate + 17, rate)]
    if MIRROR is None:
        return waveforms
    [path] = Path(MIRROR, "github.com/karoldvl/ESC-10/archive").glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".ogg")]
        for name in names[::20]:
            wave, file_rate = soundfile.read(io.BytesIO(archive.read(name)), dtype="float32")
            waveforms.append(soxr.resample(wave, file_rate, rate))
    return waveforms


def transformed(transform: torch.nn.Module, wave: np.ndarray) -> np.ndarray:
    [[out]] = transform(torch.from_numpy(wave).unsqueeze(0))
    return out.numpy()


def test_preset_librosa_is_librosa_s():
    for wave in clips(22050):
        power = librosa.feature.melspectrogram(y=wave, sr=22050)
        expected = np.log(np.maximum(power, 1e-5)).T
        output = transformed(TRANSFORMS["librosa"], wave)
        np.testing.assert_allclose(output, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize(("scale", "mel_norm"), [("slaney", True), ("htk", False)])
def test_other_settings_are_librosa_s(scale, mel_norm):
    settings = {"sample_rate": 16000, "window": 400, "fft": 512, "hop": 160, "bins": 64}
    band = {"low": 50.0, "high": 7000.0}
    transform = log_mel.Transform(
        log_mel.Settings(
            **settings,
            **band,
            framing="reflect",
            scale=scale,
            mel_norm=mel_norm,
            log="db",
            floor=1e-3,
        )
    )
    for wave in clips(16000):
        expected = librosa.feature.melspectrogram(
            y=wave, sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=64, fmin=50,
            fmax=7000, pad_mode="reflect", htk=scale == "htk",
            norm="slaney" if mel_norm else None,
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
        output = transformed(TRANSFORMS["musicnn"], wave)
        np.testing.assert_allclose(output, expected, atol=5e-4, rtol=0)


def test_preset_ast_is_that_of_transformers():
    with warnings.catch_warnings():
        # Its 128 filters of 257 frequencies leave some of the lowest without any.
        warnings.simplefilter("ignore", UserWarning)
        extractor = ASTFeatureExtractor()
    for wave in [*clips(16000), waveform(400), waveform(559), waveform(560)]:
        expected = extractor(wave, sampling_rate=16000, return_tensors="np")["input_values"][0]
        output = transformed(TRANSFORMS["ast"], wave)
        np.testing.assert_allclose(output, expected[: len(output)], atol=5e-4, rtol=0)
        assert (expected[len(output) :] == expected[-1, 0]).all()  # padding: all frames are there


def test_preset_efficientat_is_its_original_s():
    # As EfficientAT's program computes it, with Kaldi's filters from their definition.
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
        output = transformed(TRANSFORMS["efficientat"], wave)
        np.testing.assert_allclose(output, expected, atol=5e-4, rtol=0)


def test_mfcc_is_that_of_python_speech_features():
    # With noise, because the package takes the logarithm of 1e-26 where a recording is silent.
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
    output = transformed(mfcc.Transform(other), waveform(16000))
    np.testing.assert_allclose(output, expected, atol=5e-3, rtol=1e-4)


def test_half_a_second_at_12_khz_is_49_frames_of_13():
    transform = TRANSFORMS["mfcc"]
    assert (transform.channels, transform.frames(6000), transform.bins) == (1, 49, 13)
    assert transform(torch.zeros(2, 6000)).shape == (2, 1, 49, 13)


def test_half_a_second_at_44_1_khz_is_44_frames_of_128():
    settings = log_mel.Settings(sample_rate=44100, window=2048, hop=512, bins=128)
    transform = log_mel.Transform(settings)
    assert (transform.channels, transform.frames(22050), transform.bins) == (1, 44, 128)
    assert transform(torch.zeros(2, 22050)).shape == (2, 1, 44, 128)


def test_multi_log_mel_has_a_channel_for_each_window_resized_to_one_size():
    transform = TRANSFORMS["multi_log_mel"]
    assert (transform.channels, transform.bins) == (3, 128)
    for samples in (16000, 7000, 80000):
        wave = waveform(samples)
        [output] = transform(torch.from_numpy(wave).unsqueeze(0))
        assert output.shape == (3, 101, 128)
        for channel, size in zip(output.numpy(), (160, 320, 480), strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # filters between two frequencies
                power = librosa.feature.melspectrogram(
                    y=wave, sr=16000, n_fft=512, win_length=size, hop_length=size, n_mels=128,
                    pad_mode="reflect", htk=True, norm=None,
                )  # fmt: skip
            logs = np.log(power + 1e-6)
            # The middle of frame i of n is at (i + 1/2) / n; beyond those it is theirs.
            places = (np.arange(101) + 0.5) / 101 * logs.shape[1] - 0.5
            expected = [np.interp(places, np.arange(logs.shape[1]), row) for row in logs]
            np.testing.assert_allclose(channel, np.transpose(expected), atol=5e-4, rtol=0)


def test_multi_log_mel_resizes_by_nearest_frames_as_the_homework_does() -> None:
    transform = multi_log_mel.Transform(multi_log_mel.Settings(resize="nearest", frames=50))
    [output] = transform(torch.from_numpy(waveform(16000)).unsqueeze(0))
    for channel, part in zip(output, transform.transforms, strict=True):
        [[plain]] = part(torch.from_numpy(waveform(16000)).unsqueeze(0))
        # By default, PyTorch takes the frame at floor(i * n / size): no two frames are mixed.
        rows = torch.arange(50) * len(plain) // 50
        assert torch.equal(channel, plain[rows])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_number_of_frames_is_that_of_the_output(name):
    transform = TRANSFORMS[name]
    for samples in LENGTHS:
        waves = torch.from_numpy(waveform(samples)).repeat(2, 1)
        output = transform(waves)
        assert output.dtype == torch.float32
        assert output.shape == (2, transform.channels, transform.frames(samples), transform.bins)
        assert transform.frames(samples) >= 1
        assert output.isfinite().all()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_clip_s_features_depend_on_no_other_clip(name):
    waves = torch.stack([torch.from_numpy(waveform(16000)) * scale for scale in (1.0, 0.1, 0.0)])
    together = TRANSFORMS[name](waves)
    alone = torch.cat([TRANSFORMS[name](wave.unsqueeze(0)) for wave in waves])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_does_not_change_its_waveform_and_has_no_state(name):
    wave = torch.from_numpy(waveform(16000)).unsqueeze(0)
    before = wave.clone()
    TRANSFORMS[name](wave)
    assert torch.equal(wave, before)
    assert not TRANSFORMS[name].state_dict()


def test_kaldi_s_filters_are_those_of_transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        expected = mel_filter_bank(257, 128, 20, 8000, 16000, None, "kaldi", True)
    output = mel_filters(16000, 512, 128, 20, 8000, "kaldi", False)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-9)


def test_a_setting_replaces_the_preset_s():
    settings = parse(log_mel.Settings, {"preset": "efficientat", "bins": 64}, "features.log_mel")
    assert (settings.bins, settings.window, settings.scale) == (64, 800, "kaldi")
    assert parse(log_mel.Settings, {"preset": "librosa"}, "features.log_mel").hop == 512


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"preset": "vggish"},
            r"preset must be 'librosa', 'efficientat', .*, got 'vggish'",
        ),
        (
            {"preset": "ast", "scale": "bark"},
            "scale must be 'slaney', 'htk' or 'kaldi', got",
        ),
        ({"preset": "ast", "window_size": 3}, "window_size is unknown; "),
        ({"window": 400, "hop": 160, "bins": 64}, "sample_rate is missing$"),
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
            r"log_mel\.fft must be even and at least 400, got 399$",
        ),
        (
            log_mel,
            {"preset": "ast", "high": 8001.0},
            r"log_mel\.high must be above low, .*, 8000 Hz, got 8001$",
        ),
        (
            log_mel,
            {"preset": "ast", "low": 8000.0},
            r"log_mel\.high must be above low, 8000 Hz",
        ),
        (mfcc, {"fft": 256}, r"mfcc\.fft must be even and at least 300, got 256$"),
        (
            mfcc,
            {"coefficients": 27},
            r"mfcc\.coefficients must be .*, 26, got 27$",
        ),
        (mfcc, {"high": 6001.0}, r"mfcc\.high must .*, got 6001$"),
        (log_mel, {"preset": "ast", "fft": 513}, r"log_mel\.fft must be even .*, got 513$"),
        (mfcc, {"fft": 513}, r"mfcc\.fft must be even .*, got 513$"),
        (multi_log_mel, {"fft": 513}, r"multi_log_mel\.fft must be even, got 513$"),
        (
            multi_log_mel,
            {"windows": [160, 513]},
            r"multi_log_mel\.windows must .*, 512, got 513$",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(module, values, message):
    with pytest.raises(UserError, match=r"^features\." + message):
        module.Transform(module.Settings(**values))
