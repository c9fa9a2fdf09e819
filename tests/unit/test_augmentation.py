"""Augmentation: what each change does to spectrograms and waveforms, by which random numbers."""

from collections.abc import Callable

import librosa
import numpy as np
import pytest
import torch

from tagging.features.waveform_augmentation import (
    AugmentedCopies,
    add_noise,
    apply_gain,
    augment_waveform,
    time_shift,
    time_stretch,
)
from tagging.learning.spectral_augmentation import (
    Augment,
    Masks,
    SpectralDraws,
    add_gain,
    augment,
    draw,
    mask,
    roll,
)

FRAMES = torch.tensor([40, 7, 1, 23])
AST = Masks()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spectra(frames: torch.Tensor, most: int = 40) -> torch.Tensor:
    """Random numbers, zero after each clip's end, the same whatever it is padded to."""
    x = torch.zeros(len(frames), 2, most, 16)
    for row, length in zip(x, frames, strict=True):
        clip = torch.randn(2, length, 16, generator=generator(int(length)))
        row[:, :length] = clip
    return x


def waveform(samples: int = 16000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(samples, dtype=np.float32) * np.float32(0.1)


Change = Callable[[torch.Tensor, torch.Tensor | None, torch.Generator], torch.Tensor]


def change_by(**settings: object) -> Change:
    """Return the function that draws random numbers and augments a batch."""
    parsed = Augment(**settings)
    return lambda x, frames, rng: augment(x, frames, parsed, draw(len(x), parsed, rng))


CHANGES = {
    "mask": change_by(masks={"time": 0.5, "bins": 0.5}),
    "roll": change_by(roll=0.5),
    "gain": change_by(gain=2.0),
}


def mask_spectra(
    x: torch.Tensor, frames: torch.Tensor, settings: Masks, rng: torch.Generator
) -> torch.Tensor:
    return mask(x, frames, settings, torch.rand(4, len(x), generator=rng))


def roll_spectra(
    x: torch.Tensor, frames: torch.Tensor, limit: float, rng: torch.Generator
) -> torch.Tensor:
    return roll(x, frames, limit, torch.rand(len(x), generator=rng))


def gain_spectra(
    x: torch.Tensor, frames: torch.Tensor, limit: float, rng: torch.Generator
) -> torch.Tensor:
    return add_gain(x, frames, limit, torch.rand(len(x), generator=rng))


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_spectra_depend_on_the_generator_alone(name):
    x = spectra(FRAMES)
    torch.manual_seed(1)
    first = CHANGES[name](x, FRAMES, generator())
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, CHANGES[name](x, FRAMES, generator()))
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, CHANGES[name](x, FRAMES, generator(5)))
    assert torch.equal(x, spectra(FRAMES))  # the batch itself stays as it was


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_spectra_are_the_same_whatever_clips_are_padded_to(name):
    short, long = spectra(FRAMES), spectra(FRAMES, 64)
    for seed in range(20):
        narrow = CHANGES[name](short, FRAMES, generator(seed))
        wide = CHANGES[name](long, FRAMES, generator(seed))
        torch.testing.assert_close(wide[:, :, :40], narrow)
        for clip, length in zip(wide, FRAMES, strict=True):
            assert not clip[:, length:].any()


def test_random_numbers_of_a_batch_change_some_of_its_clips_as_they_change_all() -> None:
    x = spectra(FRAMES)
    settings = Augment(roll=0.5, gain=2.0, masks={"time": 0.5, "bins": 0.5})
    draws = draw(4, settings, generator())
    rows = np.array([3, 0])
    torch.testing.assert_close(
        augment(x[rows], FRAMES[rows], settings, draws.select(rows)),
        augment(x, FRAMES, settings, draws)[rows],
    )
    assert draw(4, Augment(), generator()) == SpectralDraws(None, None, None)
    assert augment(x, FRAMES, Augment(), SpectralDraws(None, None, None)) is x


@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_spectra_take_clips_without_padding(name):
    full = torch.full((4,), 40)
    x = spectra(full)
    assert torch.equal(CHANGES[name](x, None, generator()), CHANGES[name](x, full, generator()))


