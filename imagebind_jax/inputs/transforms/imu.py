"""IMU: accelerometer and gyroscope samples at any rate to a window of 2000 steps."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from imagebind_jax.inputs.decoders.imu_files import AXES, ImuRecording, read_imu
from imagebind_jax.inputs.decoders.media import first_field, positive_field, wrap_decode_errors
from imagebind_jax.inputs.transforms.augment import shared_augmentation
from imagebind_jax.inputs.transforms.validation import check_int, check_positive


def resample_window(
    samples: Num[np.ndarray, "n 6"],
    times: Float[np.ndarray, "n"],
    start: float,
    seconds: float = 5.0,
    steps: int = 2000,
    end: float = math.inf,
) -> Float[np.ndarray, "steps 6"]:
    """`steps` values on a uniform grid over `seconds` from `start`, linearly interpolated.

    `times` [s] ascend. 5 s in 2000 steps is 400 Hz, whatever the sensor's rate; a faster sensor is
    averaged over each step, lest it alias. What is not finite is interpolated over, each channel
    for itself; outside the recording, and after `end`, the nearest value is repeated. Values keep
    their units: no normalisation is documented for ImageBind. Raises ValueError.
    """
    at = np.minimum(start + np.arange(steps) * (seconds / steps), end)
    # A sensor whose clock is 1 % fast still has the grid's rate: averaging would only blur it.
    averaged = 0 < _step(times) * 1.01 < seconds / steps
    channels = []
    for axis, channel in zip(AXES, samples.T):
        good = np.isfinite(channel)
        if not good.any():
            raise ValueError(f"{axis} has no finite value in {len(channel)} rows")
        x, y = times[good], channel[good].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            channels.append(_means(at, seconds / steps, x, y) if averaged else np.interp(at, x, y))
        largest = np.abs(channels[-1]).max()
        if not largest <= np.finfo(np.float32).max:
            raise ValueError(f"{axis} has values up to {largest}: beyond float32")
    return np.stack(channels, axis=-1).astype(np.float32)


def _means(
    at: Float[np.ndarray, "m"], width: float, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "m"]:
    """The mean of the line through the points (x, y) over `width` around each place."""
    areas = np.concatenate([[0.0], np.cumsum((y[1:] + y[:-1]) / 2 * np.diff(x))])

    def area(to: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
        i = np.clip(np.searchsorted(x, to, side="right") - 1, 0, None)
        return areas[i] + (y[i] + np.interp(to, x, y)) / 2 * (to - x[i])

    return (area(at + width / 2) - area(at - width / 2)) / width


@dataclasses.dataclass(frozen=True)
class ImuWindow:
    """record["imu"], a file as in `imu_files.read_imu`, to [steps, 6].

    A file without times needs record["imu_rate"] in Hz; in one that has times it is not looked at.
    With "start" and "seconds" only that part of the recording counts; "start" is the time since the
    recording began (`ImuRecording.begin`), as in video and sound, whatever the file's clock says then.
    Without rng the window is the part's centre, with rng where the sample's view has its clip; a
    part that is shorter than the window repeats its last value.

    Missing values are interpolated over for at most `max_gap` seconds. A window that a longer gap
    reaches into is moved to the nearest place without one, within the part; if there is none, or
    anything else is wrong, the error is a `MediaError`. Which window ImageBind was trained on is
    not settled: 2000 steps at Ego4D's own rate would be `ImuWindow(seconds=10.0)`.
    """

    seconds: float = 5.0
    steps: int = 2000
    max_gap: float = 0.5

    def __post_init__(self):
        check_int(steps=self.steps)
        check_positive(seconds=self.seconds, max_gap=self.max_gap)

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "steps 6"]:
        source = first_field(record, "imu")
        recording = read_imu(source)
        with wrap_decode_errors(source):
            samples = recording.samples
            times, last = _times(recording, record)
            first = times[0]
            start, seconds = record.get("start"), record.get("seconds")
            begin = recording.begin + (0.0 if start is None else float(start))
            end = last if seconds is None else min(begin + float(seconds), last)
            low = max(begin, first)
            if not (begin >= recording.begin and low < end):
                lasts = f"a recording that begins at {recording.begin} s and ends at {last} s"
                raise ValueError(f"start {start} and seconds {seconds} hold no samples of {lasts}")
            high = low + max(end - low - self.seconds, 0.0)
            if rng is None:
                wanted = low + max(end - low - self.seconds, 0.0) / 2
            else:
                wanted = begin + shared_augmentation(record, rng).start(end - begin, self.seconds)
            wanted = float(np.clip(wanted, low, high))
            gaps = _gaps(samples, times, self.max_gap)
            at = _nearest_gap_free_starts(
                gaps[(gaps[:, 1] > low) & (gaps[:, 0] < end)], wanted, self.seconds
            )
            at = [place for place in at if low <= place <= high]
            if not at:
                need = f"{self.seconds} s of [{low}, {end}) s without a gap of {self.max_gap} s"
                raise ValueError(f"no {need}: give another part, or more max_gap")
            return resample_window(samples, times, at[0], self.seconds, self.steps, end)


def _times(
    recording: ImuRecording, record: Mapping[str, Any]
) -> tuple[Float[np.ndarray, "n"], float]:
    """Seconds of the samples, and of the end: the last one stands for the time until a next one."""
    if recording.times is not None:
        return recording.times, recording.times[-1] + _step(recording.times)
    rate = positive_field(record, "imu_rate", "its file has no times: give it in Hz")
    count = len(recording.samples)
    return np.arange(count) / rate, count / rate


def _step(times: Float[np.ndarray, "n"]) -> float:
    return (times[-1] - times[0]) / max(len(times) - 1, 1)


def _gaps(
    samples: Num[np.ndarray, "n 6"], times: Float[np.ndarray, "n"], longest: float
) -> Float[np.ndarray, "gaps 2"]:
    """Where a channel has no finite value for longer, (from, to) in seconds, in order."""
    good = np.isfinite(samples)
    channels = [times] if good.all() else [times[column] for column in good.T]
    found = []
    for x in channels:
        x = np.concatenate([times[:1], x, times[-1:]])
        wide = np.flatnonzero(np.diff(x) > longest)
        found.append(np.stack([x[wide], x[wide + 1]], axis=-1))
    gaps = np.concatenate(found)
    return gaps[np.argsort(gaps[:, 0], kind="stable")]


def _nearest_gap_free_starts(
    gaps: Float[np.ndarray, "gaps 2"], wanted: float, seconds: float
) -> list[float]:
    """Where windows of `seconds` can start that no gap reaches into, nearest to `wanted` first."""
    starts, ends = gaps[:, 0] - seconds, np.maximum.accumulate(gaps[:, 1])
    inside = (starts < wanted) & (wanted < ends)
    if not inside.any():
        return [wanted]
    # Blocked stretches that overlap are one: it begins where none before it reaches.
    apart = np.flatnonzero(np.concatenate([[True], starts[1:] >= ends[:-1]]))
    which = np.searchsorted(apart, np.flatnonzero(inside)[0], side="right") - 1
    last = apart[which + 1] - 1 if which + 1 < len(apart) else -1
    return sorted([starts[apart[which]], ends[last]], key=lambda place: abs(place - wanted))
