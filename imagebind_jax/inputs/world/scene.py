"""The scene of one sample: what stands where, how it is lit, how warm it is, where the camera goes.

World axes: x right, y away from the camera, z up; metres, radians, degrees Celsius. The object
stands at x = y = 0.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from imagebind_jax.inputs.world import geometry
from imagebind_jax.inputs.world.attributes import LAYOUTS, MATERIALS, MOTIONS, SHAPES, Attributes

FOCAL = 1.5  # focal length in image widths: a field of view of 37 degrees
TEMPERATURES = dict(  # the gap below wood holds every ambient temperature, so all objects show
    zip(("ice", "metal", "stone", "ceramic", "glass", "wood", "plastic", "rubber"),
        (-14.0, -2.0, 31.0, 42.0, 53.0, 64.0, 75.0, 86.0), strict=True)
)  # fmt: skip
JITTER = 2.2  # largest deviation from these, a fifth of their gap


@dataclass(frozen=True)
class SceneObject:
    """A thing in the scene: solids in its own frame, then scaled, turned and placed."""

    solids: tuple
    look: str
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 0.0
    scale: float = 1.0
    bound: tuple[float, float] = (0.6, 1.0)  # height of the centre, radius of a bounding sphere
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)
    phase: tuple[float, float, float] = (0.0, 0.0, 0.0)  # where in its texture this one is cut
    temperature: float = 20.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; yaw turns it right, pitch up, roll clockwise as seen from behind it."""

    position: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Columns: right, down and forward in world coordinates."""
        sy, cy, sp, cp = _sincos(self.yaw) + _sincos(self.pitch)
        forward = np.array([sy * cp, cy * cp, sp])
        right = np.array([cy, -sy, 0.0])
        down = np.array([sp * sy, sp * cy, -cp])
        s, c = _sincos(self.roll)
        return np.stack([c * right + s * down, c * down - s * right, forward], axis=1)

    def advance(self, distance: float) -> "Camera":
        """The camera moved along its optical axis by `distance` metres."""
        return replace(
            self, position=tuple(np.array(self.position) + distance * self.axes()[:, -1])
        )


@dataclass(frozen=True)
class Floor:
    """The plane z = 0: two colours in squares of `tile` metres (equal colours: no pattern)."""

    colors: tuple = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tile: float = 0.8
    yaw: float = 0.0
    temperature: float = 20.0


@dataclass(frozen=True)
class Light:
    """A distant lamp (unit vector towards it, colour) and the glow of the surroundings."""

    direction: tuple[float, float, float] = (0.3, -0.5, 0.81)
    color: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ambient: float = 0.4
    horizon: tuple[float, float, float] = (0.8, 0.8, 0.8)
    zenith: tuple[float, float, float] = (0.4, 0.5, 0.7)


@dataclass(frozen=True)
class Scene:
    """Everything the renderer, the sound and the IMU need; the first items are the objects."""

    items: tuple[SceneObject, ...]
    cameras: tuple[Camera, ...]  # one a frame
    floor: Floor = field(default_factory=Floor)
    light: Light = field(default_factory=Light)
    ambient: float = 20.0  # of the far surroundings
    objects: int = 1


def make_scene(concept: Attributes, rng: np.random.Generator) -> Scene:
    """A scene of that concept with everything else drawn at random."""
    ambient = rng.uniform(10, 20)
    item = _object(concept, rng)
    furniture = _furniture(LAYOUTS[concept.layout], rng, ambient)
    if LAYOUTS[concept.layout] == "pedestal":
        item = replace(item, position=(0.0, 0.0, furniture[0].solids[0].high[2]))
    return Scene(
        items=(item, *furniture),
        cameras=_cameras(item, MOTIONS[concept.motion], rng),
        floor=_floor(rng, ambient),
        light=_light(rng),
        ambient=ambient - rng.uniform(0, 3),
    )


def _object(concept: Attributes, rng: np.random.Generator) -> SceneObject:
    shape, material = SHAPES[concept.shape], MATERIALS[concept.material]
    height = geometry.HEIGHTS[shape]
    return SceneObject(
        solids=geometry.SOLIDS[shape],
        look=material,
        # Limited, so that the hole of a ring and the steps of stairs face the camera.
        yaw=rng.uniform(-0.45, 0.45),
        scale=rng.uniform(0.9, 1.15),
        bound=(height / 2, 0.96),
        color=tuple(rng.uniform(0, 1, 3).tolist()),
        phase=tuple(rng.uniform(0, 6.28, 3).tolist()),
        temperature=TEMPERATURES[material] + rng.uniform(-JITTER, JITTER),
    )


def _furniture(layout: str, rng: np.random.Generator, ambient: float) -> tuple[SceneObject, ...]:
    color, yaw = _pale(rng), rng.uniform(-0.2, 0.2)
    width, height, place = rng.uniform(0, 1, 3).tolist()
    warmth = ambient + rng.uniform(-2.5, 2.5)

    def item(box: geometry.Box, look: str, x: float = 0.0, y: float = 0.0) -> SceneObject:
        half = np.subtract(box.high, box.low) / 2
        bound = (float(half[2]), float(np.linalg.norm(half)))
        return SceneObject(
            (box,), look, (x, y, 0.0), yaw, bound=bound, color=color, temperature=warmth
        )

    if layout == "wall":
        half, top = 2.2 + 0.8 * width, 1.7 + 0.6 * height
        return (
            item(geometry.Box((-half, 0.0, 0.0), (half, 0.2, top)), "brick", y=1.0 + 0.5 * place),
        )
    if layout == "pedestal":
        half, top = 0.72 + 0.14 * width, 0.45 + 0.25 * height
        return (item(geometry.Box((-half, -half, 0.0), (half, half, top)), "plaster"),)
    if layout == "posts":
        half, top, apart = 0.08 + 0.04 * width, 1.6 + 0.5 * height, 0.98 + 0.12 * place
        box = geometry.Box((-half, -half, 0.0), (half, half, top))
        x, y = apart * np.cos(yaw), apart * np.sin(yaw)
        return (item(box, "plaster", -x, -y), item(box, "plaster", x, y))
    return ()


def _cameras(item: SceneObject, motion: str, rng: np.random.Generator) -> tuple[Camera, Camera]:
    distance, rise = rng.uniform(3.1, 3.7), rng.uniform(0.12, 0.38)
    height = item.position[2] + item.scale * item.bound[0]
    # The first frame is drawn without regard to the motion: only the change may tell it.
    first = Camera(
        position=(0.0, -distance * np.cos(rise), height + distance * np.sin(rise)),
        yaw=rng.uniform(-0.05, 0.05),
        pitch=-rise + rng.uniform(-0.04, 0.04),
        roll=rng.uniform(-0.04, 0.04),
    )
    shift = rng.uniform(0.12, 0.2) / FOCAL
    zoom = rng.uniform(1.28, 1.42)
    roll = np.deg2rad(rng.uniform(20, 30))
    yaw, pitch, turn = rng.uniform(-0.008, 0.008, 3).tolist()
    along = rng.uniform(-0.03, 0.03)
    if motion.startswith("pan"):
        yaw += shift if motion == "pan right" else -shift
    if motion.startswith("tilt"):
        pitch += shift if motion == "tilt up" else -shift
    if motion.startswith("roll"):
        turn += roll
    if motion.startswith("move"):
        along += distance * (1 - 1 / zoom if motion == "move forward" else 1 - zoom)
    second = replace(
        first.advance(along),
        yaw=first.yaw + yaw,
        pitch=first.pitch + pitch,
        roll=first.roll + turn,
    )
    return first, second


def _floor(rng: np.random.Generator, ambient: float) -> Floor:
    color = _pale(rng)
    contrast = float(rng.choice([1.0, 0.93, 0.86, 0.79]))
    return Floor(
        colors=(color, tuple(contrast * c for c in color)),
        tile=rng.uniform(0.5, 1.0),
        yaw=rng.uniform(0, 1.57),
        temperature=ambient + rng.uniform(-2, 2),
    )


def _light(rng: np.random.Generator) -> Light:
    around, above = rng.uniform(-2.3, -0.85), rng.uniform(0.6, 1.1)
    across = np.cos(above)
    warm = rng.uniform(-0.12, 0.12)
    level = rng.uniform(0.85, 1.05)
    horizon = np.clip(rng.uniform(0.68, 0.85) + rng.uniform(-0.04, 0.04, 3), 0, 1)
    zenith = horizon * rng.uniform([0.5, 0.6, 0.75], [0.75, 0.85, 0.95])
    return Light(
        direction=(across * np.cos(around), across * np.sin(around), np.sin(above)),
        color=(level * (1 + warm), level, level * (1 - warm)),
        ambient=rng.uniform(0.36, 0.48),
        horizon=tuple(horizon.tolist()),
        zenith=tuple(zenith.tolist()),
    )


def _pale(rng: np.random.Generator) -> tuple[float, float, float]:
    gray, tint = rng.uniform(0.5, 0.66), rng.uniform(-0.035, 0.035, 3)
    return tuple(np.clip(gray + tint, 0, 1).tolist())


def _sincos(angle: float) -> tuple[float, float]:
    return np.sin(angle), np.cos(angle)