def masked_shares(x: torch.Tensor, frames: torch.Tensor, settings: Masks):
    """Return each clip's number of masked frames and of masked bins, draw after draw."""
    found = []
    rng = generator()
    for _ in range(500):
        changed = mask_spectra(x, frames, settings, rng) != x
        for clip, length in zip(changed, frames, strict=True):
            clip = clip[:, :length]
            assert torch.equal(clip[0], clip[1])  # all channels alike
            rows, columns = clip[0].all(1), clip[0].all(0)
            assert torch.equal(clip[0], rows[:, None] | columns[None])
            for span in (rows, columns):
                places = span.nonzero().flatten()
                assert not len(places) or places[-1] - places[0] + 1 == len(places)
            found.append((int(rows.sum()), int(columns.sum())))
    return found


def test_masks_are_one_span_in_time_and_one_of_bins():
    frames = torch.tensor([40, 24])
    found = np.reshape(
        masked_shares(spectra(frames), frames, Masks(time=0.5, bins=0.25)), (-1, 2, 2)
    )
    # Each width up to the widest, each as often; that of time is a share of the clip's own frames.
    assert set(found[:, 0, 0]) == set(range(21))
    assert set(found[:, 1, 0]) == set(range(13))
    assert set(found[:, :, 1].ravel()) == set(range(5))
    counts = np.bincount(found[:, :, 1].ravel())
    assert counts.min() > 0.6 * counts.max()


def test_masks_lie_anywhere_and_take_the_mean_of_the_real_frames():
    frames = torch.tensor([20])
    x = spectra(frames)
    hidden = torch.zeros(20)
    for seed in range(300):
        out = mask_spectra(x, frames, Masks(time=0.3, bins=0.0), generator(seed))
        changed = out != x
        hidden += changed[0, 0, :20, 0]
        assert torch.allclose(out[changed], x[:, :, :20].mean())
    assert hidden.min() > 0


def test_masks_of_no_share_change_nothing():
    x = spectra(FRAMES)
    assert torch.equal(mask_spectra(x, FRAMES, Masks(time=0, bins=0), generator()), x)


def test_the_audio_spectrogram_transformer_s_masks_are_the_default():
    assert (AST.time * 1024, AST.bins * 128) == (192, 48)


def test_rolled_clips_are_their_own_frames_in_turn():
    x = spectra(FRAMES)
    seen = set()
    for seed in range(300):
        out = roll_spectra(x, FRAMES, 0.1, generator(seed))
        for clip, original, length in zip(out, x, FRAMES, strict=True):
            most = int(0.1 * length)
            shifts = [
                by
                for by in range(-most, most + 1)
                if torch.equal(clip[:, :length], original[:, :length].roll(by, 1))
            ]
            assert len(shifts) == 1
            if length == 40:
                seen.add(shifts[0])
    assert seen == set(range(-4, 5))


def test_a_gain_adds_one_number_to_a_clip():
    x = spectra(FRAMES)
    gains = []
    for seed in range(100):
        added = gain_spectra(x, FRAMES, 2.0, generator(seed)) - x
        for clip, length in zip(added, FRAMES, strict=True):
            torch.testing.assert_close(clip[:, :length], clip[:1, :1, :1].expand(2, length, 16))
            gains.append(float(clip[0, 0, 0]))
    assert -2 <= min(gains) < -1.8
    assert 1.8 < max(gains) <= 2


@pytest.mark.parametrize("snr", [-6.0, 0.0, 20.0])
def test_noise_has_the_power_asked_for_and_is_white(snr):
    wave = waveform() * np.linspace(0, 2, 16000, dtype=np.float32)
    noisy = add_noise(wave, snr, np.random.default_rng(1))
    assert noisy.dtype == np.float32
    noise = (noisy - wave).astype(np.float64)
    assert 10 * np.log10(np.mean(wave**2.0) / np.mean(noise**2)) == pytest.approx(snr, abs=0.2)
    bands = (np.abs(np.fft.rfft(noise))[1:] ** 2).reshape(8, -1).mean(axis=1)
    assert bands.max() < 1.2 * bands.min()


def test_silence_stays_silent():
    silence = np.zeros(1000, np.float32)
    assert not add_noise(silence, 10.0, np.random.default_rng(0)).any()
    assert not time_stretch(silence, 0.8).any()


