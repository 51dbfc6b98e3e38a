import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebind_jax.inputs import imu
from imagebind_jax.inputs.media import MediaError


def ramp(n: int, rate: float) -> np.ndarray:
    """Every channel is the time in seconds, times its number."""
    return (np.arange(n) / rate)[:, None] * np.arange(1, 7)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_2000_samples_at_400_hz_stay_as_they_are():
    samples = np.random.default_rng(0).normal(size=(2000, 6)).astype(np.float32)
    window = imu.window(samples, 400.0)
    assert window.dtype == np.float32
    np.testing.assert_allclose(window, samples, atol=1e-6)


@pytest.mark.parametrize("rate", [50.0, 200.0, 201.005, 400.0, 1000.0])
def test_a_line_is_a_line_at_every_rate(rate):
    window = imu.window(ramp(round(rate * 8), rate), rate)
    start = (round(rate * 8) / rate - 5) / 2
    expected = (start + np.arange(2000) / 400)[:, None] * np.arange(1, 7)
    np.testing.assert_allclose(window, expected, rtol=1e-5)


def test_a_short_recording_repeats_its_last_row():
    window = imu.window(ramp(400, 200), 200.0)
    np.testing.assert_allclose(window[:797], ramp(797, 400), atol=1e-6)
    np.testing.assert_array_equal(window[798:], np.broadcast_to(window[-1], (1202, 6)))
    assert imu.window(ramp(1, 200), 200.0).shape == (2000, 6)


@settings(max_examples=30)
@given(st.sets(st.integers(1, 998), max_size=900), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_missing_rows_are_interpolated_over(rows, value):
    samples = ramp(1000, 200)
    whole = imu.window(samples, 200.0)
    samples[list(rows), 3] = value
    np.testing.assert_allclose(imu.window(samples, 200.0), whole, atol=1e-5)


def test_transform_takes_the_centre_or_a_random_window():
    record = {"imu": npy(ramp(2000, 200)), "imu_rate": 200}
    assert imu.Window()(record, None)[0, 0] == pytest.approx(2.5)
    first, again, other = (imu.Window()(record, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first[0, 0] != other[0, 0] and 0 <= first[0, 0] <= 5
    assert imu.Window(seconds=1.0, steps=100)(record, None).shape == (100, 6)


@pytest.mark.parametrize(
    ("source", "rate"),
    [
        (b"", 200),
        (b"no array", 200),
        (npy(np.zeros((10, 3))), 200),
        (npy(np.zeros(10)), 200),
        (npy(np.zeros((0, 6))), 200),
        (npy(np.full((10, 6), np.nan)), 200),
        (npy(np.array([[None] * 6], object)), 200),
        (npy(np.zeros((10, 6)).astype(str)), 200),
        (npy(np.zeros((10, 6))), 0),
        (npy(np.zeros((10, 6))), float("nan")),
        (npy(np.zeros((10, 6)))[:-1], 200),
    ],
)
def test_unusable_arrays_are_media_errors(source, rate):
    with pytest.raises(MediaError):
        imu.Window()({"imu": source, "imu_rate": rate}, None)
