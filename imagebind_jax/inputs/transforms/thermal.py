"""Thermal: an infrared image, 8-bit or of temperatures, to one channel in [0, 1]."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.images import open_image, resize_and_crop, to_float_channel
from imagebind_jax.inputs.decoders.media import Source, first_field, open_media, wrap_decode_errors
from imagebind_jax.inputs.transforms.augment import SpatialAugmentation, shared_augmentation
from imagebind_jax.inputs.transforms.validation import check_finite, check_int

BITS_PER_SAMPLE = 258  # TIFF's tag

# How a file's numbers become degrees Celsius: name -> (degrees a count, degrees at 0).
SCALES = {
    "kelvin*100": (0.01, -273.15),  # FLIR Duo, Lepton, A series at 10 mK
    "kelvin*10": (0.1, -273.15),  # FLIR A series at 100 mK
    "kelvin*25": (0.04, -273.15),  # Duo Pro R (User Guide 6.2.2), Vue Pro R, Tau 2: high resolution
    "kelvin*2.5": (0.4, -273.15),  # the same at low resolution
    "kelvin": (1.0, -273.15),
    "celsius": (1.0, 0.0),
    "counts": (1.0, 0.0),  # no degrees: `low` and `high` are counts as well
}


def thermal_input(image: Image.Image, size: int = 224) -> Float[np.ndarray, "size size 1"]:
    """Short side to `size` (bicubic), centre crop, 8-bit levels to [0, 1], and nothing else.

    No mean and std: LLVIP accuracy was measured as 62.4 without and 55.2 with them
    (facebookresearch/ImageBind, pull request 73; the paper has 63.4). Colour becomes luma, also
    where it is a palette of false colours: such cameras can save grey.
    """
    return _fractions(resize_and_crop(image.convert("L"), size))


def scale_to_unit(
    counts: Float[np.ndarray, "height width"], scale: str, low: float, high: float
) -> Float[np.ndarray, "height width"]:
    """A file's numbers to [0, 1]: `low` and below, by `SCALES` in degrees, is 0, `high` and above 1.

    Raises ValueError if one of them is not finite.
    """
    if not np.isfinite([counts.min(), counts.max()]).all():
        raise ValueError("some temperatures are not finite")
    slope, offset = SCALES[scale]
    bottom, top = ((degrees - offset) / slope for degrees in (low, high))  # in counts
    fractions = counts - np.float32(bottom)
    fractions /= np.float32(top - bottom)
    return np.clip(fractions, 0, 1, out=fractions)


@dataclasses.dataclass(frozen=True)
class Thermal:
    """record["thermal"], an encoded image, to [size, size, 1] in [0, 1].

    8 bits are divided by 255: the camera chose their range. More bits, and floats, are temperatures
    on one of `SCALES`, of which [low, high] in degrees Celsius becomes [0, 1], the same for every
    image: `Thermal(scale="kelvin*100", low=0.0, high=50.0)`. There is no default, as the extremes
    of each image would make its hottest spot white, be it a hand or a furnace; without a range
    such a file is a `MediaError`, as are an 8-bit one with it and 16-bit colour. With rng and
    `augment` the sample's random crop and so on, of which the geometry only.
    """

    size: int = 224
    low: float | None = None
    high: float | None = None
    scale: str | None = None
    augment: SpatialAugmentation | None = None

    def __post_init__(self):
        check_int(size=self.size)
        low, high, scale = self.low, self.high, self.scale
        if low is None and high is None and scale is None:
            return
        if low is None or high is None or scale is None:
            raise UserError("Thermal needs all of low, high and scale, or none of them")
        if scale not in SCALES:
            raise UserError(f"scale {scale!r} is not one of {', '.join(SCALES)}")
        check_finite(low=low, high=high)
        if not low < high:
            raise UserError(f"low {low} is not below high {high}")

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "size size 1"]:
        source = first_field(record, "thermal")
        view = None
        shrink: int | Callable[[int, int], int] = 1
        if rng is not None and self.augment is not None:
            view = shared_augmentation(record, rng)
            shrink = self.augment.shrink(view, self.size)
        image = open_image(source, shrink=shrink)
        with wrap_decode_errors(source):
            _check_colour(source, image)
            if image.mode.startswith(("I", "F")):
                if self.low is None or self.high is None or self.scale is None:
                    remedy = 'Thermal(scale="kelvin*100", low=0.0, high=50.0), say, maps them'
                    raise ValueError(f"mode {image.mode} holds temperatures: {remedy} to [0, 1]")
                counts = np.asarray(image, np.float32)
                del image  # with 64 megapixels each copy counts
                image = Image.fromarray(scale_to_unit(counts, self.scale, self.low, self.high))
            elif self.scale is not None:
                raise ValueError(f"8 bits (mode {image.mode}) hold no {self.scale!r}")
            else:
                image = image.convert("L")
            if view is None or rng is None or self.augment is None:
                return _fractions(resize_and_crop(image, self.size))
            drawn = self.augment.draw(view, rng, *image.size)
            return drawn.erase(_fractions(drawn.pixels(image, self.size)))


def _check_colour(source: Source, image: Image.Image) -> None:
    """Refuses colour, or grey with alpha, of 16 bits: Pillow would drop the low 8 without a word."""
    with open_media(source) as file:
        head = file.read(26)
    png = head[:4] == b"\x89PNG" and head[24] == 16
    tiff = max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))) > 8
    if (png or tiff) and not image.mode.startswith(("I", "F")):
        raise ValueError("16 bits in colour or with alpha: save it as 16-bit grey")


def _fractions(image: Image.Image) -> Float[np.ndarray, "height width 1"]:
    if image.mode == "L":
        return to_float_channel(image) / np.float32(255)
    return np.clip(to_float_channel(image), 0, 1)  # bicubic overshoots at edges
