import io
import os
import time

import numpy as np
import pytest
from hypothesis import strategies as st
from properties import of_any

from imagebind_jax.inputs.decoders import imu_files
from imagebind_jax.inputs.decoders.imu_files import read_imu
from imagebind_jax.inputs.decoders.media import MediaError

# As Ego4D's documentation describes its files: 201 Hz, gyroscope first, NULL outside the video.
EGO4D = """component_idx,component_timestamp_ms,canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z
0,0.0,NULL,9,9,9,9,9,9
0,4.975124378109452,0.0,0.01,0.02,0.03,-2.5,-1.5,9.75
0,9.950248756218905,4.975124378109452,0.04,0.05,0.06,-2.25,-1.25,9.5
1,0.0,9.950248756218905,0.07,0.08,,-2.0,NULL,9.25
"""
GENERIC = "t,gx,gy,gz,ax,ay,az\n0.5,4,5,6,1,2,3\n0.75,40,50,60,10,20,30\n"
ROWS = [[1, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_ego4d():
    recording = read_imu(EGO4D.encode())
    nan = np.nan
    expected = [
        [-2.5, -1.5, 9.75, 0.01, 0.02, 0.03],
        [-2.25, -1.25, 9.5, 0.04, 0.05, 0.06],
        [-2.0, nan, 9.25, 0.07, 0.08, nan],
    ]
    np.testing.assert_array_equal(recording.samples, expected)
    np.testing.assert_allclose(recording.times, [0, 0.004975124378109452, 0.009950248756218905])
    assert recording.begin == 0.0


def test_ego4d_begins_with_its_video_and_others_with_their_first_row():
    late = "canonical_timestamp_ms,accl_x,accl_y,accl_z,gyro_x,gyro_y,gyro_z\n3200,1,2,3,4,5,6\n"
    assert (read_imu(late.encode()).begin, *read_imu(late.encode()).times) == (0.0, 3.2)
    recording = read_imu(GENERIC.encode())
    np.testing.assert_array_equal(recording.samples, ROWS)
    np.testing.assert_array_equal(recording.times, [0.5, 0.75])
    assert recording.begin == 0.5


@pytest.mark.parametrize(
    "names",
    [
        "ax,ay,az,gx,gy,gz",
        "acc_x,acc_y,acc_z,gyr_x,gyr_y,gyr_z",
        "accX,accY,accZ,gyroX,gyroY,gyroZ",
        "Accelerometer X, Accelerometer Y, Accelerometer Z, Gyroscope.X, Gyroscope.Y, Gyroscope-Z",
        "linear_acceleration.x,linear_acceleration.y,linear_acceleration.z,"
        "angular_velocity.x,angular_velocity.y,angular_velocity.z",
        '"accel_x","accel_y","accel_z","gyro_x","gyro_y","gyro_z"',
        "Acceleration x (m/s^2),Acceleration y (m/s^2),Acceleration z (m/s^2),"
        "Gyroscope x (rad/s),Gyroscope y (rad/s),Gyroscope z (rad/s)",
    ],
)
def test_columns_by_their_names_in_any_order(names):
    line = "1,2,3,4,5,6"
    assert read_imu(f"{names}\n{line}\n".encode()).samples.tolist() == ROWS[:1]
    backwards = ",".join(names.split(",")[::-1])
    assert read_imu(f"{backwards}\n{line[::-1]}".encode()).samples.tolist() == ROWS[:1]
    assert read_imu(f"{names}\n{line}\n".encode()).times is None


@pytest.mark.parametrize(
    ("column", "seconds"),
    [("time", 1), ("t", 1), ("seconds", 1), ("timestamp_s", 1), ("Timestamp_ms", 1e-3)]
    + [("time (ms)", 1e-3), ("t_us", 1e-6), ("timestamp_ns", 1e-9), ("Time (s)", 1)]
    + [("seconds_elapsed", 1), ("elapsed (ms)", 1e-3), ("elapsed", 1)],
)
def test_the_unit_of_time_is_in_its_name(column, seconds):
    text = f"ax,ay,az,gx,gy,gz,{column}\n1,2,3,4,5,6,2000000\n1,2,3,4,5,6,3000000\n"
    np.testing.assert_allclose(read_imu(text.encode()).times, [2e6 * seconds, 3e6 * seconds])


def test_sensor_loggers_elapsed_seconds_go_before_its_nanoseconds():
    text = "time,seconds_elapsed,ax,ay,az,gx,gy,gz\n1700000000000000000,0.5,1,2,3,4,5,6\n"
    assert read_imu(text.encode()).times.tolist() == [0.5]


def test_columns_that_only_sound_like_times_do_not_matter():
    text = "runtime,temperature,stamp,ax,ay,az,gx,gy,gz\n9,9,9,1,2,3,4,5,6\n"
    assert read_imu(text.encode()).times is None


def test_what_editors_do_to_a_file_does_not_matter():
    expected = read_imu(GENERIC.encode())
    for same in (
        "\ufeff" + GENERIC,
        GENERIC.replace("\n", "\r\n"),
        GENERIC.replace("\n", "\n\n") + "  \n",
        GENERIC.rstrip(),
        GENERIC.replace(",", ", "),
        "".join(f'{line},"a, b\u2028"\n' for line in GENERIC.splitlines()),
        "".join(f'{line},"a",\n' for line in GENERIC.splitlines()),
        "".join(f"x,NULL,,{line}\n" for line in GENERIC.splitlines()),
    ):
        recording = read_imu(same.encode())
        np.testing.assert_array_equal(recording.samples, expected.samples)
        np.testing.assert_array_equal(recording.times, expected.times)


@pytest.mark.parametrize("missing", ["", "NULL", "null", "None", "NA", "N/A", "nan", "NaN", "inf"])
def test_missing_values_are_nan_and_rows_without_a_time_are_left_out(missing):
    lines = [f"{missing},1,2,3,4,5,6", f"1,{missing},{missing},{missing},4,5,{missing}"]
    text = "t,ax,ay,az,gx,gy,gz\n" + "\n".join([*lines, "2,1,2,3,4,5,6"])
    recording = read_imu(text.encode())
    assert recording.times.tolist() == [1, 2]
    good = np.isfinite(recording.samples)
    assert good.tolist() == [[False] * 3 + [True, True, False], [True] * 6]


def test_rows_are_sorted_and_equal_times_averaged_over_what_is_there():
    text = "t,ax,ay,az,gx,gy,gz\n3,3,3,3,3,3,3\n1,1,,1,1,1,1\n2,2,2,2,2,2,2\n1,3,4,,1,1,1\n"
    recording = read_imu(text.encode())
    assert recording.times.tolist() == [1, 2, 3]
    assert recording.samples[:, :3].tolist() == [[2, 4, 1], [2, 2, 2], [3, 3, 3]]
    text = "t,ax,ay,az,gx,gy,gz\n1,,1,1,1,1,1\n1,,1,1,1,1,1\n"
    assert np.isnan(read_imu(text.encode()).samples[0, 0])


@of_any(st.permutations(range(12)), examples=50)
def test_the_order_of_rows_does_not_matter(order):
    rows = [f"{t / 8},{t},{2 * t},3,4,5,{t * t}" for t in range(12)]
    text = "\n".join(["t,ax,ay,az,gx,gy,gz", *(rows[i] for i in order)])
    recording = read_imu(text.encode())
    np.testing.assert_array_equal(recording.times, np.arange(12) / 8)
    np.testing.assert_array_equal(recording.samples[:, 5], np.arange(12.0) ** 2)


def test_blocks_are_put_together_again(monkeypatch):
    lines = [f"{t},{t},2,3,4,5,{'' if t % 7 == 3 else t}" for t in range(200)]
    text = "\n".join(["t,ax,ay,az,gx,gy,gz", *lines])
    whole = read_imu(text.encode())
    for block in (1, 40, 333):
        monkeypatch.setattr(imu_files, "BLOCK", block)
        np.testing.assert_array_equal(read_imu(text.encode()).samples, whole.samples)
    assert np.isnan(whole.samples[:, 5]).sum() == 29 and len(whole.times) == 200


def test_arrays_of_six_and_seven_columns(tmp_path):
    samples = np.arange(12, dtype=np.float32).reshape(2, 6)
    recording = read_imu(npy(samples))
    np.testing.assert_array_equal(recording.samples, samples)
    assert recording.times is None and recording.samples.dtype == np.float32
    timed = np.concatenate([[[2.5], [1.5]], samples], axis=1)
    (tmp_path / "a.npy").write_bytes(npy(timed))
    recording = read_imu(tmp_path / "a.npy")
    np.testing.assert_array_equal(recording.samples, samples[::-1])
    assert recording.times.tolist() == [1.5, 2.5] and recording.begin == 1.5
    assert read_imu(npy(samples.astype(np.int16))).samples.dtype == np.int16


HEADER = "t,ax,ay,az,gx,gy,gz\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "1,2,3,4,5,6\n1,2,3,4,5,6\n",
            "no column accel_x in the first line .* must name accel_x, ",
        ),
        ("t,ax,ay,az,gx,gy\n1,1,1,1,1,1\n", "no column gyro_z"),
        ("t;ax;ay;az;gx;gy;gz\n1;1;1;1;1;1;1\n", "no column accel_x"),
        ("t,ax,acc_x,ay,az,gx,gy,gz\n1,1,1,1,1,1,1,1\n", "accel_x could be any of ax, acc_x"),
        ("t,time_ms,ax,ay,az,gx,gy,gz\n1,1,1,1,1,1,1,1\n", "time could be any of t, time_ms"),
        ("timestamp,ax,ay,az,gx,gy,gz\n1,1,1,1,1,1,1\n", "times in which unit.* timestamp_ms"),
        ("component_timestamp_ms,ax,ay,az,gx,gy,gz\n1,1,1,1,1,1,1\n", "times in which unit"),
        ("time_sec,ax,ay,az,gx,gy,gz\n1,1,1,1,1,1,1\n", "column 'time_sec' one of time_s, "),
        ("DateTime,ax,ay,az,gx,gy,gz\n1,1,1,1,1,1,1\n", "column 'datetime' one of time_s, "),
        (HEADER, "no rows"),
        (HEADER + "\n\n", "no rows"),
        (HEADER + "0,1,2,3,4,5,six\n", "after line 1: could not convert string 'six'"),
        (HEADER + "0,1,2,3,4,5\n", "after line 1: invalid column index 6"),
        (HEADER + "NULL,1,2,3,4,5,6\n,1,2,3,4,5,6\n", "none of 2 rows has a time"),
        (HEADER + "0,1,2,3,4,5,6\n1,2,3", "after line 1: "),
        (HEADER + "0,1,2,3,4,NULL,six\n", "after line 1: could not convert string 'six'"),
        ("n," + HEADER + '"a,0,1,2,3,4,5,6\nb",0,1,2,3,4,5,6\n', "does not end in its line"),
        (HEADER.encode() + b"0,1,2,3,4,5,\xff\n", "UnicodeDecodeError"),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), "UnicodeDecodeError"),
        (HEADER + "0,1,2,3,4,5," + "6" * 5000, "line after line 1 has more than 4096 bytes"),
        ("a," * 5000 + "\n", "first line has more than 4096 bytes"),
        (b"", "empty"),
        (b"<!doctype html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "Error"),
        (npy(np.zeros((10, 5))), "not .n, 6. nor"),
        (npy(np.zeros((0, 6))), "not .n, 6. nor"),
        (npy(np.full((3, 7), np.nan)), "none of 3 rows has a time"),
    ],
)
def test_unusable_files_are_media_errors_that_say_why(source, reason):
    with pytest.raises(MediaError, match=reason):
        read_imu(source.encode() if isinstance(source, str) else source)


