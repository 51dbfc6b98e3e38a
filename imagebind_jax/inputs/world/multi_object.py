"""Scenes of several objects at different places, each with its outline, its sound and its sentence."""

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from imagebind_jax.inputs.sources import CachedSource
from imagebind_jax.inputs.transforms.rle import mask_to_box, rle_encode
from imagebind_jax.inputs.world import captions, impact_sounds, ray_casting, render, scene
from imagebind_jax.inputs.world import world as base_world
from imagebind_jax.inputs.world.attributes import MATERIALS, SHAPES, Attributes, sample_attributes

COUNTS = (2, 3, 4)  # objects of a scene, in turn
APART = 1.5  # metres between the feet of two objects, at least
VISIBLE = 0.6  # share of an object that no other one hides, at least
NEAREST = 3.4  # metres from which a lone object is seen, about; and up to twice as far
LOOK = 64  # pixels of the picture by which that is checked
STREAMS = {
    name: 100 + k for k, name in enumerate(("concepts", "scene", "vision", "item", "camera"))
}


def is_held_out(concept: Attributes) -> bool:
    """Whether the shape in this material is for testing: a fixed quarter of all 64 pairs.

    3 is odd, so every shape and every material is among them equally often, and each shape comes in
    two materials. (`attributes.is_held_out` keeps combinations with a motion, which a picture lacks.)
    """
    return (concept.shape + 3 * concept.material) % 4 == 0


@dataclass(frozen=True)
class SingleObjectWorld(base_world.World):
    """The world of single objects without the pairs that are kept apart, or in "test" with no other.

    They are seen from near and far and anywhere in the picture, as crops of a gathering show them.
    """

    def scene(self, split: str, index: int) -> scene.Scene:
        placed = super().scene(split, index)
        place = base_world.SPLITS.index(split)
        rng = np.random.default_rng([self.seed, place, index, STREAMS["camera"]])
        away = rng.uniform(0, NEAREST)
        slack = 0.5 / scene.FOCAL - 0.7 / (NEAREST + away)  # between the object and the edges
        aside, above = (slack * rng.uniform(-1, 1, 2)).tolist()
        cameras = tuple(
            replace(c.advance(-away), yaw=c.yaw + aside, pitch=c.pitch + above)
            for c in placed.cameras
        )
        return replace(placed, cameras=cameras)

    def concept(self, split: str, index: int) -> Attributes:
        rng = self._rng(split, index, "concept")
        drawn = (sample_attributes(rng, test=split == "test") for _ in itertools.count())
        return next(each for each in drawn if is_held_out(each) == (split == "test"))


@dataclass(frozen=True)
class MultiObjectWorld:
    """Scenes of two to four objects that differ in shape and in material, on an empty floor.

    "test" has only pairs that are kept apart, "train" and "probe" all others. Everything is a pure
    function of (seed, split, index); `size` is the picture's width and height in pixels.
    """

    seed: int = 0
    size: int = 192
    antialias: bool = True

    def concepts(self, split: str, index: int) -> tuple[Attributes, ...]:
        """What stands in scene number `index`."""
        rng, found = self._rng(split, index, "concepts"), list[Attributes]()
        while len(found) < COUNTS[index % len(COUNTS)]:
            concept = Attributes(
                int(rng.integers(len(SHAPES))), int(rng.integers(len(MATERIALS))), 0, 0
            )
            new = all(
                concept.shape != other.shape and concept.material != other.material
                for other in found
            )
            if new and is_held_out(concept) == (split == "test"):
                found.append(concept)
        return tuple(found)

    def scene(self, split: str, index: int) -> scene.Scene:
        """The same, placed so that at least VISIBLE of each can be seen, and wholly in the picture."""
        concepts, rng = self.concepts(split, index), self._rng(split, index, "scene")
        return next(filter(_shows_all, _placed(concepts, rng)))

    def picture(self, split: str, index: int) -> dict[str, Any]:
        """The record of a scene: id ("test/000003"), scene (its number), and vision, one JPEG."""
        picture, _, _ = _rendered(self, split, index)
        return {"id": f"{split}/{index:06d}", "scene": index, "vision": [picture]}

    def record(self, split: str, index: int) -> dict[str, Any]:
        """The record of an object; those of a scene come one after the other.

        audio: FLAC, 2 s, 16 kHz, mono, of this object alone; text: a sentence that names its shape
        and its material; box: left, top, right and bottom, pixels, the last two exclusive; mask:
        its visible pixels, as COCO's uncompressed run lengths; id ("test/000003.1": the second
        object of scene 3), scene and labels.
        """
        number, which = _scene_and_object(index)
        _, things, items = _rendered(self, split, number)
        concept, rng = self.concepts(split, number)[which], self._rng(split, number, "item", which)
        mask = things == ray_casting.FIRST_ITEM + which
        names = SHAPES[concept.shape], MATERIALS[concept.material]
        return {
            "id": f"{split}/{number:06d}.{which}",
            "scene": number,
            "audio": base_world._flac(impact_sounds.synthesize(*names, items[which].scale, rng)),
            "text": _sentence(*names, rng),
            "box": mask_to_box(mask),
            "mask": rle_encode(mask),
            "labels": {"shape": concept.shape, "material": concept.material},
        }

    def _rng(self, split: str, index: int, stream: str, *more: int) -> np.random.Generator:
        if split not in base_world.SPLITS:
            raise ValueError(f"unknown split {split!r}: choose from {', '.join(base_world.SPLITS)}")
        place = base_world.SPLITS.index(split)
        return np.random.default_rng([self.seed, place, index, STREAMS[stream], *more])


