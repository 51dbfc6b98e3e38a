"""Random choices of training: those that the modalities of one sample share, and each one's own."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError

if TYPE_CHECKING:  # Pillow is only needed once there is an image
    import PIL.Image

RATIO = (3 / 4, 4 / 3)  # width / height of a random crop, torchvision's default
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # torchvision's RandomErasing
JITTER = ("Brightness", "Contrast", "Color")
MAX_CROP_TRIES = 10  # of torchvision's crop and RandomErasing, before they give up

Box = tuple[float, float, float, float]  # left, top, right, bottom as parts of the image, in [0, 1]


class AugmentationParams(TypedDict, total=False):
    """Those that a view has made."""

    moment: float  # the centre of a clip, in seconds
    box: Box
    flip: float  # left and right are exchanged where the probability is above this
    operations: tuple[tuple[str, float], ...]


class SharedAugmentation:
    """What is drawn once for a sample and holds for all its modalities.

    The pipeline puts one into record["view"] of every training sample, so a transform need not
    know which modalities it goes with. A choice is made when it is first asked for (by the pair's
    first modality) and kept, so later ones follow it even where their sizes differ slightly.
    """

    def __init__(self, seed: int, made: AugmentationParams | None = None):
        """made: choices that another `SharedAugmentation` has `made`, to be followed."""
        self._seed = seed
        self.made: AugmentationParams = {**made} if made else {}

    def _rng(self, stream: int) -> np.random.Generator:
        """Each kind of choice has its own stream: none depends on which others are asked for."""
        return np.random.default_rng([self._seed, stream])

    def start(self, duration: float, seconds: float) -> float:
        """Where in a recording of `duration` seconds a clip of `seconds` starts.

        The first call draws a clip uniformly; later ones, with other durations and lengths, get
        the clip with the same centre, moved inwards where their recording ends earlier.
        """
        slack = max(duration - seconds, 0.0)
        if "moment" not in self.made:
            self.made["moment"] = slack * self._rng(0).random() + seconds / 2
        return float(np.clip(self.made["moment"] - seconds / 2, 0.0, slack))

    def box(self, width: int, height: int, scale: tuple[float, float]) -> Box:
        """The random crop that holds scale[0] to scale[1] of the area, as parts of the image.

        Drawn for the size of the first call, in whole pixels; later ones, whatever their size and
        scale, get the same region.
        """
        if "box" not in self.made:
            self.made["box"] = _crop(width, height, scale, self._rng(1))
        return self.made["box"]

    def flip(self, probability: float) -> bool:
        """Whether left and right are exchanged."""
        if "flip" not in self.made:
            self.made["flip"] = self._rng(2).random()
        return bool(self.made["flip"] < probability)

    def operations(
        self, count: int, magnitude: float, magnitude_std: float
    ) -> tuple[tuple[str, float], ...]:
        """(name, strength) of `rand_augment`'s operations, as the first call's numbers had it."""
        if "operations" not in self.made:
            from imagebind_jax.inputs.transforms import rand_augment

            drawn = rand_augment.sample_operations(self._rng(3), count, magnitude, magnitude_std)
            self.made["operations"] = drawn
        return self.made["operations"]


def shared_augmentation(record: Mapping[str, Any], rng: np.random.Generator) -> SharedAugmentation:
    """The record's shared view or, if modalities are not to be aligned, one of this one's own."""
    view = record.get("view")
    return view if view is not None else SharedAugmentation(int(rng.integers(2**63)))


@dataclasses.dataclass(frozen=True)
class SpatialAugmentation:
    """Random resized crop, flip, RandAugment, colour jitter and random erasing.

    Crop, flip and RandAugment are the sample's (`SharedAugmentation`), jitter and erasing each modality's own.
    The defaults are the SUN RGB-D and LLVIP columns of ImageBind's Table 9. Its "RandAugment 9 /
    0.5" is read as magnitude and its deviation, two operations of increasing severity (our
    inference: so the configuration of omnivore, by the same authors, has it, rand-m9-mstd0.5-inc1);
    its "ColorJitter 0.4" without hue, as one number means in timm, though omnivore has hue 0.4 too.
    Raises UserError on a value out of its range.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)  # bounds on the share of the area that is kept
    flip: float = 0.5  # probability of left and right exchanged
    operations: int = 2  # of RandAugment; 0: none
    magnitude: float = 9.0  # 0 to 10
    magnitude_std: float = 0.5
    jitter: float = 0.4  # factors of brightness, contrast and saturation are drawn from 1 +- this
    hue: float = 0.0  # a shift is drawn from +- this, in turns
    erase: float = 0.25  # probability of one rectangle erased

    def __post_init__(self):
        scale = self.crop_scale
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"crop_scale {scale} is not (low, high) within (0, 1]")
        if self.operations not in range(17):
            raise UserError(f"operations must be a whole number up to 16, got {self.operations}")
        most = {"flip": 1.0, "magnitude": 10.0, "magnitude_std": 10.0, "jitter": 1.0, "erase": 1.0}
        for name, bound in (most | {"hue": 0.5}).items():
            if not 0 <= getattr(self, name) <= bound:
                raise UserError(f"{name} must be from 0 to {bound}, got {getattr(self, name)}")

    def draw(
        self, view: SharedAugmentation, rng: np.random.Generator, width: int, height: int
    ) -> "SampledAugmentation":
        """All choices for one modality of a sample, whose first image has this size in pixels."""
        order, x = rng.permutation(4), (2 * rng.random(4) - 1).tolist()
        jitter = [(name, 1 + self.jitter * by) for name, by in zip(JITTER, x) if self.jitter]
        jitter += [("Hue", self.hue * x[3])] if self.hue else []
        return SampledAugmentation(
            box=view.box(width, height, self.crop_scale),
            flip=view.flip(self.flip),
            operations=view.operations(self.operations, self.magnitude, self.magnitude_std),
            jitter=tuple(jitter[i] for i in order if i < len(jitter)),
            erased=_rectangle(rng) if rng.random() < self.erase else None,
        )

    def shrink(self, view: SharedAugmentation, size: int) -> Callable[[int, int], int]:
        """How many times smaller an image of this width and height may be decoded.

        Its crop, which is drawn for that size, keeps `size` pixels a side.
        """

        def times(width: int, height: int) -> int:
            left, top, right, bottom = view.box(width, height, self.crop_scale)
            room = min((right - left) * width, (bottom - top) * height)
            return max(int(room / size), 1)

        return times


