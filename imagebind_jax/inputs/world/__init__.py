"""A procedural world of six modalities: endless records whose concepts are known."""

from imagebind_jax.inputs.world.attributes import (
    ATTRIBUTES,
    LAYOUTS,
    MATERIALS,
    MOTIONS,
    SHAPES,
    TASKS,
    Concept,
    held_out,
)
from imagebind_jax.inputs.world.captions import CLASS_NAMES, PROMPTS, told
from imagebind_jax.inputs.world.world import ALL, BASELINE, COLDEST, HOTTEST, World

__all__ = [
    "ALL",
    "ATTRIBUTES",
    "BASELINE",
    "CLASS_NAMES",
    "COLDEST",
    "HOTTEST",
    "LAYOUTS",
    "MATERIALS",
    "MOTIONS",
    "PROMPTS",
    "SHAPES",
    "TASKS",
    "Concept",
    "World",
    "held_out",
    "told",
]
