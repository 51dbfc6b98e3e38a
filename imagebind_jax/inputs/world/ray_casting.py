"""Where rays meet the things of a scene, and how much lamplight reaches a point of it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.inputs.world.geometry import INF
from imagebind_jax.inputs.world.scene import FOCAL, Camera, Scene, SceneObject

FAR = 20.0  # metres: whatever lies beyond reads as this
SKY, FLOOR, FIRST_ITEM = 0, 1, 2


@dataclass(frozen=True)
class Hits:
    """What each of n rays meets first."""

    origin: Float[np.ndarray, "3 1"]
    direction: Float[np.ndarray, "3 n"]  # unit vectors
    distance: Float[np.ndarray, " n"]  # metres along the ray, inf in the sky
    thing: Int[np.ndarray, " n"]  # SKY, FLOOR, or FIRST_ITEM + index of the item
    solid: Int[np.ndarray, " n"]  # which solid of the item

    @cached_property
    def point(self) -> Float[np.ndarray, "3 n"]:
        return self.origin + np.where(np.isfinite(self.distance), self.distance, FAR) * (
            self.direction
        )


def cast_rays(
    scene: Scene, camera: Camera, size: int, pixels: Float[np.ndarray, "2 n"] | None = None
) -> Hits:
    """Casts a ray through every pixel centre of a size x size image, or through `pixels` (x, y).

    Pixel (0, 0) is the centre of the top left one; the optical axis passes (size - 1) / 2.
    """
    if pixels is None:
        pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size))).reshape(2, -1)
    flat = (pixels.astype(np.float32) - (size - 1) / 2) / np.float32(FOCAL * size)
    length = 1 / np.sqrt(1 + flat[0] * flat[0] + flat[1] * flat[1])
    right, down, forward = camera.axes().astype(np.float32).T[:, :, None]
    direction = (right * flat[0] + down * flat[1] + forward) * length
    origin = np.array(camera.position, np.float32)[:, None]
    return Hits(origin, direction, *nearest_hit(scene, origin, direction))


def nearest_hit(scene: Scene, origin, direction, skip: int = -1):
    """Distance, thing and solid each ray meets first; `skip` makes one item invisible."""
    down = direction[2]
    distance = np.where(down < -1e-6, -origin[2] / np.minimum(down, np.float32(-1e-6)), INF)
    distance = np.where(distance > 60, INF, distance).astype(np.float32)
    thing = np.where(np.isfinite(distance), FLOOR, SKY).astype(np.int8)
    solid = np.zeros(distance.shape, np.int8)
    for index, item in enumerate(scene.items):
        if index == skip:
            continue
        rays, start, heading = _into(item, origin, direction)
        for which, part in enumerate(item.solids):
            t = part.hit(start, heading)
            closer = t < distance[rays]
            won = rays[closer]
            distance[won], thing[won], solid[won] = t[closer], FIRST_ITEM + index, which
    return distance, thing, solid


def light_visibility(scene: Scene, point, towards) -> Float[np.ndarray, " n"]:
    """Share of the lamp's light that reaches points, given the unit vector towards it."""
    light = np.ones(point.shape[1], np.float32)
    towards = np.broadcast_to(towards, point.shape)
    for item in scene.items:
        rays, start, heading = _into(item, point, towards)
        through = np.float32(0.45 if item.look == "glass" else 0.0)
        for part in item.solids:
            light[rays[part.hit(start, heading) < INF]] = through
    return light


def _into(item: SceneObject, origin, direction):
    """The rays that may meet the item (their indices), and these in the item's own frame."""
    position = np.array(item.position, np.float32)[:, None]
    start = origin - position
    away = np.array([0, 0, item.bound[0] * item.scale], np.float32)[:, None] - start
    along = (away * direction).sum(axis=0)
    miss = (away * away).sum(axis=0) - along * along
    radius = item.bound[1] * item.scale
    rays = np.flatnonzero((miss < radius * radius) & (along > -radius))
    start = start if start.shape[1] == 1 else start[:, rays]
    return (
        rays,
        rotate_yaw(start, -item.yaw, 1 / item.scale),
        rotate_yaw(direction[:, rays], -item.yaw, 1 / item.scale),
    )


def rotate_yaw(vector: Float[np.ndarray, "3 n"], yaw: float, scale: float = 1.0):
    s, c = np.float32(np.sin(yaw) * scale), np.float32(np.cos(yaw) * scale)
    x, y, z = vector
    return np.stack([c * x - s * y, s * x + c * y, np.float32(scale) * z])


def to_local(item: SceneObject, point: Float[np.ndarray, "3 n"]) -> Float[np.ndarray, "3 n"]:
    moved = point - np.array(item.position, np.float32)[:, None]
    return rotate_yaw(moved, -item.yaw, 1 / item.scale)


def normals(item: SceneObject, point, solid) -> Float[np.ndarray, "3 n"]:
    point = to_local(item, point)
    normal = item.solids[0].normal(point)
    for which in range(1, len(item.solids)):
        mine = solid == which
        normal[:, mine] = item.solids[which].normal(point[:, mine])
    return rotate_yaw(normal, item.yaw)
