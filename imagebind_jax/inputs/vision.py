"""Images and frames: to the normalised 224 x 224 squares that CLIP and ImageBind see."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from imagebind_jax.inputs.images import open_image, resize_and_crop
from imagebind_jax.inputs.media import decoding

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)  # CLIP, of RGB in [0, 1]
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
RATIO = (3 / 4, 4 / 3)  # width / height of a random crop, torchvision's default

Box = tuple[int, int, int, int]


def image_input(
    image: Image.Image, size: int = 224, box: Box | None = None
) -> Float[np.ndarray, "size size 3"]:
    """Evaluation form of one image: short side to `size`, centre crop, CLIP mean and std.

    Bit-equal to torchvision's transforms on Pillow images. With `box` (left, top, right, bottom
    in pixels) that part of the image is stretched to the square instead. Any mode becomes RGB.
    """
    image = image.convert("RGB")
    if box is None:
        image = resize_and_crop(image, size)
    else:
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return (np.asarray(image, np.float32) / np.float32(255) - MEAN) / STD


def crop_box(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """A random box holding between scale[0] and scale[1] of the image's area.

    Its shape is drawn from `RATIO`, log-uniformly. An image too narrow for ten draws in a row is
    not cropped to nothing: its centre of the nearest allowed shape is taken.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = max(min(width, round(height * RATIO[1])), 1)
    h = max(min(height, round(width / RATIO[0])), 1)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def pick_frames(count: int, frames: int) -> list[int]:
    """Indices of `frames` frames spread over `count`, first and last included, cut to integers."""
    return np.linspace(0, count - 1, frames).astype(int).tolist()


@dataclasses.dataclass(frozen=True)
class Clip:
    """record["vision"]: one encoded image to [1, s, s, 3], a list of frames to [frames, s, s, 3].

    A list of another length gives `frames` of its frames, spread evenly; equal ones if it is
    shorter. With rng and `crop_scale`, the bounds on the share of the area that is kept, a random
    resized crop, the same for all frames. No flip: other modalities would have to flip along.
    """

    size: int = 224
    frames: int = 2
    crop_scale: tuple[float, float] | None = None

    def __post_init__(self):
        low, high = self.crop_scale or (1.0, 1.0)
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} is not (low, high) within (0, 1]")

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "frames size size 3"]:
        media = record["vision"]
        if isinstance(media, bytes):
            media = [media]
        else:
            with decoding("<no frames>"):
                media = [media[i] for i in pick_frames(len(media), self.frames)]
        box, output = None, []
        for source in media:
            image = open_image(source)
            if rng is not None and self.crop_scale is not None and box is None:
                box = crop_box(*image.size, self.crop_scale, rng)
            with decoding(source):
                output.append(image_input(image, self.size, box))
        return np.stack(output)
