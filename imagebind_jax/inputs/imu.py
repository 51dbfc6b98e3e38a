"""IMU: accelerometer and gyroscope samples at any rate to a window of 2000 steps."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from imagebind_jax.inputs.media import decoding

CHANNELS = 6  # acceleration x, y, z, then angular velocity x, y, z


def window(
    samples: Num[np.ndarray, "n 6"],
    rate: float,
    seconds: float = 5.0,
    steps: int = 2000,
    start: float | None = None,
) -> Float[np.ndarray, "steps 6"]:
    """`seconds` from `start` (default: the centre) on a uniform grid, linearly interpolated.

    `rate` in Hz; 5 s in 2000 steps is 400 Hz, whatever the sensor's rate. Rows with a value that
    is not finite are interpolated over; past the last sample the window repeats it. Values keep
    their units: no normalisation is documented for ImageBind. Raises ValueError.
    """
    if samples.ndim != 2 or samples.shape[1] != CHANNELS or samples.dtype.kind not in "fiu":
        raise ValueError(f"{samples.dtype} {samples.shape} is not [n, 6] numbers, accel then gyro")
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"a rate of {rate} Hz is not positive")
    good = np.isfinite(samples).all(axis=-1)
    if not good.any():
        raise ValueError(f"none of {len(samples)} rows is finite")
    if start is None:
        start = slack(len(samples), rate, seconds) / 2
    at = start + np.arange(steps) * (seconds / steps)
    times = np.flatnonzero(good) / rate
    channels = samples[good].T.astype(np.float64)
    return np.stack([np.interp(at, times, c) for c in channels], axis=-1).astype(np.float32)


def slack(count: int, rate: float, seconds: float) -> float:
    """Seconds by which a recording of `count` samples is longer than the window; 0 if shorter."""
    return max(count / rate - seconds, 0.0)


def read_imu(source: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file; never a pickle. Raises `MediaError`."""
    with decoding(source):
        return np.lib.format.read_array(io.BytesIO(source), allow_pickle=False)


@dataclasses.dataclass(frozen=True)
class Window:
    """record["imu"] (.npy, [n, 6]) at record["imu_rate"] Hz to [steps, 6].

    With rng the window starts anywhere in the recording, without it the window is the centre one.
    """

    seconds: float = 5.0
    steps: int = 2000

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "steps 6"]:
        source, rate = record["imu"], float(record["imu_rate"])
        samples = read_imu(source)
        with decoding(source):
            start = None
            if rng is not None:
                start = rng.random() * slack(len(samples), rate, self.seconds)
            return window(samples, rate, self.seconds, self.steps, start)
