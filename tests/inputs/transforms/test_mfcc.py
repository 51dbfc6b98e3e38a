"""MFCC: librosa's own numbers, and what they say of sounds that are known."""

import io

import librosa
import numpy as np
import pytest
import soundfile

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import mfcc

RATE = 16_000


def tone(hertz, seconds=3.0, level=0.5, rate=RATE):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def file(*channels, rate=RATE):
    encoded = io.BytesIO()
    soundfile.write(encoded, np.stack(channels, axis=1), rate, "FLOAT", format="WAV")
    return {"id": "a", "audio": encoded.getvalue()}


def test_they_are_the_cosine_transform_of_librosas_decibels():
    waveform = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=waveform, sr=RATE, n_fft=512, hop_length=160, n_mels=64
    )
    decibels = librosa.power_to_db(power).astype(np.float64)
    k, n = np.arange(13)[:, None], np.arange(64)[None]
    basis = np.sqrt(2 / 64) * np.cos(np.pi * k * (2 * n + 1) / 128)
    basis[0] /= np.sqrt(2)
    np.testing.assert_allclose(mfcc.mfcc(waveform, 13), basis @ decibels, atol=1e-3)


def test_twice_as_loud_is_6_decibels_in_the_first_coefficient_alone():
    waveform = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    apart = mfcc.mfcc(2 * waveform) - mfcc.mfcc(waveform)
    np.testing.assert_allclose(apart[0], 20 * np.log10(2) * np.sqrt(64), atol=1e-2)  # of 64 bands
    np.testing.assert_allclose(apart[1:], 0, atol=1e-2)


def test_a_low_tone_tilts_the_spectrum_down_and_a_high_one_up():
    low, high = (mfcc.mfcc(tone(hertz))[1].mean() for hertz in (200, 6000))
    assert low > 20 and high < -20


def test_a_record_becomes_one_clip_of_its_middle():
    silence = np.zeros(RATE, np.float32)
    waveform = np.concatenate([silence, tone(440), silence])
    found = mfcc.Mfcc(3.0)(file(waveform), None)
    assert found.shape == (40, 301, 1) and found.dtype == np.float32
    np.testing.assert_allclose(found[:, 5:-5, 0], mfcc.mfcc(tone(440))[:, 5:-5], atol=1e-2)
    both = mfcc.Mfcc(3.0)(file(2 * waveform, np.zeros_like(waveform)), None)  # the mean of channels
    np.testing.assert_allclose(both, found, atol=1e-2)


def test_a_short_one_is_followed_by_silence():
    found = mfcc.Mfcc(2.0, 13)(file(tone(440, 0.5)), None)
    assert found.shape == (13, 201, 1)
    assert found[0, 10:40, 0].min() > found[0, 60:, 0].max()
    np.testing.assert_array_equal(found[:, 60, 0], found[:, -1, 0])


def test_with_random_numbers_it_starts_anywhere():
    record = file(np.concatenate([tone(300), tone(3000)]))
    found = [mfcc.Mfcc(1.0)(record, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1


def test_mistakes_are_told():
    with pytest.raises(UserError, match="coefficients 65 of 64 mel bands"):
        mfcc.Mfcc(coefficients=65)
    with pytest.raises(UserError, match="seconds must be positive"):
        mfcc.Mfcc(0.0)
    with pytest.raises(MediaError, match="no field 'audio' or 'vision'"):
        mfcc.Mfcc()({"id": "a"}, None)
