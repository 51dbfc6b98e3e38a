"""What a sample of the world is about, and which combinations are kept for testing."""

from dataclasses import dataclass

import numpy as np

SHAPES = ("sphere", "cube", "cylinder", "cone", "ring", "cross", "stairs", "arch")
MATERIALS = ("wood", "metal", "glass", "rubber", "stone", "ceramic", "plastic", "ice")
MOTIONS = (
    "still",
    "pan left",
    "pan right",
    "tilt up",
    "tilt down",
    "move forward",
    "move back",
    "roll clockwise",
)
LAYOUTS = ("alone", "wall", "pedestal", "posts")
ATTRIBUTES = {"shape": SHAPES, "material": MATERIALS, "motion": MOTIONS, "layout": LAYOUTS}

# What each modality is asked in zero-shot evaluation: only what it can show.
TASKS = {
    "audio": ("material",),
    "depth": ("shape",),
    "thermal": ("material", "shape"),
    "imu": ("motion",),
    "vision": ("shape", "material", "motion", "layout"),
}


@dataclass(frozen=True)
class Attributes:
    """The latent attributes of one sample, as indices into SHAPES, MATERIALS, MOTIONS, LAYOUTS."""

    shape: int
    material: int
    motion: int
    layout: int


def is_held_out(concept: Attributes) -> bool:
    """Whether the combination is kept for the test split.

    A fixed eighth of the (shape, material, motion) combinations. 3 and 5 are odd, so every value
    and every pair of values of two of these attributes is held out equally often.
    """
    return (concept.shape + 3 * concept.material + 5 * concept.motion) % 8 == 0


def sample_attributes(rng: np.random.Generator, *, test: bool) -> Attributes:
    """A uniform concept among those held out (`test`) or among all others."""
    while True:
        concept = Attributes(*(int(rng.integers(len(names))) for names in ATTRIBUTES.values()))
        if is_held_out(concept) == test:
            return concept
