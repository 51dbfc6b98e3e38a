import numpy as np
import pytest
from hypothesis import strategies as st
from properties import of_any
from samples import GOLDEN, tone

from imagebind_jax.inputs.decoders.resampling import resample

RATES = [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000]


def definition(waveform, rate):
    """The interpolation formula in float64, one weight for each pair of samples."""
    length = -(-len(waveform) * 16_000 // rate)
    t = np.arange(len(waveform)) / rate - np.arange(length)[:, None] / 16_000
    t = t * min(rate, 16_000) * 0.99
    weights = np.sinc(t) * np.where(np.abs(t) < 6, np.cos(t / 6 * np.pi / 2) ** 2, 0)
    return weights @ waveform * min(rate, 16_000) * 0.99 / rate


@pytest.mark.parametrize("rate", RATES)
def test_resampling_keeps_a_tone(rate):
    resampled = resample(tone(1000, rate, 1.0), rate)
    assert resampled.shape == (16_000,) and resampled.dtype == np.float32
    inside = slice(200, -200)
    np.testing.assert_allclose(resampled[inside], tone(1000, 16_000, 1.0)[inside], atol=5e-3)


@pytest.mark.parametrize("rate", [*RATES, 528_000, 768_000])
def test_usual_rates_agree_with_the_definition(rate):
    waveform = np.random.default_rng(rate).normal(size=rate // 200 + 70).astype(np.float32)
    resampled = resample(waveform, rate)
    np.testing.assert_allclose(resampled, definition(waveform, rate), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_resampling_equals_torchaudio(rate):
    # torchaudio.functional.resample(in, rate, 16_000) of torchaudio 2.11.
    golden = np.load(GOLDEN / "audio_resample.npz")
    expected = golden[f"out_{rate}"]
    np.testing.assert_allclose(resample(golden[f"in_{rate}"], rate), expected, atol=1e-6, rtol=0)


# But for 16 kHz itself, which is left as it is (and the definition would filter).
rates = st.integers(1_000, 50_000).filter(lambda rate: rate != 16_000)


@of_any(rates, st.integers(1, 60), st.integers(0, 2**32 - 1), examples=25)
def test_any_rate_agrees_with_the_definition(rate, n, seed):
    # Loosely: filter times are float32, as torchaudio's are, and odd rates' are long fractions.
    waveform = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    np.testing.assert_allclose(resample(waveform, rate), definition(waveform, rate), atol=1e-2)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_channels_do_not_mix(rate):
    waveform = np.random.default_rng(0).normal(size=(3, 2000)).astype(np.float32)
    together = resample(waveform, rate)
    for channel, alone in zip(together, waveform):
        np.testing.assert_allclose(channel, resample(alone, rate), atol=1e-6)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_delay_by_whole_periods_only_delays(rate):
    # 441 samples at 44.1 kHz are 160 at 16 kHz, 480 at 48 kHz too: the same filter phases again.
    waveform = np.random.default_rng(0).normal(size=3000).astype(np.float32)
    delayed = np.concatenate([np.zeros(rate // 100, np.float32), waveform])
    np.testing.assert_allclose(resample(delayed, rate)[160:], resample(waveform, rate), atol=1e-6)


def test_the_rate_itself_changes_nothing():
    waveform = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    np.testing.assert_array_equal(resample(waveform, 16_000), waveform)
    assert resample(np.zeros(0, np.float32), 44_100).shape == (0,)
    assert resample(np.ones(1, np.float32), 8_000).shape == (2,)
