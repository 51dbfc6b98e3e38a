"""RandAugment's operations: what is drawn, how strong a level is, and what it does to an image."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

# Cubuk et al. 2019 (arXiv:1909.13719) without its identity, and with timm's Invert and SolarizeAdd.
COLOUR = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
)
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
OPERATIONS = COLOUR + GEOMETRIC
PROBABILITY = 0.5  # of each drawn operation to be applied at all: timm's, the papers have 1
MAX_LEVEL = 10.0
GREY = (128, 128, 128)  # what comes into a colour image from outside

Operation = tuple[str, float]  # name, strength


def sample_operations(
    rng: np.random.Generator, count: int, magnitude: float, magnitude_std: float
) -> tuple[Operation, ...]:
    """`count` operations, drawn with replacement, less those that are left out by `PROBABILITY`.

    The level is normal around `magnitude` and cut to [0, 10]; `level_to_magnitude` says what it means.
    """
    drawn = []
    for _ in range(count):
        # Always the same number of draws, so that an operation does not shift the next one's.
        chosen, kept, sign = rng.random(3)
        level = min(max(magnitude + magnitude_std * rng.standard_normal(), 0.0), MAX_LEVEL)
        name = OPERATIONS[int(chosen * len(OPERATIONS))]
        if kept < PROBABILITY:
            drawn.append((name, level_to_magnitude(name, level, 1.0 if sign < 0.5 else -1.0)))
    return tuple(drawn)


def level_to_magnitude(name: str, level: float, sign: float = 1.0) -> float:
    """What `level` 0 to 10 means: all grow with it ("increasing severity", timm's inc1).

    Rotate: up to 30 degrees; Shear: 0.3; Translate: 0.45 of the side; all of either sign.
    Color, Contrast, Brightness, Sharpness: the factor 1 +- 0.9. Posterize: 4 to 1 bits are kept.
    Solarize: values from a threshold, 256 to 0, are inverted. SolarizeAdd: up to 110 is added to
    values below 128. The others have none: 0.
    """
    share = level / MAX_LEVEL
    if name == "Rotate":
        return sign * 30.0 * share
    if name.startswith("Shear"):
        return sign * 0.3 * share
    if name.startswith("Translate"):
        return sign * 0.45 * share
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return 1.0 + sign * 0.9 * share
    if name == "Posterize":
        return float(max(4 - int(4 * share), 1))
    if name == "Solarize":
        return float(256 - int(256 * share))
    if name == "SolarizeAdd":
        return float(int(110 * share))
    return 0.0


def apply_operations(image: Image.Image, operations: tuple[Operation, ...]) -> Image.Image:
    """One after the other. An image that is not RGB gets the geometric ones only."""
    for name, value in operations:
        if name in GEOMETRIC:
            image = apply_geometric(image, name, value)
        elif image.mode == "RGB":
            image = apply_color(image, name, value)
    return image


def apply_geometric(image: Image.Image, name: str, value: float) -> Image.Image:
    """A geometric operation, bilinear. From outside comes grey, or 0: disparity of the far, cold."""
    fill = GREY if image.mode == "RGB" else 0
    if name == "Rotate":  # about the centre, counter-clockwise
        return image.rotate(value, Image.Resampling.BILINEAR, fillcolor=fill)
    matrix = {
        "ShearX": (1.0, value, 0.0, 0.0, 1.0, 0.0),
        "ShearY": (1.0, 0.0, 0.0, value, 1.0, 0.0),
        "TranslateX": (1.0, 0.0, value * image.width, 0.0, 1.0, 0.0),
        "TranslateY": (1.0, 0.0, 0.0, 0.0, 1.0, value * image.height),
    }[name]
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )


def apply_color(image: Image.Image, name: str, value: float) -> Image.Image:
    """A colour operation on an RGB image; beside RandAugment's, "Hue": a shift in turns.

    Bit-equal to Pillow's `ImageOps` and `ImageEnhance`, which timm and torchvision use.
    """
    if name == "AutoContrast":
        return ImageOps.autocontrast(image)
    if name == "Equalize":
        return ImageOps.equalize(image)
    if name == "Color":
        return Image.blend(image.convert("L").convert("RGB"), image, value)
    if name == "Hue":
        hue, saturation, value_ = image.convert("HSV").split()
        hue = hue.point([(v + round(value * 255)) % 256 for v in range(256)])
        return Image.merge("HSV", (hue, saturation, value_)).convert("RGB")
    if name == "Sharpness":
        return ImageEnhance.Sharpness(image).enhance(value)
    return image.point(_table(image, name, value) * 3)


def _table(image: Image.Image, name: str, value: float) -> list[int]:
    """What becomes of the values 0 to 255 under the operations that are the same for all pixels."""
    ramp = range(256)
    if name == "Invert":
        return [255 - v for v in ramp]
    if name == "Posterize":
        mask = 256 - (1 << (8 - int(value)))
        return [v & mask for v in ramp]
    if name == "Solarize":
        return [v if v < value else 255 - v for v in ramp]
    if name == "SolarizeAdd":
        return [min(v + int(value), 255) if v < 128 else v for v in ramp]
    grey = 0.0
    if name == "Contrast":
        counts = image.convert("L").histogram()
        grey = int(np.dot(counts, ramp) / sum(counts) + 0.5)
    elif name != "Brightness":
        raise ValueError(f"no operation {name!r}: there are {', '.join(OPERATIONS)}")
    table = np.float32(grey) + np.float32(value) * (np.arange(256, dtype=np.float32) - grey)
    return np.clip(table, 0, 255).astype(int).tolist()