def test_files_are_bounded_and_regular(monkeypatch, tmp_path):
    with pytest.raises(MediaError, match="more than 50 bytes or"):
        read_imu(GENERIC.encode() * 2, max_bytes=50)
    monkeypatch.setattr(imu_files, "MAX_LINES", 100)
    with pytest.raises(MediaError, match="or 100 lines"):
        read_imu(HEADER.encode() + b"\n" * 101)
    os.mkfifo(tmp_path / "imu.csv")
    with pytest.raises(MediaError, match="not a regular file"):
        read_imu(tmp_path / "imu.csv")


def test_a_hundred_thousand_rows_take_less_than_half_a_second():
    values = np.random.default_rng(0).normal(size=(100, 6))
    lines = [",".join(map(repr, row)) for row in values.tolist()]
    text = HEADER + "".join(f"{i * 0.005},{lines[i % 100]}\n" for i in range(100_000))
    start = time.process_time()
    recording = read_imu(text.encode())
    assert time.process_time() - start < 1.0  # with the checks of types; 0.25 s without
    assert recording.samples.shape == (100_000, 6)


@of_any(st.data(), examples=100)
def test_damage_gives_rows_or_one_kind_of_error(data):
    damaged = bytearray(EGO4D.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        recording = read_imu(bytes(damaged))
    except MediaError:
        return
    assert recording.samples.shape[1] == 6
    assert recording.times is None or (np.diff(recording.times) > 0).all()
