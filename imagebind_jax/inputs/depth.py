"""Depth: a 16-bit depth map to the normalised disparity map of ImageBind's depth encoder."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from imagebind_jax.inputs.images import open_image, resize_and_crop, with_channel
from imagebind_jax.inputs.media import Source, decoding

# facebookresearch/omnivore, predict.py and issue 12: the recipe that ImageBind's authors point to.
OMNIVORE_RANGE = (0.01, 75.0)
OMNIVORE_MEAN, OMNIVORE_STD = 0.0418, 0.0295  # after division by 75
# facebookresearch/ImageBind, issue 134: mean, std of disparity in pixels, largest depth in metres.
SUN_METRIC = {"mean": 24.82, "std": 14.40, "max_depth": 8.0}
NYU_METRIC = {"mean": 17.2064, "std": 8.6108, "max_depth": 10.0}


def disparity(
    depth_m: Float[np.ndarray, "*shape"], focal_length: float, baseline: float
) -> Float[np.ndarray, "*shape"]:
    """Disparity in pixels of a stereo pair: focal_length [pixels] * baseline [m] / depth [m].

    Where there is no depth (0, negative, NaN, infinite) the disparity is 0: infinitely far.
    """
    depth_m = np.asarray(depth_m, np.float32)
    valid = np.isfinite(depth_m) & (depth_m > 0)
    numerator = np.float32(focal_length * baseline)
    return np.divide(numerator, depth_m, out=np.zeros_like(depth_m), where=valid)


def normalise(
    disparity: Float[np.ndarray, "*shape"],
    normalisation: str = "omnivore",
    mean: float | None = None,
    std: float | None = None,
) -> Float[np.ndarray, "*shape"]:
    """Disparity to what the encoder was trained on, by one of the two recipes on record.

    "omnivore": clamp to [0.01, 75], divide by 75, then mean 0.0418 and std 0.0295 unless given.
    These numbers were taken from SUN RGB-D's PNGs without undoing their rotation by three bits,
    so (our inference) from disparities 8 times too small: true millimetres want "metric".
    "metric": (disparity - mean) / std, in pixels and per dataset: `SUN_METRIC`, `NYU_METRIC`.
    Neither was confirmed by ImageBind's authors for ImageBind itself.
    """
    if normalisation == "omnivore":
        low, high = OMNIVORE_RANGE
        disparity = np.clip(disparity, low, high) / np.float32(high)
        mean = OMNIVORE_MEAN if mean is None else mean
        std = OMNIVORE_STD if std is None else std
    elif normalisation != "metric":
        raise ValueError(f'normalisation {normalisation!r} is neither "omnivore" nor "metric"')
    if mean is None or std is None or not std > 0:
        raise ValueError(f'normalisation "metric" needs mean and std > 0, got {mean} and {std}')
    return (disparity - np.float32(mean)) / np.float32(std)


def depth_input(
    depth_m: Float[np.ndarray, "height width"],
    focal_length: float,
    baseline: float,
    size: int = 224,
    normalisation: str = "omnivore",
    mean: float | None = None,
    std: float | None = None,
) -> Float[np.ndarray, "size size 1"]:
    """Depth in metres to the encoder's input: disparity, short side to `size`, centre crop.

    Disparity and not depth is resized, in float and bicubic. `focal_length` is in pixels of the
    given map and does not shrink with it: the statistics were taken that way.
    """
    image = Image.fromarray(disparity(depth_m, focal_length, baseline))  # mode "F"
    return normalise(with_channel(resize_and_crop(image, size)), normalisation, mean, std)


def read_depth(source: Source) -> Float[np.ndarray, "height width"]:
    """A 16-bit image in millimetres as depth in metres, 0 where there is none."""
    image = open_image(source)
    with decoding(source):
        if not image.mode.startswith("I"):
            raise ValueError(f"mode {image.mode} is not a 16-bit depth map in millimetres")
        return np.asarray(image).astype(np.float32) / np.float32(1000)


@dataclasses.dataclass(frozen=True)
class Disparity:
    """record["depth"] with "focal_length" and "baseline" to [size, size, 1].

    `max_depth` in metres brings farther points nearer before the division, as the "metric" recipe
    does: `Disparity(normalisation="metric", **SUN_METRIC)`. rng is not used: a crop has to be that
    of the image, so it belongs to the pair.
    """

    size: int = 224
    normalisation: str = "omnivore"
    mean: float | None = None
    std: float | None = None
    max_depth: float | None = None

    def __post_init__(self):
        normalise(np.zeros(0, np.float32), self.normalisation, self.mean, self.std)

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "size size 1"]:
        source = record["depth"]
        depth_m = np.minimum(read_depth(source), self.max_depth or np.inf)
        with decoding(source):
            return depth_input(
                depth_m,
                float(record["focal_length"]),
                float(record["baseline"]),
                self.size,
                self.normalisation,
                self.mean,
                self.std,
            )