def test_a_shifted_waveform_is_rolled():
    wave = np.arange(10, dtype=np.float32)
    shifts = {
        int(np.argmin(time_shift(wave, 3, np.random.default_rng(seed)))) for seed in range(100)
    }
    assert shifts == {7, 8, 9, 0, 1, 2, 3}
    assert np.array_equal(np.sort(time_shift(wave, 3, np.random.default_rng(0))), wave)


def test_a_gain_is_uniform_in_decibels():
    wave = waveform(100)
    found = []
    for seed in range(300):
        louder = apply_gain(wave, 6.0, np.random.default_rng(seed))
        assert louder.dtype == np.float32
        found.append(20 * np.log10(louder[0] / wave[0]))
        np.testing.assert_allclose(louder / wave, louder[0] / wave[0], rtol=1e-5)
    assert -6.001 < min(found) < -5.5
    assert 5.5 < max(found) < 6.001
    assert abs(np.mean(found)) < 1


@pytest.mark.parametrize("change", [
    lambda wave, rng: add_noise(wave, 10.0, rng),
    lambda wave, rng: time_shift(wave, 5000, rng),
    lambda wave, rng: apply_gain(wave, 6.0, rng),
])  # fmt: skip
def test_changes_of_waveforms_depend_on_the_generator_alone(change):
    wave = waveform()
    np.random.seed(0)
    first = change(wave, np.random.default_rng(3))
    np.random.seed(1)
    assert np.array_equal(first, change(wave, np.random.default_rng(3)))
    assert not np.array_equal(first, change(wave, np.random.default_rng(4)))
    assert np.array_equal(wave, waveform())


@pytest.mark.parametrize("rate", [0.8, 0.81, 1.07, 1.25, 2.0])
def test_stretching_is_that_of_librosa(rate):
    wave = waveform(12345)
    # In float64: librosa's running phase in float32 is off by hundredths.
    expected = librosa.effects.time_stretch(wave.astype(np.float64), rate=rate)
    found = time_stretch(wave, rate)
    assert found.dtype == np.float32
    assert found.shape == (round(12345 / rate),)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_stretched_tone_keeps_its_pitch():
    tone = np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000).astype(np.float32)
    for rate in (0.8, 1.25):
        found = time_stretch(tone, rate)
        spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
        assert abs(np.argmax(spectrum) * 16000 / len(found) - 1000) < 2
        assert np.abs(found[2048:-2048]).max() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("samples", [1, 10, 700, 2047])
def test_very_short_waveforms_are_stretched(samples):
    assert time_stretch(waveform(samples), 1.25).shape == (max(1, round(samples / 1.25)),)


ALL = AugmentedCopies(
    copies=1, prob=1, stretch_rates=[0.8, 1.25], max_shift_seconds=0.1, noise_snr_db=(10, 20),
    max_gain_db=6,
)  # fmt: skip


@pytest.mark.parametrize(
    "name", ["stretch_rates", "max_shift_seconds", "noise_snr_db", "max_gain_db"]
)
def test_each_change_of_a_waveform_is_made_alone_and_keeps_its_length(name):
    wave = waveform()
    alone = AugmentedCopies(copies=1, prob=1, **{name: getattr(ALL, name)})
    changed = augment_waveform(wave, 16000, alone, np.random.default_rng(0))
    assert changed.shape == wave.shape
    assert changed.dtype == np.float32
    assert not np.array_equal(changed, wave)
    assert np.array_equal(changed, augment_waveform(wave, 16000, alone, np.random.default_rng(0)))
    none = alone.model_copy(update={"prob": 0.0})
    assert np.array_equal(augment_waveform(wave, 16000, none, np.random.default_rng(0)), wave)


def test_each_change_is_made_to_its_share_of_clips():
    wave = waveform(100)
    quarter = AugmentedCopies(copies=1, prob=0.25, max_gain_db=6)
    changed = [
        not np.array_equal(
            augment_waveform(wave, 16000, quarter, np.random.default_rng(seed)), wave
        )
        for seed in range(400)
    ]
    assert 70 < sum(changed) < 130


def test_a_slower_clip_is_cut_off_and_a_faster_one_ends_in_silence():
    wave = waveform()
    for rate, is_silent in ((0.5, False), (2.0, True)):
        stretched = AugmentedCopies(copies=1, prob=1, stretch_rates=[rate])
        changed = augment_waveform(wave, 16000, stretched, np.random.default_rng(0))
        assert (not changed[8001:].any()) == is_silent
