"""Solids and the distance at which rays meet them; arrays of points are [3, N], metres, z up.

A solid answers `hit(origin, direction) -> t` (inf on a miss) and `normal(point)`. Directions need
not be unit vectors: t counts in multiples of them. Rays start outside.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

EPS = 1e-4
INF = np.float32(np.inf)


@dataclass(frozen=True)
class Box:
    """An axis-aligned box from corner `low` to corner `high`."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def hit(
        self, origin: Float[np.ndarray, "3 m"], direction: Float[np.ndarray, "3 n"]
    ) -> Float[np.ndarray, " n"]:
        low, high = _column(self.low), _column(self.high)
        inverse = 1 / np.where(np.abs(direction) < 1e-9, np.float32(1e-9), direction)
        one, two = (low - origin) * inverse, (high - origin) * inverse
        near = np.minimum(one, two).max(axis=0)
        far = np.maximum(one, two).min(axis=0)
        return np.where((near < far) & (near > EPS), near, INF)

    def normal(self, point: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
        low, high = _column(self.low), _column(self.high)
        offset = (point - (low + high) / 2) / ((high - low) / 2)
        axis = np.abs(offset).argmax(axis=0)
        return np.where(axis == np.arange(3)[:, None], np.sign(offset), 0).astype(np.float32)


@dataclass(frozen=True)
class Sphere:
    """A ball about (0, 0, height)."""

    radius: float
    height: float

    def hit(
        self, origin: Float[np.ndarray, "3 m"], direction: Float[np.ndarray, "3 n"]
    ) -> Float[np.ndarray, " n"]:
        start = origin - _column((0, 0, self.height))
        roots = _roots(
            _dot(direction, direction), _dot(start, direction), _dot(start, start) - self.radius**2
        )
        return np.where(roots[0] > EPS, roots[0], INF)

    def normal(self, point: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
        return (point - _column((0, 0, self.height))) / np.float32(self.radius)


@dataclass(frozen=True)
class CylinderOrCone:
    """An upright cylinder (`top == base`) or cone (`top == 0`) on the plane z = 0."""

    base: float
    top: float
    height: float

    def hit(
        self, origin: Float[np.ndarray, "3 m"], direction: Float[np.ndarray, "3 n"]
    ) -> Float[np.ndarray, " n"]:
        slope = np.float32((self.top - self.base) / self.height)
        reach, grow = self.base + slope * origin[2], slope * direction[2]  # radius along the ray
        flat, start = direction[:2], origin[:2]
        sides = _roots(
            _dot(flat, flat) - grow * grow,
            _dot(start, flat) - reach * grow,
            _dot(start, start) - reach * reach,
        )
        best = np.full(direction.shape[1], INF)
        for t in sides:
            z = origin[2] + t * direction[2]
            best = np.where((t > EPS) & (z >= 0) & (z <= self.height) & (t < best), t, best)
        down = np.where(np.abs(direction[2]) < 1e-9, np.float32(1e-9), direction[2])
        for z, radius in ((0.0, self.base), (self.height, self.top)):
            t = (np.float32(z) - origin[2]) / down
            x, y = start[0] + t * flat[0], start[1] + t * flat[1]
            best = np.where((t > EPS) & (x * x + y * y <= radius**2) & (t < best), t, best)
        return best

    def normal(self, point: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
        slope = (self.top - self.base) / self.height
        radius = np.sqrt(_dot(point[:2], point[:2])) + np.float32(1e-9)
        side = np.stack([point[0] / radius, point[1] / radius, np.full_like(radius, -slope)])
        side /= np.float32(np.hypot(1, slope))
        flat = np.stack([0 * radius, 0 * radius, np.sign(point[2] - self.height / 2)])
        capped = (point[2] < 1e-3) | ((point[2] > self.height - 1e-3) & (self.top > 0))
        return np.where(capped, flat, side)


@dataclass(frozen=True)
class Torus:
    """A ring standing upright on the plane z = 0, its hole along y."""

    radius: float
    tube: float

    def hit(
        self, origin: Float[np.ndarray, "3 m"], direction: Float[np.ndarray, "3 n"]
    ) -> Float[np.ndarray, " n"]:
        outer = self.radius + self.tube
        length = np.sqrt(_dot(direction, direction))
        unit = direction / length
        start = origin - _column((0, 0, outer))
        near, far = _roots(np.float32(1), _dot(start, unit), _dot(start, start) - outer**2)
        alive = np.flatnonzero(far > EPS)
        best = np.full(direction.shape[1], INF)
        t, far, unit = np.maximum(near[alive], np.float32(EPS)), far[alive], unit[:, alive]
        start = start if start.shape[1] == 1 else start[:, alive]
        for _ in range(40):  # sphere tracing: a step is never longer than the free distance
            gap = self._distance(start + t * unit)
            t = t + gap
            done = gap < 2e-5
            best[alive[done]] = t[done] / length[alive[done]]
            keep = ~done & (t < far)
            if not keep.any():
                break
            alive, t, far, unit = alive[keep], t[keep], far[keep], unit[:, keep]
            start = start if start.shape[1] == 1 else start[:, keep]
        return best

    def _distance(self, point: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, " n"]:
        ring = np.sqrt(point[0] * point[0] + point[2] * point[2]) - np.float32(self.radius)
        return np.sqrt(ring * ring + point[1] * point[1]) - np.float32(self.tube)

    def normal(self, point: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
        x, y, z = point - _column((0, 0, self.radius + self.tube))
        shrink = 1 - np.float32(self.radius) / (np.sqrt(x * x + z * z) + np.float32(1e-9))
        return np.stack([x * shrink, y, z * shrink]) / np.float32(self.tube)


# Every solid stands on z = 0 and is about 1.2 m high or wide; silhouettes differ from most sides.
SOLIDS = {
    "sphere": (Sphere(0.58, 0.58),),
    "cube": (Box((-0.45, -0.45, 0.0), (0.45, 0.45, 0.9)),),
    "cylinder": (CylinderOrCone(0.3, 0.3, 1.35),),
    "cone": (CylinderOrCone(0.62, 0.0, 1.25),),
    "ring": (Torus(0.47, 0.17),),
    "cross": (
        Box((-0.17, -0.17, 0.0), (0.17, 0.17, 1.3)),
        Box((-0.62, -0.17, 0.5), (0.62, 0.17, 0.84)),
    ),
    "stairs": (
        Box((-0.69, -0.36, 0.0), (-0.23, 0.36, 0.36)),
        Box((-0.23, -0.36, 0.0), (0.23, 0.36, 0.72)),
        Box((0.23, -0.36, 0.0), (0.69, 0.36, 1.08)),
    ),
    "arch": (
        Box((-0.62, -0.24, 0.0), (-0.34, 0.24, 0.8)),
        Box((0.34, -0.24, 0.0), (0.62, 0.24, 0.8)),
        Box((-0.62, -0.24, 0.8), (0.62, 0.24, 1.1)),
    ),
}
HEIGHTS = {
    "sphere": 1.16,
    "cube": 0.9,
    "cylinder": 1.35,
    "cone": 1.25,
    "ring": 1.28,
    "cross": 1.3,
    "stairs": 1.08,
    "arch": 1.1,
}


def _column(values: tuple) -> Float[np.ndarray, "3 1"]:
    return np.array(values, np.float32)[:, None]


def _dot(a: Float[np.ndarray, "k m"], b: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _roots(a, half_b, c) -> tuple[np.ndarray, np.ndarray]:
    """Both solutions of a t^2 + 2 half_b t + c = 0 in ascending order, -1 where there is none."""
    inside = half_b * half_b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    one, two = (-half_b - root) / a, (-half_b + root) / a
    missed = inside < 0
    return (
        np.where(missed, np.float32(-1), np.minimum(one, two)),
        np.where(missed, np.float32(-1), np.maximum(one, two)),
    )
