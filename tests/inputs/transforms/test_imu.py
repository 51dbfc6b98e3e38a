import io

import numpy as np
import pytest
from hypothesis import strategies as st
from properties import of_any

from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import imu
from imagebind_jax.inputs.transforms.augment import SharedAugmentation

CHANNELS = np.arange(1, 7)


def ramp(times: np.ndarray) -> np.ndarray:
    """Every channel is the time in seconds, times its number."""
    return times[:, None] * CHANNELS


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def record(rate: float, duration: float, **fields) -> dict:
    """A ramp in a .npy file without times."""
    times = np.arange(round(rate * duration)) / rate
    return {"imu": npy(ramp(times)), "imu_rate": rate, **fields}


def timed(times: np.ndarray, samples: np.ndarray | None = None, **fields) -> dict:
    samples = ramp(times) if samples is None else samples
    return {"imu": npy(np.concatenate([times[:, None], samples], axis=1)), **fields}


def test_2000_samples_at_400_hz_stay_as_they_are():
    samples = np.random.default_rng(0).normal(size=(2000, 6)).astype(np.float32)
    window = imu.resample_window(samples, np.arange(2000) / 400, 0.0)
    assert window.dtype == np.float32
    np.testing.assert_allclose(window, samples, atol=1e-6)


@pytest.mark.parametrize("rate", [50.0, 200.0, 201.005, 400.0, 403.0, 1000.0, 8000.0])
def test_a_line_is_a_line_at_every_rate(rate):
    window = imu.ImuWindow()(record(rate, 8.0), None)
    start = (round(rate * 8) / rate - 5) / 2
    np.testing.assert_allclose(window, ramp(start + np.arange(2000) / 400), rtol=1e-5)


def test_faster_sensors_are_averaged_so_that_they_do_not_alias():
    times = np.arange(48_000) / 8000
    hum = np.sin(2 * np.pi * 399 * times)[:, None] * np.ones(6)  # picked out at 400 Hz: 1 Hz
    window = imu.resample_window(hum, times, 0.5)
    assert np.abs(window).max() < 0.01
    slow = np.sin(2 * np.pi * 5 * times)[:, None] * np.ones(6)
    expected = np.sin(2 * np.pi * 5 * (0.5 + np.arange(2000) / 400))[:, None] * np.ones(6)
    np.testing.assert_allclose(imu.resample_window(slow, times, 0.5), expected, atol=1e-3)


@of_any(st.integers(0, 2**32 - 1), st.integers(2, 40), examples=50)
def test_an_average_is_the_mean_of_the_line_through_the_points(seed, count):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.uniform(0, 10, count)), rng.normal(size=count)
    at, width = rng.uniform(-2, 12, 5), rng.uniform(0.1, 3)
    fine = at[:, None] + width * ((np.arange(20_000) + 0.5) / 20_000 - 0.5)
    expected = np.interp(fine, x, y).mean(axis=1)
    np.testing.assert_allclose(imu._means(at, width, x, y), expected, atol=1e-4)


def test_a_short_recording_repeats_its_last_row():
    window = imu.ImuWindow()(record(200.0, 2.0), None)
    np.testing.assert_allclose(window[:797], ramp(np.arange(797) / 400), atol=1e-6)
    np.testing.assert_array_equal(window[798:], np.broadcast_to(window[-1], (1202, 6)))
    assert imu.ImuWindow()(record(200.0, 0.005), None).shape == (2000, 6)


@of_any(
    st.sets(st.integers(1, 998), max_size=900),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    examples=30,
)
def test_missing_values_are_interpolated_over(rows, value):
    times = np.arange(1000) / 200
    samples = ramp(times)
    whole = imu.resample_window(samples, times, 0.0)
    samples[list(rows), 3] = value
    window = imu.resample_window(samples, times, 0.0)
    np.testing.assert_allclose(window, whole, atol=1e-5)
    np.testing.assert_array_equal(np.delete(window, 3, axis=1), np.delete(whole, 3, axis=1))


def test_uneven_and_late_times():
    rng = np.random.default_rng(0)
    times = 100 + np.sort(rng.uniform(0, 8, 1600))
    step = (times[-1] - times[0]) / 1599
    start = times[0] + (times[-1] + step - times[0] - 5) / 2
    window = imu.ImuWindow()(timed(times), None)
    np.testing.assert_allclose(window, ramp(start + np.arange(2000) / 400), rtol=1e-5)


