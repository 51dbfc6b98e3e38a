"""Depth in metres to the normalised disparity map of ImageBind's depth encoder."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.depth_files import FILE_ENCODINGS, read_depth
from imagebind_jax.inputs.decoders.images import resize_and_crop, to_float_channel
from imagebind_jax.inputs.decoders.media import first_field, positive_field, wrap_decode_errors
from imagebind_jax.inputs.transforms.augment import SpatialAugmentation, shared_augmentation
from imagebind_jax.inputs.transforms.rand_augment import GEOMETRIC
from imagebind_jax.inputs.transforms.validation import check_finite, check_int, check_positive

# facebookresearch/omnivore, predict.py and issue 12: the recipe that ImageBind's authors point to.
OMNIVORE_RANGE = (0.01, 75.0)
OMNIVORE_MEAN, OMNIVORE_STD = 0.0418, 0.0295  # after division by 75
# facebookresearch/ImageBind, issue 134: mean, std of disparity in pixels, largest depth in metres.
SUN_METRIC = {"mean": 24.82, "std": 14.40, "max_depth": 8.0}
NYU_METRIC = {"mean": 17.2064, "std": 8.6108, "max_depth": 10.0}

# Metres between the lenses, of each sensor of SUN RGB-D: facebookresearch/omnivore, issue 12. That
# of xtion was guessed there, from the device's 18 cm.
BASELINES = {"kv1": 0.075, "kv1_b": 0.075, "kv2": 0.075, "realsense": 0.095, "xtion": 0.095}
NYU_CAMERA = {
    "focal_length": 518.857901,
    "baseline": 0.075,
}  # facebookresearch/ImageBind, issue 107

MISSING_CAMERA = 'normalisation {!r} is neither "omnivore" nor "metric"'
MAX_DISPARITY = 1e9  # pixels: beyond any sensor; larger ones would overflow where they are resized

REMEDIES = {
    "focal_length": "in pixels of this map: depth.focal_length reads SUN RGB-D's intrinsics.txt, "
    f"NYU v2 has {NYU_CAMERA['focal_length']}",
    "baseline": "in metres: depth.BASELINES has those of SUN RGB-D's sensors, "
    f"NYU v2 has {NYU_CAMERA['baseline']}",
}


def focal_length(intrinsics: str) -> float:
    """The first number of the text of a SUN RGB-D intrinsics.txt, in pixels. Raises `MediaError`."""
    with wrap_decode_errors("intrinsics.txt"):
        first = float(intrinsics[:1000].split(maxsplit=1)[0])
        if not (math.isfinite(first) and first > 0):
            raise ValueError(f"a focal length of {first} pixels is not positive")
        return first


def disparity(
    depth_m: Float[np.ndarray, "*shape"], focal_length: float, baseline: float
) -> Float[np.ndarray, "*shape"]:
    """Disparity in pixels of a stereo pair: focal_length [pixels] * baseline [m] / depth [m].

    Where there is no depth (0, negative, NaN, infinite) the disparity is 0: infinitely far.
    """
    depth_m = np.asarray(depth_m, np.float32)
    valid = np.isfinite(depth_m) & (depth_m > 0)
    with np.errstate(over="ignore"):
        numerator = np.float32(focal_length * baseline)
        found = np.divide(numerator, depth_m, out=np.zeros_like(depth_m), where=valid)
    return np.minimum(found, np.float32(MAX_DISPARITY))


def normalise(
    disparity: Float[np.ndarray, "*shape"],
    normalisation: str,
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
        raise UserError(MISSING_CAMERA.format(normalisation))
    if mean is None or std is None or not std > 0:
        raise UserError(f'normalisation "metric" needs mean and std > 0, got {mean} and {std}')
    return (disparity - np.float32(mean)) / np.float32(std)


def resize_disparity(
    disparity: Float[np.ndarray, "height width"],
    square: Callable[[Image.Image], Image.Image],
    moved: bool = False,
) -> Float[np.ndarray, "size size 1"]:
    """Disparity, and not depth, resized in float by `square`, which maps an image of mode "F" to another.

    Where pixels have no depth (disparity 0), an output pixel is the weighted mean of those that
    have one, if they make up at least half of its weight, and else 0: a filter across the edge of
    a hole would invent surfaces in between, and bicubic even ring below 0. Without holes nothing
    but `square` happens, unless it is `moved`: a second operation would meet the places from
    outside that the first one brought in. Raises ValueError if no pixel has a depth.
    """
    known = disparity > 0
    if not known.any():
        raise ValueError("no pixel has a depth: all are 0, negative, NaN or infinite")
    output = to_float_channel(square(Image.fromarray(disparity)))
    if known.all() and not moved:
        return output
    share = to_float_channel(square(Image.fromarray(known.astype(np.float32))))
    mean = np.clip(output / np.maximum(share, 0.5), disparity[known].min(), disparity.max())
    return np.where(share >= 0.5, mean, np.float32(0))


@dataclasses.dataclass(frozen=True)
class Disparity:
    """record["depth"] with "focal_length" and "baseline" to [size, size, 1].

    `reading` says what the file's numbers are, as in `depth_files.read_depth`. `max_depth` in metres
    brings farther points nearer before the division. Without `mean` and `std` the settings are those
    of `nyu`, whose `max_depth` is 10 unless another is given; `sun_toolbox` and `sun_omnivore` are
    others that go together. omnivore's numbers belong to "sun_raw" and no true metres: with another
    pairing `mean` and `std` have to be given, too. focal_length is in pixels of the given map and
    does not shrink with it: the statistics were taken that way.

    Short side to `size` and centre crop, as `resize_disparity` describes; with rng and `augment` the crop,
    flip and geometric operations that the sample's image gets, too. Raises `MediaError`; UserError
    for settings that do not go together.
    """

    size: int = 224
    normalisation: str = "metric"
    mean: float | None = None
    std: float | None = None
    max_depth: float | None = None
    reading: str = "auto"
    augment: SpatialAugmentation | None = None

    def __post_init__(self):
        check_int(size=self.size)
        numbers = {"mean": self.mean, "std": self.std, "max_depth": self.max_depth}
        given = {name: value for name, value in numbers.items() if value is not None}
        check_finite(**given)
        check_positive(**{name: value for name, value in given.items() if name != "mean"})
        if self.reading not in FILE_ENCODINGS:
            raise UserError(f"reading {self.reading!r} is none of {', '.join(FILE_ENCODINGS)}")
        if self.normalisation not in ("omnivore", "metric"):
            raise UserError(MISSING_CAMERA.format(self.normalisation))
        if self.mean is None and self.std is None:
            if (self.reading == "sun_raw") != (self.normalisation == "omnivore"):
                raise UserError(
                    f"reading {self.reading!r} does not go with normalisation "
                    f"{self.normalisation!r}: omnivore's numbers are of SUN's raw values, 8 times "
                    "true metres. Take Disparity.nyu(), .sun_toolbox() or .sun_omnivore(), or give "
                    "mean and std"
                )
            if self.normalisation == "metric":
                for name, value in (NYU_METRIC | given).items():
                    object.__setattr__(self, name, value)  # as frozen dataclasses do it
        elif self.normalisation == "metric" and (self.mean is None or self.std is None):
            raise UserError(f"give both mean and std, or neither: got {self.mean} and {self.std}")

    @classmethod
    def sun_toolbox(cls, **settings) -> "Disparity":
        """SUN RGB-D's PNGs in true metres up to 8, standardised by their own statistics.

        facebookresearch/ImageBind, issue 134: reported to reach the paper's accuracy on SUN-D.
        """
        return cls(
            **{"reading": "sun_shifted", "normalisation": "metric", **SUN_METRIC, **settings}
        )

    @classmethod
    def sun_omnivore(cls, **settings) -> "Disparity":
        """SUN RGB-D's PNGs as omnivore reads and normalises them, by the authors of ImageBind.

        facebookresearch/omnivore, issue 12, except that a pixel without depth stays without; the
        in-filled maps (depth_bfx) have none. Nearly the same map as `sun_toolbox`'s.
        """
        return cls(**{"reading": "sun_raw", "normalisation": "omnivore", **settings})

    @classmethod
    def nyu(cls, **settings) -> "Disparity":
        """NYU Depth v2 in millimetres or float metres up to 10, standardised by its own statistics.

        facebookresearch/ImageBind, issue 134. For NYU's frames as SUN RGB-D stores them add
        `reading="sun_shifted"`.
        """
        return cls(**{"normalisation": "metric", **NYU_METRIC, **settings})

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator | None
    ) -> Float[np.ndarray, "size size 1"]:
        source = first_field(record, "depth")
        focal_length, baseline = (
            positive_field(record, name, f"disparity needs it, {remedy}")
            for name, remedy in REMEDIES.items()
        )
        depth_m = read_depth(source, self.reading)
        with wrap_decode_errors(source):
            depth_m = np.minimum(depth_m, self.max_depth or np.inf)
            disparities = disparity(depth_m, focal_length, baseline)
            if rng is None or self.augment is None:
                output = resize_disparity(
                    disparities, lambda image: resize_and_crop(image, self.size)
                )
                return normalise(output, self.normalisation, self.mean, self.std)
            height, width = disparities.shape
            drawn = self.augment.draw(shared_augmentation(record, rng), rng, width, height)
            moved = any(name in GEOMETRIC for name, _ in drawn.operations)
            output = resize_disparity(
                disparities, lambda image: drawn.pixels(image, self.size), moved
            )
            return drawn.erase(normalise(output, self.normalisation, self.mean, self.std))
