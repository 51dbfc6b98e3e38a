"""Touch, the seventh modality: the world's objects under a finger, and the input made of that."""

import dataclasses
import io

import numpy as np

from imagebind_jax.inputs.world import MATERIALS, SHAPES, World

RATE, STEPS = 200, 400  # Hz, and two seconds of them
ACROSS = np.linspace(-1, 1, STEPS)  # the finger slides from one side to the other
# How high each shape is under the finger, and how coarse, how stiff each material feels.
PROFILES = {
    "sphere": np.sqrt(np.clip(1 - ACROSS**2, 0, 1)),
    "cube": (np.abs(ACROSS) < 0.75) * 1.0,
    "cylinder": (np.abs(ACROSS) < 0.45) * 1.4,
    "cone": np.clip(1.5 - 1.9 * np.abs(ACROSS), 0, None),
    "ring": np.sqrt(np.clip(1 - ACROSS**2, 0, 1)) - np.sqrt(np.clip(0.3 - ACROSS**2, 0, 1)),
    "cross": np.where(np.abs(ACROSS) < 0.25, 1.4, 0.8 * (np.abs(ACROSS) < 0.8)),
    "stairs": np.floor(np.clip(2 + 2 * ACROSS, 0, 3.99)) / 3,
    "arch": np.where(np.abs(ACROSS) < 0.45, 1.2, 1.0 * (np.abs(ACROSS) < 0.85)),
}
GRAIN = {"wood": 22, "metal": 85, "glass": 95, "rubber": 35, "stone": 12, "ceramic": 60,
         "plastic": 50, "ice": 75}  # Hz that the surface makes the finger tremble at  # fmt: skip
DEPTH = {"wood": 0.25, "metal": 0.04, "glass": 0.02, "rubber": 0.18, "stone": 0.4,
         "ceramic": 0.06, "plastic": 0.1, "ice": 0.03}  # fmt: skip
STIFF = {"wood": 0.8, "metal": 1.0, "glass": 0.95, "rubber": 0.35, "stone": 1.0, "ceramic": 0.9,
         "plastic": 0.65, "ice": 0.9}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Touches:
    """A source of records: clips of the world, and what a finger felt, as .npy, float32 [400, 2]."""

    world: World
    split: str
    first: int
    count: int

    def open(self) -> list[dict]:
        return [self.record(index) for index in range(self.first, self.first + self.count)]

    def record(self, index: int) -> dict:
        record = self.world.record(self.split, index, ("vision",))
        rng = np.random.default_rng([self.world.seed, index, len(self.split)])
        buffer = io.BytesIO()
        np.save(buffer, felt(record["labels"]["shape"], record["labels"]["material"], rng))
        return {**record, "tactile": buffer.getvalue()}


def felt(shape: int, material: int, rng: np.random.Generator) -> np.ndarray:
    """[400, 2]: the pressure on the finger, and how it trembles; both uncertain, as fingers are."""
    name = MATERIALS[material]
    place = ACROSS * rng.uniform(0.9, 1.15) + rng.uniform(-0.12, 0.12)
    height = np.interp(place, ACROSS, PROFILES[SHAPES[shape]], left=0, right=0)
    pressure = STIFF[name] * rng.uniform(0.85, 1.15) * height + 0.04 * rng.standard_normal(STEPS)
    turns = np.cumsum(GRAIN[name] * rng.uniform(0.9, 1.1) * (1 + 0.1 * rng.standard_normal(STEPS)))
    depth = DEPTH[name] * rng.uniform(0.7, 1.4)
    tremble = depth * (height > 0.05) * np.sin(2 * np.pi * turns / RATE)
    return np.stack([pressure, tremble + 0.01 * rng.standard_normal(STEPS)], -1).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Touch:
    """record["tactile"] to [400, 2], each channel at about one unit of size."""

    def __call__(self, record, rng) -> np.ndarray:
        return np.load(io.BytesIO(record["tactile"])) * np.float32([1.5, 6.0])
