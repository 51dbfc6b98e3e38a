"""Sentences about a concept, and the class phrases and prompts that ask for one attribute of it."""

import re

import numpy as np

from imagebind_jax.inputs.world.attributes import ATTRIBUTES, Attributes

Phrases = dict[str, tuple[str, ...]]

# First phrase: the class name used in prompts. Every phrase occurs in captions.
SHAPE_PHRASES: Phrases = {
    "sphere": ("sphere", "ball", "round ball"),
    "cube": ("cube", "block", "square block"),
    "cylinder": ("cylinder", "column", "tall cylinder"),
    "cone": ("cone", "pointed cone"),
    "ring": ("ring", "torus", "upright ring"),
    "cross": ("cross", "plus sign", "upright cross"),
    "stairs": ("staircase", "flight of steps", "set of stairs"),
    "arch": ("arch", "gate", "little gate"),
}
MATERIAL_PHRASES: Phrases = {
    "wood": ("wood", "timber", "brown wood"),
    "metal": ("metal", "brass", "polished metal"),
    "glass": ("glass", "clear glass", "green glass"),
    "rubber": ("rubber", "black rubber", "dark rubber"),
    "stone": ("stone", "granite", "grey stone"),
    "ceramic": ("ceramic", "porcelain", "glazed ceramic"),
    "plastic": ("plastic", "bright plastic", "colourful plastic"),
    "ice": ("ice", "frozen water", "pale ice"),
}
MOTION_PHRASES: Phrases = {
    "still": ("stays still", "does not move", "holds still"),
    "pan left": ("pans left", "turns left", "swings to the left"),
    "pan right": ("pans right", "turns right", "swings to the right"),
    "tilt up": ("tilts up", "looks up", "tilts upwards"),
    "tilt down": ("tilts down", "looks down", "tilts downwards"),
    "move forward": ("moves forward", "comes closer", "moves in"),
    "move back": ("moves back", "backs away", "moves out"),
    "roll clockwise": ("rolls clockwise", "rolls over", "rolls to the right"),
}
LAYOUT_PHRASES: Phrases = {
    "alone": ("alone on the floor", "all alone", "with nothing around it"),
    "wall": ("before a wall", "in front of a wall", "near a brick wall"),
    "pedestal": ("on a pedestal", "on top of a pedestal", "raised on a plinth"),
    "posts": ("between two posts", "between two pillars", "with a post on either side"),
}
PHRASES: dict[str, Phrases] = {
    "shape": SHAPE_PHRASES,
    "material": MATERIAL_PHRASES,
    "motion": MOTION_PHRASES,
    "layout": LAYOUT_PHRASES,
}

CLASS_NAMES = {
    task: tuple(PHRASES[task][name][0] for name in names) for task, names in ATTRIBUTES.items()
}
PROMPTS = {
    "shape": (
        "a {}.",
        "a picture of a {}.",
        "the shape of a {}.",
        "there is a {} here.",
        "this is a {}.",
    ),
    "material": (
        "something made of {}.",
        "an object made of {}.",
        "this is made of {}.",
        "it is {}.",
        "a piece of {}.",
    ),
    "motion": (
        "the camera {}.",
        "a camera that {}.",
        "the view {}.",
        "in this clip the camera {}.",
    ),
    "layout": (
        "something {}.",
        "an object {}.",
        "a thing standing {}.",
        "it stands {}.",
    ),
}

_THING = {  # by whether the shape and the material are told
    (True, True): (
        "a {shape} made of {material}",
        "a {shape} of {material}",
        "a {material} {shape}",
    ),
    (True, False): (
        "a {shape}",
        "a picture of a {shape}",
        "the shape of a {shape}",
        "this is a {shape}",
        "there is a {shape} here",
    ),
    (False, True): (
        "something made of {material}",
        "an object made of {material}",
        "this is made of {material}",
        "a piece of {material}",
        "it is {material}",
    ),
    (False, False): ("something", "an object", "a thing standing", "it stands"),
}
_CLIP = (
    "the camera {motion}",
    "a camera that {motion}",
    "the view {motion}",
    "in this clip the camera {motion}",
)
_JOINED = (
    "{thing}; {clip}.",
    "{thing}, and {clip}.",
    "{thing} while {clip}.",
    "{clip}: {thing}.",
    "{clip}: {thing}.",
)


def caption(concept: Attributes, rng: np.random.Generator) -> str:
    """One English sentence of at most 22 words that names one to four of the attributes."""
    names = {task: values[getattr(concept, task)] for task, values in ATTRIBUTES.items()}
    words = {task: _pick(PHRASES[task][name], rng, first=0.5) for task, name in names.items()}
    count = rng.choice([1, 2, 3, 4], p=(0.3, 0.2, 0.15, 0.35))
    told = set(rng.permutation(list(ATTRIBUTES))[:count])
    thing = _pick(_THING["shape" in told, "material" in told], rng)
    if "layout" in told:
        thing += " {layout}"
    clip = _pick(_CLIP, rng)
    if "motion" not in told:
        sentence = thing + "."
    elif len(told) == 1:
        sentence = clip + "."
    elif clip.startswith("the"):
        sentence = _pick(_JOINED, rng)
    else:
        sentence = _JOINED[-1]
    sentence = sentence.replace("{thing}", thing).replace("{clip}", clip).format(**words)
    return re.sub(r"\ba (?=[aeiou])", "an ", sentence)


def _pick(options: tuple, rng: np.random.Generator, first: float = 0.0):
    """A random option; with probability `first` outright the first one."""
    if rng.uniform() < first:
        return options[0]
    return options[int(rng.integers(len(options)))]


def caption_attributes(sentence: str) -> list[str]:
    """The attributes that a caption names."""
    return [
        task
        for task, phrases in PHRASES.items()
        if re.search(rf"\b({'|'.join(p for ps in phrases.values() for p in ps)})\b", sentence)
    ]
