"""The world itself: records of encoded media that are a pure function of (seed, split, index)."""

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float, Integer
from PIL import Image

from imagebind_jax.inputs.sources import CachedSource
from imagebind_jax.inputs.world import captions, impact_sounds, imu, ray_casting, render
from imagebind_jax.inputs.world.attributes import MATERIALS, SHAPES, Attributes, sample_attributes
from imagebind_jax.inputs.world.scene import FOCAL, Scene, make_scene

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
SPLITS = ("train", "probe", "test")
BASELINE = 0.075  # metres between the lenses of the pretended depth camera
COLDEST, HOTTEST = -20.0, 100.0  # degrees Celsius that a thermal image maps to 0 and 255
JPEG_QUALITY = 92

# Every part of a record has its own random stream, so none depends on what else is asked for.
STREAMS = {name: k for k, name in enumerate(("concept", "scene", *MODALITIES))}


@dataclass(frozen=True)
class World:
    """A procedural world in which one latent concept is seen, heard, felt and told.

    `size` is the width and height of vision, depth and thermal images in pixels; `antialias`
    smooths the outlines in vision for a quarter more time.
    """

    seed: int = 0
    size: int = 64
    antialias: bool = True

    def concept(self, split: str, index: int) -> Attributes:
        """The concept of a sample: "test" has held-out combinations, "train" and "probe" others."""
        return sample_attributes(self._rng(split, index, "concept"), test=split == "test")

    def scene(self, split: str, index: int) -> Scene:
        """The scene of a sample, before anything of it is rendered."""
        return make_scene(self.concept(split, index), self._rng(split, index, "scene"))

    def record(self, split: str, index: int, modalities: Sequence[str] = MODALITIES) -> dict:
        """One sample with the media of `modalities`, encoded as files would be.

        vision: two JPEGs (list of bytes), the first and the last view of a clip; depth: a 16-bit
        PNG in millimetres of the first view, with `focal_length` (pixels) and `baseline` (metres);
        thermal: an 8-bit PNG of the first view, -20..100 degrees C; audio: FLAC, 2 s, 16 kHz, mono;
        imu: a .npy file, float32 [1000, 6] (axes: see imu.py), with `imu_rate` (Hz); text: one
        caption. Always: `id` ("train/000123") and `labels`, the index of each attribute.
        """
        unknown = sorted(set(modalities) - set(MODALITIES))
        if unknown:
            raise ValueError(
                f"unknown modality {unknown[0]!r}: choose from {', '.join(MODALITIES)}"
            )
        concept, scene = self.concept(split, index), self.scene(split, index)
        record: dict[str, Any] = {"id": f"{split}/{index:06d}", "labels": dict(vars(concept))}

        def rng(modality: str) -> np.random.Generator:
            return self._rng(split, index, modality)

        first, last = scene.cameras[0], scene.cameras[-1]
        if {"vision", "depth", "thermal"} & set(modalities):
            hits = ray_casting.cast_rays(scene, first, self.size)
        if "vision" in modalities:
            noise, views = rng("vision"), []
            level = noise.uniform(0.003, 0.015)
            for camera in scene.cameras:
                view = hits if camera is first else ray_casting.cast_rays(scene, camera, self.size)
                image = render.render_color(view, scene, camera, self.size, self.antialias)
                grain = noise.standard_normal(image.shape, dtype=np.float32)
                views.append(_jpeg(image + np.float32(level) * grain))
            record["vision"] = views
        if "depth" in modalities:
            metres = render.render_depth(hits, first, self.size)
            record["depth"] = _png(np.round(1000 * metres).astype(np.uint16))
            record |= {"focal_length": FOCAL * self.size, "baseline": BASELINE}
        if "thermal" in modalities:
            record["thermal"] = self._thermal(
                render.render_temperature(hits, scene, self.size), rng
            )
        if "audio" in modalities:
            names = SHAPES[concept.shape], MATERIALS[concept.material]
            record["audio"] = _flac(
                impact_sounds.synthesize(*names, scene.items[0].scale, rng("audio"))
            )
        if "imu" in modalities:
            record["imu"] = _npy(imu.imu_readings(first, last, rng("imu")))
            record["imu_rate"] = imu.RATE
        if "text" in modalities:
            record["text"] = captions.caption(concept, rng("text"))
        return record

    def _thermal(self, celsius: Float[np.ndarray, "h w"], rng) -> bytes:
        noise = rng("thermal")
        celsius = _blur(celsius, noise.uniform(0.7, 1.3) * self.size / 64)
        celsius += np.float32(noise.uniform(0.2, 0.6)) * noise.standard_normal(
            celsius.shape, dtype=np.float32
        )
        level = (celsius - COLDEST) * (255 / (HOTTEST - COLDEST))
        return _png(np.clip(np.round(level), 0, 255).astype(np.uint8))

    def _rng(self, split: str, index: int, stream: str) -> np.random.Generator:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
        return np.random.default_rng([self.seed, SPLITS.index(split), index, STREAMS[stream]])


def _blur(image: Float[np.ndarray, "h w"], sigma: float) -> Float[np.ndarray, "h w"]:
    reach = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (0, 1):
        length = image.shape[axis]
        padded = np.pad(image, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], "edge")
        pieces = [np.take(padded, range(k, k + length), axis) for k in range(len(taps))]
        image = sum(tap * piece for tap, piece in zip(taps, pieces, strict=True))
    return image


def _jpeg(image: Float[np.ndarray, "h w 3"]) -> bytes:
    levels = np.clip(np.round(255 * image), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _png(levels: Integer[np.ndarray, "h w"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def _flac(samples: Float[np.ndarray, " t"]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, impact_sounds.RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@dataclasses.dataclass(frozen=True)
class WorldRecords:
    """index -> record number `first + index` of a split, with only these modalities."""

    world: World
    split: str
    first: int = 0
    modalities: tuple[str, ...] = MODALITIES

    def __call__(self, index: int) -> dict:
        return self.world.record(self.split, self.first + index, self.modalities)


def world_source(
    world: World, split: str, count: int, first: int = 0, modalities: tuple[str, ...] = MODALITIES
) -> CachedSource:
    """`count` samples from `first` on, made once and kept in the cache folder."""
    return CachedSource(WorldRecords(world, split, first, modalities), count)