def test_transform_takes_the_centre_or_a_random_window():
    walk = record(200, 10.0)
    assert imu.ImuWindow()(walk, None)[0, 0] == pytest.approx(2.5)
    first, again, other = (imu.ImuWindow()(walk, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first[0, 0] != other[0, 0] and 0 <= first[0, 0] <= 5
    assert imu.ImuWindow(seconds=1.0, steps=100)(walk, None).shape == (100, 6)


def test_the_other_reading_of_2000_steps_is_10_seconds():
    window = imu.ImuWindow(seconds=10.0)(record(200, 10.0), None)
    np.testing.assert_allclose(window, ramp(np.arange(2000) / 200), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_training_follows_the_moment_that_the_sample_shares(seed):
    rng = np.random.default_rng
    expected = SharedAugmentation(seed).start(60.0, 5.0)
    for walk in (record(200, 60.0), timed(np.arange(12_000) / 200)):
        got = imu.ImuWindow()(walk | {"view": SharedAugmentation(seed)}, rng(99))
        assert got[0, 0] == pytest.approx(expected, abs=1e-4)
    # A video's clip of 2 s was chosen first: its centre is the window's.
    view = SharedAugmentation(seed)
    centre = view.start(60.0, 2.0) + 1
    got = imu.ImuWindow()(record(200, 60.0, view=view), rng(0))
    assert got[0, 0] == pytest.approx(np.clip(centre - 2.5, 0, 55), abs=1e-4)


def test_ego4ds_time_is_its_videos():
    """Its IMU may begin after the video: at 6 s here, of 60 s."""
    rows = "\n".join(f"{t},{t},0,0,0,0,0" for t in range(6000, 60_000, 5))
    text = "canonical_timestamp_ms,accl_x,accl_y,accl_z,gyro_x,gyro_y,gyro_z\n" + rows
    walk, starts = {"imu": text.encode()}, []
    for seed in range(10):
        view = SharedAugmentation(seed)
        start = view.start(60.0, 5.0)
        got = imu.ImuWindow()(walk | {"view": view}, np.random.default_rng(0))
        assert got[0, 0] == pytest.approx(1000 * max(start, 6.0), abs=1)
        starts.append(start)
    assert min(starts) < 6.0  # the seeds reach the case in question


@pytest.mark.parametrize("encode", [lambda **f: record(200, 60.0, **f), None])
def test_a_part_of_a_recording(encode):
    encode = encode or (lambda **f: timed(np.arange(12_000) / 200, **f))
    assert imu.ImuWindow()(encode(start=20.0, seconds=10.0), None)[0, 0] == pytest.approx(22.5)
    assert imu.ImuWindow()(encode(start=20.0, seconds=5.0), None)[0, 0] == pytest.approx(20.0)
    assert imu.ImuWindow()(encode(start=20), None)[0, 0] == pytest.approx(37.5)
    assert imu.ImuWindow()(encode(start=58.0, seconds=5.0), None)[0, 0] == pytest.approx(58.0)
    short = imu.ImuWindow()(encode(start=20.0, seconds=2.0), None)
    np.testing.assert_allclose(short[:, 0], np.minimum(20 + np.arange(2000) / 400, 22), atol=1e-4)
    for seed in range(5):
        got = imu.ImuWindow()(
            encode(start=20.0, seconds=8.0, view=SharedAugmentation(seed)), np.random.default_rng(0)
        )
        assert got[0, 0] == pytest.approx(20 + SharedAugmentation(seed).start(8.0, 5.0), abs=1e-4)
    for start, seconds in [(60.0, 5.0), (-9.0, 5.0), (20.0, 0.0), (float("nan"), 5.0)]:
        with pytest.raises(MediaError, match="hold no samples of a recording that begins at 0.0"):
            imu.ImuWindow()(encode(start=start, seconds=seconds), None)


@pytest.mark.parametrize("clock", [3.0, -3.0, 1_700_000_000.0])
def test_a_part_is_counted_from_the_recordings_beginning_whatever_its_clock_says(clock):
    samples = ramp(np.arange(2400) / 40)

    def encode(**fields):
        return timed(clock + np.arange(2400) / 40, samples, **fields)

    rng = np.random.default_rng
    assert imu.ImuWindow()(encode(), None)[0, 0] == pytest.approx(27.5, abs=1e-4)
    assert imu.ImuWindow()(encode(start=20.0), None)[0, 0] == pytest.approx(37.5, abs=1e-4)
    part = {"start": 20.0, "seconds": 8.0}
    assert imu.ImuWindow()(encode(**part), None)[0, 0] == pytest.approx(21.5, abs=1e-4)
    got = imu.ImuWindow()(encode(**part, view=SharedAugmentation(0)), rng(0))
    assert got[0, 0] == pytest.approx(20 + SharedAugmentation(0).start(8.0, 5.0), abs=1e-4)
    for start in (-1.0, 60.0, clock if clock > 60 else 61.0):
        with pytest.raises(MediaError, match=f"start {start} .*no samples of .* begins at {clock}"):
            imu.ImuWindow()(encode(start=start), None)


def test_a_part_of_ego4ds_recording_is_counted_from_its_videos_beginning():
    rows = "\n".join(f"{t},{t},0,0,0,0,0" for t in range(6000, 60_000, 50))
    text = "canonical_timestamp_ms,accl_x,accl_y,accl_z,gyro_x,gyro_y,gyro_z\n" + rows
    got = imu.ImuWindow()({"imu": text.encode(), "start": 20.0, "seconds": 5.0}, None)
    assert got[0, 0] == pytest.approx(20_000)
    got = imu.ImuWindow()({"imu": text.encode(), "start": 4.0, "seconds": 7.0}, None)
    assert got[0, 0] == pytest.approx(6000)  # there are no samples before


def test_a_rate_is_not_looked_at_where_there_are_times():
    walk = timed(np.arange(2400) / 40)
    np.testing.assert_array_equal(
        imu.ImuWindow()(walk | {"imu_rate": 7.0}, None), imu.ImuWindow()(walk, None)
    )


def with_gaps(*gaps: tuple[float, float], seconds: float = 60.0) -> np.ndarray:
    times = np.arange(round(200 * seconds)) / 200
    for start, end in gaps:
        times = times[(times <= start) | (times >= end)]
    return times


def test_short_gaps_are_bridged_and_windows_moved_out_of_long_ones():
    assert imu.ImuWindow()(timed(with_gaps((29.0, 29.4))), None)[0, 0] == pytest.approx(27.5)
    moved = imu.ImuWindow()(timed(with_gaps((29.0, 31.5))), None)
    np.testing.assert_allclose(moved, ramp(24 + np.arange(2000) / 400), rtol=1e-5)  # 27.5 - 3.5
    moved = imu.ImuWindow()(timed(with_gaps((25.0, 28.0), (29.0, 30.0))), None)
    assert moved[0, 0] == pytest.approx(30.0)
    bridged = imu.ImuWindow(max_gap=3.0)(timed(with_gaps((29.0, 31.5))), None)
    np.testing.assert_allclose(bridged, ramp(27.5 + np.arange(2000) / 400), rtol=1e-5)


def test_a_part_with_a_long_gap_is_refused():
    walk = timed(with_gaps((29.0, 31.0)), start=28.0, seconds=5.0)
    for rng in (None, np.random.default_rng(0)):
        with pytest.raises(MediaError, match="no 5.0 s of .* without a gap of 0.5 s"):
            imu.ImuWindow()(walk, rng)
    beyond = timed(with_gaps((29.0, 31.0)), start=24.0, seconds=5.0)
    assert imu.ImuWindow()(beyond, None)[0, 0] == pytest.approx(24.0)


def test_a_sensor_that_fails_alone_is_a_gap_too():
    times = np.arange(12_000) / 200
    samples = ramp(times)
    samples[(times > 29) & (times < 31.5), 4] = np.nan
    assert imu.ImuWindow()(timed(times, samples), None)[0, 0] == pytest.approx(24.0, abs=1e-5)
    samples[:, 4] = np.nan
    with pytest.raises(MediaError, match="without a gap"):
        imu.ImuWindow()(timed(times, samples), None)
    samples = np.full((10, 6), np.nan)
    with pytest.raises(MediaError, match="accel_x has no finite value"):
        imu.ImuWindow()({"imu": npy(samples), "imu_rate": 200}, None)


@of_any(
    st.lists(st.tuples(st.floats(0, 60), st.floats(0.6, 8)), max_size=8),
    st.integers(0, 2**32 - 1),
    examples=50,
)
def test_no_window_touches_a_gap_and_the_nearest_is_taken(gaps, seed):
    times = with_gaps(*((start, start + length) for start, length in gaps))[::4]  # 50 Hz
    edges = np.flatnonzero(np.diff(times) > 0.5)
    gaps = np.stack([times[edges], times[edges + 1]], axis=-1)
    last = times[-1] + (times[-1] - times[0]) / (len(times) - 1)
    places = np.concatenate([gaps[:, 0] - 5, gaps[:, 1], np.linspace(times[0], last - 5, 200)])
    places = places[(places >= times[0]) & (places <= last - 5)]
    free = [t for t in places if all(t >= b or t + 5 <= a for a, b in gaps)]
    wanted = times[0] + SharedAugmentation(seed).start(last - times[0], 5.0)
    walk = timed(times, view=SharedAugmentation(seed))
    try:
        start = imu.ImuWindow(steps=250)(walk, np.random.default_rng(0))[0, 0]
    except MediaError:
        assert not free
        return
    assert all(start >= b - 1e-4 or start + 5 <= a + 1e-4 for a, b in gaps)
    assert not free or abs(start - wanted) <= min(abs(t - wanted) for t in free) + 1e-4


@pytest.mark.parametrize("rate", [None, 0, -5.0, float("nan"), float("inf"), "fast", [200]])
def test_a_file_without_times_needs_a_rate(rate):
    walk = {"imu": npy(np.zeros((10, 6))), "imu_rate": rate, "id": "walk"}
    with pytest.raises(MediaError, match="^walk: imu_rate is .* give it in Hz"):
        imu.ImuWindow()(walk, None)
    with pytest.raises(MediaError, match="no field 'imu'"):
        imu.ImuWindow()({"imu_rate": 200}, None)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"no array",
        npy(np.zeros((10, 3))),
        npy(np.zeros(10)),
        npy(np.zeros((0, 6))),
        npy(np.full((10, 6), np.nan)),
        npy(np.array([["a"] * 6])),
        npy(np.zeros((10, 6)))[:-1],
    ],
)
def test_unusable_files_are_media_errors(source):
    with pytest.raises(MediaError):
        imu.ImuWindow()({"imu": source, "imu_rate": 200}, None)
