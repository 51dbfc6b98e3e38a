"""The contestants of the image rows of inputs.py."""

import io
import itertools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from imagebind_jax.inputs.transforms import augment, vision

Call = Callable[[], object]


def jpeg(width: int, height: int) -> bytes:
    """A smooth picture with grain, quality 90: about 0.4 bytes a pixel."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize((width, height))
    grain = rng.normal(0, 12, (height, width, 3))
    encoded = io.BytesIO()
    grainy = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    Image.fromarray(grainy).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def augmented(width: int, height: int) -> Callable[[], tuple[Call, Call]]:
    """The full recipe against the same choices carried out by Pillow's functions one by one."""

    def make() -> tuple[Call, Call]:
        encoded, transform = jpeg(width, height), vision.FramesTransform(augment=augment.IMAGES)

        def ours(seed: int) -> np.ndarray:
            record = {"vision": encoded, "view": augment.SharedAugmentation(seed)}
            return transform(record, np.random.default_rng(seed))[0]

        def plain(seed: int) -> np.ndarray:
            image = Image.open(io.BytesIO(encoded)).convert("RGB")
            view, rng = augment.SharedAugmentation(seed), np.random.default_rng(seed)
            drawn = augment.IMAGES.draw(view, rng, *image.size)
            corners = [round(part * side) for part, side in zip(drawn.box, image.size * 2)]
            image = image.crop(corners).resize((224, 224), Image.Resampling.BILINEAR)
            image = ImageOps.mirror(image) if drawn.flip else image
            for name, strength in drawn.operations + drawn.jitter:
                image = by_one(image, name, strength)
            pixels = np.asarray(image, np.float32) / np.float32(255)
            return drawn.erase((pixels - vision.MEAN) / vision.STD)

        # Eight samples in turn, whose operations cost what they cost on average.
        mine, theirs = (itertools.cycle(range(8)) for _ in range(2))
        assert width > 500 or all(np.array_equal(ours(seed), plain(seed)) for seed in range(100))
        return lambda: ours(next(mine)), lambda: plain(next(theirs))

    return make


def by_one(image: Image.Image, name: str, value: float) -> Image.Image:
    """One operation as Pillow's documentation would have it done."""
    matrices = {
        "ShearX": (1, value, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, value, 1, 0),
        "TranslateX": (1, 0, value * image.width, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, value * image.height),
    }
    around = {"resample": Image.Resampling.BILINEAR, "fillcolor": (128, 128, 128)}
    if name in matrices:
        return image.transform(image.size, Image.Transform.AFFINE, matrices[name], **around)
    if name == "Rotate":
        return image.rotate(value, **around)
    if name == "SolarizeAdd":
        return image.point([min(v + int(value) * (v < 128), 255) for v in range(256)] * 3)
    if name in ("Posterize", "Solarize"):
        return getattr(ImageOps, name.lower())(image, int(value))
    if name in ("AutoContrast", "Equalize", "Invert"):
        return getattr(ImageOps, name.lower())(image)
    return getattr(ImageEnhance, name)(image).enhance(value)


def evaluated(width: int, height: int) -> Callable[[], tuple[Call, None]]:
    def make() -> tuple[Call, None]:
        record = {"vision": jpeg(width, height)}
        return lambda: vision.FramesTransform()(record, None), None

    return make
