from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import GOLDEN, tone, wav

from imagebind_jax.inputs import audio
from imagebind_jax.inputs.media import MediaError

PAD = np.float32(4.268 / 9.138)  # 0.467


@pytest.mark.parametrize("name", np.load(GOLDEN / "audio_logmel.npz").files)
def test_first_clip_equals_the_reference(name):
    # The first 2.1 s of the golden media; later clips of the reference see one another's mean.
    expected = np.load(GOLDEN / "audio_logmel.npz")[name]
    clip = audio.audio_input(audio.read_clip(GOLDEN / "media" / name, 0.0))[..., 0]
    difference = np.abs(clip - expected) * audio.STD  # in log-mel units
    assert clip.shape == (128, 204) and clip.dtype == np.float32
    assert difference.mean() < 1e-4
    assert difference.max() < 2e-2
    if "noise" in name:  # 8 kHz: the upper half of the bands is empty, at the mercy of rounding
        assert difference[:64].max() < 1e-3


def test_a_tone_lights_its_band_and_no_other():
    mel = audio.log_mel(tone(1000, 16_000, 2))
    band = _band(1000)
    assert mel.shape == (128, 198)
    assert (mel.argmax(axis=0) == band).all()
    assert mel[band].min() - mel[band + 20].max() > 10


def _mel(hertz):
    return 1127 * np.log1p(hertz / 700)


def _band(hertz):
    return round((_mel(hertz) - _mel(20)) / (_mel(8000) - _mel(20)) * 129) - 1


def test_log_mel_equals_its_definition_in_float64():
    waveform = np.random.default_rng(0).normal(0, 0.1, 4000)
    spectra = []
    for start in range(0, 4000 - 399, 160):
        window = waveform[start : start + 400] - waveform[start : start + 400].mean()
        window = window - 0.97 * np.concatenate([window[:1], window[:-1]])
        spectra.append(np.abs(np.fft.rfft(window * np.hanning(400), 512)) ** 2)
    edges = np.linspace(_mel(20), _mel(8000), 130)
    bank = np.stack([np.interp(_mel(np.arange(257) * 31.25), edges[i : i + 3], [0, 1, 0])
                     for i in range(128)])  # fmt: skip
    expected = np.log(np.maximum(bank @ np.transpose(spectra), 1.1920929e-07))
    np.testing.assert_allclose(audio.log_mel(waveform), expected, atol=1e-3)


def test_silence_is_the_floor_and_padding_is_not():
    clip = audio.audio_input(np.zeros((2, 32_000), np.float32))
    assert clip.shape == (128, 204, 1)
    np.testing.assert_allclose(clip[:, :198], (np.log(1.1920929e-07) + 4.268) / 9.138, atol=1e-6)
    np.testing.assert_allclose(clip[:, 198:], PAD, atol=1e-6)
    assert abs(PAD - 0.467) < 1e-3


@pytest.mark.parametrize(("n", "frames"), [(1, 1), (399, 1), (400, 1), (559, 1), (560, 2)])
def test_short_clips_are_padded_to_one_window(n, frames):
    waveform = np.random.default_rng(n).normal(size=(1, n)).astype(np.float32)
    assert audio.log_mel(waveform[0]).shape == (128, frames)
    clip = audio.audio_input(waveform)
    np.testing.assert_allclose(clip[:, frames:], PAD, atol=1e-6)
    assert np.isfinite(clip).all()


def test_first_channel_counts_and_the_mean_is_that_of_all():
    rng = np.random.default_rng(0)
    left, right = rng.normal(0, 0.1, (2, 32_000)).astype(np.float32)
    alone = audio.audio_input(left[None])
    for offset in (0, 0.5):
        both = np.stack([left, right]) + np.float32(offset)
        np.testing.assert_allclose(audio.audio_input(both), alone, atol=1e-3)
    assert np.abs(audio.audio_input(np.stack([right, left])) - alone).max() > 0.1


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_resampling_keeps_a_tone(rate):
    resampled = audio.resample(tone(1000, rate, 1.0), rate)
    assert resampled.shape == (16_000,) and resampled.dtype == np.float32
    inside = slice(200, -200)
    np.testing.assert_allclose(resampled[inside], tone(1000, 16_000, 1.0)[inside], atol=5e-3)