# ImageBind's Table 9 (arXiv:2305.05665): columns SUN RGB-D and LLVIP, and AudioSet and Ego4D.
IMAGES = SpatialAugmentation()
VIDEO = SpatialAugmentation(flip=0.0, operations=0, jitter=0.0, erase=0.0)


@dataclasses.dataclass(frozen=True)
class SampledAugmentation:
    """What `SpatialAugmentation.draw` chose: the same for all frames of a clip."""

    box: Box
    flip: bool
    operations: tuple[tuple[str, float], ...]
    jitter: tuple[tuple[str, float], ...]
    erased: Box | None

    def pixels(self, image: "PIL.Image.Image", size: int) -> "PIL.Image.Image":
        """The image cropped and resized to `size` x `size` (bilinear, antialiased), and augmented.

        Modes "L" and "F" get the crop, the flip and the geometric operations; any other becomes
        RGB and gets the colour operations and the jitter too.
        """
        from PIL import Image

        from imagebind_jax.inputs.decoders import images
        from imagebind_jax.inputs.transforms import rand_augment

        if image.mode not in ("RGB", "L", "F"):
            image = images.to_rgb(image)
        # Rounded, so that what was drawn in whole pixels is whole again. Cut out before resizing,
        # or else the filter would reach over the edges of the box.
        left, right = (round(x * image.width, 6) for x in self.box[::2])
        top, bottom = (round(y * image.height, 6) for y in self.box[1::2])
        x, y = math.floor(left), math.floor(top)
        image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
        box = (left - x, top - y, right - x, bottom - y)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return rand_augment.apply_operations(image, self.operations + self.jitter)

    def erase(
        self, array: Float[np.ndarray, "*frames h w c"], value: Any = 0.0
    ) -> Float[np.ndarray, "*frames h w c"]:
        """The array with the drawn rectangle set to `value` (a number, or one a channel), a copy.

        0 after normalisation is the mean. omnivore's configuration erases to black before it: that
        is `-mean / std`.
        """
        if self.erased is None:
            return array
        height, width = array.shape[-3:-1]
        left, top, right, bottom = self.erased
        rows = slice(round(top * height), round(bottom * height))
        array = array.copy()
        array[..., rows, round(left * width) : round(right * width), :] = value
        return array


def _crop(width: int, height: int, scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """torchvision's RandomResizedCrop: area uniform in `scale`, shape log-uniform in `RATIO`.

    An image too narrow for ten draws in a row is not cropped to nothing: its centre of the nearest
    allowed shape is taken.
    """
    for _ in range(MAX_CROP_TRIES):
        w, h = (round(side) for side in _sides(rng, scale, RATIO, float(width * height)))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.random() * (width - w + 1)), int(rng.random() * (height - h + 1))
            break
    else:
        w = max(min(width, round(height * RATIO[1])), 1)
        h = max(min(height, round(width / RATIO[0])), 1)
        left, top = (width - w) // 2, (height - h) // 2
    return left / width, top / height, (left + w) / width, (top + h) / height


def _rectangle(rng: np.random.Generator) -> Box | None:
    """torchvision's RandomErasing, of a unit square; none if ten draws in a row do not fit."""
    for _ in range(MAX_CROP_TRIES):
        w, h = _sides(rng, ERASED_AREA, ERASED_RATIO, 1.0)
        if w < 1 and h < 1:
            left, top = rng.random() * (1 - w), rng.random() * (1 - h)
            return left, top, left + w, top + h
    return None


def _sides(
    rng: np.random.Generator, share: tuple[float, float], ratio: tuple[float, float], area: float
) -> tuple[float, float]:
    """Width and height of a random rectangle with a share of the area."""
    area = area * (share[0] + (share[1] - share[0]) * rng.random())
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = math.exp(low + (high - low) * rng.random())
    return math.sqrt(area * shape), math.sqrt(area / shape)
