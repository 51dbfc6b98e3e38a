"""Files of accelerometer and gyroscope samples: Ego4D's CSV, others with named columns, and .npy."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Num

from imagebind_jax.inputs.decoders.media import (
    Source,
    open_media,
    sniff_media_type,
    wrap_decode_errors,
)
from imagebind_jax.inputs.decoders.npy import read_npy

AXES = ("accel_x", "accel_y", "accel_z", "gyro_x", "gyro_y", "gyro_z")  # of the output
# What a column may be called in place of accel and gyro; and of "_", nothing.
ACCEL = ("accel", "accl", "acc", "acceleration", "accelerometer", "linear_acceleration", "a")
GYRO = ("gyro", "gyr", "gyroscope", "angular_velocity", "g")
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}  # time_s, timestamp_ms, t_ns, ...
SECONDS = ("time", "t", "seconds", "elapsed")  # without a unit
ELAPSED = "seconds_elapsed"  # Sensor Logger's, whose "time" is in nanoseconds
# What else may hold times, of which the unit would have to be guessed.
LIKE_TIME = re.compile(r"(.*_)?(date)?(time|times|timestamp|elapsed|secs?|seconds?|epoch)(_.*)?")
UNITS = re.compile(r"_?\((m/s\^?2|m/s²|rad/s)\)")  # that are what is meant anyway
VIDEO_TIME = "canonical_timestamp_ms"  # Ego4D's
MISSING = ("", "NULL", "null", "None", "NA", "N/A")

MAX_BYTES = 64 << 20  # of a CSV file: 50 minutes at 200 Hz; of an array twice as many
MAX_LINE, MAX_LINES = 4096, 1_000_000  # bytes of a line; lines of a CSV file
BLOCK = 4 << 20  # bytes of a CSV file that are parsed at once


@dataclasses.dataclass(frozen=True)
class ImuRecording:
    """Samples [n, 6] (acceleration x, y, z, then angular velocity), in the file's units; NaN: missing.

    `times` [n] are their seconds, each later than the one before, or None where the file has none;
    `begin` is the time at which the recording begins, as does a video that was made with it.
    """

    samples: Num[np.ndarray, "n 6"]
    times: Float[np.ndarray, "n"] | None = None
    begin: float = 0.0


def read_imu(source: Source, max_bytes: int = MAX_BYTES) -> ImuRecording:
    """The samples of a .npy file or of a CSV file. Raises `MediaError`.

    A .npy file has 6 columns, acceleration first, or the time in seconds and those 6.

    A CSV file, in UTF-8 with commas, names its columns in the first line, in any order and case;
    space, "." and "-" count as "_". There must be accel_x, _y, _z and gyro_x, _y, _z, with any name
    of `ACCEL` and `GYRO`, or as accelx; times are optional: time_ms, timestamp_ms, elapsed_ms or
    t_ms (or _s, _us, _ns), or time, t, seconds, elapsed. Units may be in brackets, as phyphox has
    them: "Time (s)", "Acceleration x (m/s^2)"; Sensor Logger's seconds_elapsed goes before its time.
    Other columns do not matter, but if only they look like times, that is an error. Fields that are
    empty or NULL are missing. In Ego4D's files the time is that in the whole video (canonical_timestamp_ms), at whose
    start the recording begins; other recordings begin at their first row. Values keep their units;
    Ego4D does not say which it has: GoPro's cameras record m/s^2 and rad/s.

    Rows without a time are left out, the rest is sorted by time; of rows with the same time the
    mean is taken, over the values that are there.
    """
    if sniff_media_type(source) == "array":
        samples = read_npy(source, 2 * max_bytes)
        with wrap_decode_errors(source):
            if samples.ndim != 2 or samples.shape[1] not in (6, 7) or not len(samples):
                raise ValueError(
                    f"{samples.dtype} {samples.shape} is not [n, 6] nor [n, 7] numbers"
                )
            if samples.shape[1] == 6:
                return ImuRecording(samples)
            return _timed(samples[:, 1:], samples[:, 0].astype(np.float64))
    with wrap_decode_errors(source), open_media(source) as file:
        names = _names(file)
        columns, scale = _columns(names)
        rows = np.concatenate([*_rows(file, columns, max_bytes)] or [np.zeros((0, 7))])
        if not len(rows):
            raise ValueError("no rows below the names of the columns")
        if scale is None:
            return ImuRecording(rows)
        begin = 0.0 if VIDEO_TIME in names else None
        return _timed(rows[:, :6], rows[:, 6] * scale, begin)


def _timed(
    samples: Num[np.ndarray, "n 6"], times: Float[np.ndarray, "n"], begin: float | None = None
) -> ImuRecording:
    known = np.isfinite(times)
    if not known.any():
        raise ValueError(f"none of {len(times)} rows has a time")
    if not known.all():
        samples, times = samples[known], times[known]
    if (np.diff(times) <= 0).any():
        order = np.argsort(times, kind="stable")
        times, first = np.unique(times[order], return_index=True)
        samples = samples[order].astype(np.float64)
        there = np.isfinite(samples)
        counts = np.add.reduceat(there.astype(int), first)
        sums = np.add.reduceat(np.where(there, samples, 0), first)
        samples = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return ImuRecording(samples, times, float(times[0]) if begin is None else begin)


def _names(file: io.BytesIO | io.BufferedReader) -> list[str]:
    line = file.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE:
        raise ValueError(f"its first line has more than {MAX_LINE} bytes: no names of columns")
    names = next(csv.reader([line.decode("utf-8-sig")]), [])
    names = [UNITS.sub("", re.sub(r"[\s.-]+", "_", column.strip().lower())) for column in names]
    return [re.sub(r"_?\((s|ms|us|ns)\)", r"_\1", column) for column in names]


def _columns(names: Sequence[str]) -> tuple[list[int], float | None]:
    """Where the 6 axes are and, if there is one, the time; the seconds of its unit."""
    wanted = []
    for axis in AXES:
        sensor, letter = axis.split("_")
        prefixes = ACCEL if sensor == "accel" else GYRO
        wanted.append({prefix + gap + letter for prefix in prefixes for gap in ("_", "")})
    units = {
        f"{time}_{unit}": s
        for time in ("time", "timestamp", "elapsed", "t")
        for unit, s in TIMES.items()
    }
    units |= dict.fromkeys(SECONDS, 1.0)
    if VIDEO_TIME in names:
        units = {VIDEO_TIME: TIMES["ms"]}
    elif ELAPSED in names:
        units = {ELAPSED: 1.0}
    elif not units.keys() & set(names) and (unknown := [*filter(LIKE_TIME.fullmatch, names)]):
        raise ValueError(
            f"times in which unit? name the column {unknown[0]!r:.99} one of {', '.join(units)}, or "
            "remove it"
        )
    found = []
    for axis, spellings in zip((*AXES, "time"), (*wanted, units.keys())):
        places = [i for i, column in enumerate(names) if column in spellings]
        if len(places) > 1:
            raise ValueError(f"{axis} could be any of {', '.join(names[i] for i in places)}")
        if not places and axis != "time":
            given = repr(", ".join(names)[:200])[1:-1]  # printable, whatever the file is
            need = f"{', '.join(AXES)} and, for the time, {', '.join(units)}"
            raise ValueError(f"no column {axis} in the first line ({given}): it must name {need}")
        found += places
    scale = units[names[found[6]]] if len(found) == 7 else None
    return found, scale


def _rows(
    file: io.BytesIO | io.BufferedReader, columns: Sequence[int], max_bytes: int
) -> Iterator[Float[np.ndarray, "rows columns"]]:
    """The numbers of these columns, NaN where a field is missing, in blocks of whole lines."""
    before, read = 1, 0  # lines, bytes
    while block := file.read(BLOCK):
        block += file.readline(MAX_LINE + 1)
        read += len(block)
        lines = block.decode().removesuffix("\n").split("\n")
        if read > max_bytes or before + len(lines) > MAX_LINES:
            most = f"{max_bytes} bytes or {MAX_LINES} lines"
            raise ValueError(f"more than {most}: cut it, or store it as a .npy file")
        if max(map(len, lines)) > MAX_LINE:
            raise ValueError(f"a line after line {before} has more than {MAX_LINE} bytes")
        try:
            rows = _numbers(lines, columns)
        except ValueError as error:
            raise ValueError(f"after line {before}: {error}") from error
        before += len(lines)
        if len(rows):
            yield rows


def _numbers(lines: Sequence[str], columns: Sequence[int]) -> Float[np.ndarray, "rows columns"]:
    lines = [line for line in lines if not line.isspace() and line]
    if not lines:
        return np.zeros((0, len(columns)))
    if any(line.count('"') % 2 for line in lines):  # it would swallow the lines up to the next one
        raise ValueError("a quotation that does not end in its line")
    try:
        return _parsed(lines, columns)
    except ValueError:  # the rest is slower, and rarely needed
        text = given = "".join(f",{line.rstrip()},\n" for line in lines)
        for word in MISSING:
            while f",{word}," in text:  # twice, since neighbours share a comma
                text = text.replace(f",{word},", ",nan,")
        if text == given:
            raise
        return _parsed(text.split("\n"), [column + 1 for column in columns])


def _parsed(lines: Sequence[str], columns: Sequence[int]) -> Float[np.ndarray, "rows columns"]:
    return np.loadtxt(lines, delimiter=",", usecols=columns, comments=None, quotechar='"', ndmin=2)
