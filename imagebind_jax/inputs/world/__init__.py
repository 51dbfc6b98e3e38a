"""A procedural world of six modalities: endless records whose concepts are known."""

from imagebind_jax.inputs.world.attributes import (
    ATTRIBUTES,
    LAYOUTS,
    MATERIALS,
    MOTIONS,
    SHAPES,
    TASKS,
    Attributes,
    is_held_out,
)
from imagebind_jax.inputs.world.captions import CLASS_NAMES, PROMPTS, caption_attributes
from imagebind_jax.inputs.world.world import BASELINE, COLDEST, HOTTEST, MODALITIES, World

__all__ = [
    "MODALITIES",
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
    "Attributes",
    "World",
    "is_held_out",
    "caption_attributes",
]