@settings(deadline=None, max_examples=25)
@given(st.integers(1_000, 50_000), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_resampling_equals_its_definition(rate, n, seed):
    waveform = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    length = -(-n * 16_000 // rate)
    t = np.arange(n) / rate - np.arange(length)[:, None] / 16_000
    t = t * min(rate, 16_000) * 0.99
    weights = np.sinc(t) * np.where(np.abs(t) < 6, np.cos(t / 6 * np.pi / 2) ** 2, 0)
    expected = weights @ waveform * min(rate, 16_000) * 0.99 / rate
    np.testing.assert_allclose(audio.resample(waveform, rate), expected, atol=1e-2, rtol=0)
    if rate in (8_000, 44_100, 48_000):
        np.testing.assert_allclose(audio.resample(waveform, rate), expected, atol=2e-5, rtol=0)


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 47_999]),
    st.floats(0, 0.9),
    st.floats(0.01, 0.5),
)
def test_reading_a_clip_equals_slicing_the_resampled_recording(rate, start, seconds):
    waveform = np.random.default_rng(0).normal(0, 0.1, (2, rate)).astype(np.float32)
    clip = audio.read_clip(wav(waveform, rate), start, seconds)
    whole = audio.resample(waveform, rate)
    expected = whole[:, int(start * 16_000) : int((start + seconds) * 16_000)]
    np.testing.assert_allclose(clip, expected, atol=1e-6)


def test_read_audio_reads_the_part_asked_for():
    waveform = np.arange(1000, dtype=np.float32)[None] / 1000
    part, rate = audio.read_audio(wav(waveform, 1000), start=0.25, seconds=0.5)
    np.testing.assert_array_equal(part, waveform[:, 250:750])
    assert (rate, part.shape) == (1000, (1, 500))
    assert audio.read_audio(wav(waveform, 1000), start=0.9, seconds=9.0)[0].shape == (1, 100)


def test_clip_starts_span_the_recording():
    assert audio.clip_starts(6.0, 2.0, 3) == [0, 2, 4]
    assert audio.clip_starts(5.0, 2.0, 3) == [0, Fraction(3, 2), 3]
    assert audio.clip_starts(1.5, 2.0, 3) == [0, 0, 0]
    assert audio.clip_starts(9.0, 2.0, 1) == [0]


def test_clips_of_a_rising_scale():
    rising = np.concatenate([tone(hertz, 44_100, 2.0) for hertz in (500, 1000, 2000)])
    clips = audio.audio_clips(wav(np.stack([rising, rising]), 44_100))
    assert clips.shape == (3, 128, 204, 1) and clips.dtype == np.float32
    loudest = clips[:, :, 50:150, 0].mean(axis=-1).argmax(axis=-1)
    assert loudest.tolist() == [_band(hertz) for hertz in (500, 1000, 2000)]


def test_transform_takes_the_centre_or_a_random_clip():
    rising = np.concatenate([tone(hertz, 16_000, 2.0) for hertz in (500, 1000, 2000)])
    record = {"audio": wav(rising[None], 16_000)}
    clips = audio.audio_clips(record["audio"])
    np.testing.assert_array_equal(audio.LogMel()(record, None), clips[1])
    draws = [audio.LogMel()(record, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert draws[0].shape == (128, 204, 1) and not np.array_equal(draws[0], draws[2])
    assert audio.LogMel(seconds=1.0, frames=100)(record, None).shape == (128, 100, 1)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"RIFF but nothing else",
        wav(np.zeros((1, 0), np.float32), 16_000),
        wav(np.zeros((1, 100), np.float32), 10),
        wav(np.full((1, 100), np.nan, np.float32), 16_000),
        wav(np.full((1, 100), 1e30, np.float32), 16_000),
    ],
)
def test_unusable_recordings_are_media_errors(source):
    with pytest.raises(MediaError):
        audio.LogMel()({"audio": source}, None)
