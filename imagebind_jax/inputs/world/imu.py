"""What an inertial sensor in the camera measures while the camera moves.

Axes are the camera's: x right, y down, z forward along the optical axis. Columns are specific
force x, y, z in m/s^2 (a level camera at rest reads 0, -9.81, 0) and angular rate x, y, z in rad/s,
right-handed: tilting up is +x, panning right +y, rolling clockwise (seen from behind) +z.
"""

import numpy as np
from jaxtyping import Float

from imagebind_jax.inputs.world.scene import Camera

RATE, SECONDS, GRAVITY = 200.0, 5.0, 9.81


def imu_readings(
    first: Camera, second: Camera, rng: np.random.Generator
) -> Float[np.ndarray, "1000 6"]:
    """Readings over 5 s at 200 Hz in which the camera goes smoothly from one pose to the other."""
    time = np.arange(int(RATE * SECONDS)) / RATE
    duration = rng.uniform(0.9, 2.0)
    onset = rng.uniform(0.2, SECONDS - duration - 0.2)
    s = np.clip((time - onset) / duration, 0, 1)
    # The minimum-jerk path from 0 to 1, its speed and its acceleration.
    way = s**3 * (10 - 15 * s + 6 * s**2)
    speed = 30 * s**2 * (1 - s) ** 2 / duration
    push = 60 * s * (1 - s) * (1 - 2 * s) / duration**2

    turn = [getattr(second, name) - getattr(first, name) for name in ("yaw", "pitch", "roll")]
    pitch, roll = first.pitch + turn[1] * way, first.roll + turn[2] * way
    forward = first.axes()[:, 2]
    distance = float(np.dot(np.subtract(second.position, first.position), forward))

    up = np.stack(
        [-np.cos(pitch) * np.sin(roll), -np.cos(pitch) * np.cos(roll), np.sin(pitch)], axis=1
    )
    force = GRAVITY * up
    force[:, 2] += distance * push
    rate = -turn[0] * speed[:, None] * up  # yaw turns about the vertical
    rate[:, 0] += turn[1] * speed * np.cos(roll)
    rate[:, 1] -= turn[1] * speed * np.sin(roll)
    rate[:, 2] += turn[2] * speed

    shake = rng.uniform(0.5, 1.5)
    force += 0.12 * shake * _tremor(time, rng) + rng.normal(0, 0.05, 3)
    rate += 0.015 * shake * _tremor(time, rng) + rng.normal(0, 0.006, 3)
    noise = rng.standard_normal((len(time), 6), dtype=np.float32)
    noise *= np.array([0.06] * 3 + [0.006] * 3, np.float32)
    return np.concatenate([force, rate], axis=1).astype(np.float32) + noise


def _tremor(time: Float[np.ndarray, " t"], rng: np.random.Generator) -> Float[np.ndarray, "t 3"]:
    """The shaking of a hand: slow sway and a tremor of 6 to 12 Hz, of about unit size."""
    bands = rng.uniform([0.4, 0.8, 6, 8], [0.8, 2.0, 8, 12])
    phase = rng.uniform(0, 2 * np.pi, (4, 1, 3))
    level = rng.uniform(0.3, 1.0, (4, 1, 3)) * np.array([0.7, 0.6, 0.5, 0.5])[:, None, None]
    return (level * np.sin(2 * np.pi * bands[:, None, None] * time[:, None] + phase)).sum(axis=0)