@dataclass(frozen=True)
class PictureRecords:
    """index -> the picture of a scene."""

    world: MultiObjectWorld
    split: str

    def __call__(self, index: int) -> dict[str, Any]:
        return self.world.picture(self.split, index)


@dataclass(frozen=True)
class ObjectRecords:
    """index -> an object of a scene."""

    world: MultiObjectWorld
    split: str

    def __call__(self, index: int) -> dict[str, Any]:
        return self.world.record(self.split, index)


def multi_object_sources(
    world: MultiObjectWorld, split: str, scenes: int
) -> tuple[CachedSource, CachedSource]:
    """(the pictures of `scenes` scenes, their objects), made once and kept in the cache folder."""
    rounds, rest = divmod(scenes, len(COUNTS))
    objects = rounds * sum(COUNTS) + sum(COUNTS[:rest])
    return CachedSource(PictureRecords(world, split), scenes), CachedSource(
        ObjectRecords(world, split), objects
    )


def _scene_and_object(index: int) -> tuple[int, int]:
    """(scene, which of its objects) of object number `index`."""
    rounds, rest = divmod(index, sum(COUNTS))
    turn = 0
    while rest >= COUNTS[turn]:
        rest, turn = rest - COUNTS[turn], turn + 1
    return len(COUNTS) * rounds + turn, rest


def _sentence(shape: str, material: str, rng: np.random.Generator) -> str:
    names = {
        "shape": captions._pick(captions.SHAPE_PHRASES[shape], rng, first=0.5),
        "material": captions._pick(captions.MATERIAL_PHRASES[material], rng, first=0.5),
    }
    thing = captions._pick(captions._THING[True, True], rng)
    return re.sub(r"\ba (?=[aeiou])", "an ", f"{thing}.".format(**names))


def _placed(concepts: tuple[Attributes, ...], rng: np.random.Generator) -> Iterator[scene.Scene]:
    """Scenes with the objects anywhere on the floor that the camera sees, no two close together."""
    ambient = rng.uniform(10, 20)
    items = [scene._object(concept, rng) for concept in concepts]
    floor, light = scene._floor(rng, ambient), scene._light(rng)
    while True:
        distance, rise = rng.uniform(7.0, 8.5), rng.uniform(0.28, 0.42)
        y = rng.uniform(-2.2, 2.6, len(items))
        x = rng.uniform(-1, 1, len(items)) * 0.5 * (distance + y) / scene.FOCAL
        apart = np.hypot(x[:, None] - x, y[:, None] - y) + 99 * np.eye(len(items))
        if apart.min() < APART:
            continue
        camera = scene.Camera(
            position=(0.0, -distance * np.cos(rise), 0.5 + distance * np.sin(rise)),
            yaw=rng.uniform(-0.05, 0.05),
            pitch=-rise + rng.uniform(-0.04, 0.04),
            roll=rng.uniform(-0.04, 0.04),
        )
        places = zip(items, x.tolist(), y.tolist(), strict=True)
        there = tuple(replace(item, position=(a, b, 0.0)) for item, a, b in places)
        yield scene.Scene(there, (camera, camera), floor, light, ambient, objects=len(there))


def _shows_all(placed: scene.Scene) -> bool:
    [camera, _] = placed.cameras
    seen = ray_casting.cast_rays(placed, camera, LOOK).thing.reshape(LOOK, LOOK)
    for index, item in enumerate(placed.items):
        alone = ray_casting.cast_rays(replace(placed, items=(item,)), camera, LOOK).thing.reshape(
            LOOK, LOOK
        )
        whole = alone == ray_casting.FIRST_ITEM
        edge = whole[[0, -1]].any() or whole[:, [0, -1]].any()
        if edge or np.sum(seen == ray_casting.FIRST_ITEM + index) < VISIBLE * max(np.sum(whole), 1):
            return False
    return True


@functools.lru_cache(maxsize=2)  # its objects are asked for one after the other
def _rendered(
    world: MultiObjectWorld, split: str, number: int
) -> tuple[bytes, UInt8[np.ndarray, "h w"], tuple[scene.SceneObject, ...]]:
    """The picture of a scene, what each of its pixels shows, and its objects."""
    placed, noise = world.scene(split, number), world._rng(split, number, "vision")
    [camera, _] = placed.cameras
    hits = ray_casting.cast_rays(placed, camera, world.size)
    image = render.render_color(hits, placed, camera, world.size, world.antialias)
    grain = noise.standard_normal(image.shape, dtype=np.float32)
    image = image + np.float32(noise.uniform(0.003, 0.015)) * grain
    things = hits.thing.astype(np.uint8).reshape(world.size, world.size)
    return base_world._jpeg(image), things, placed.items
