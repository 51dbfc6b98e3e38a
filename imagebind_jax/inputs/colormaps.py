"""Colours for what has none: values in [0, 1] as pictures."""

import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


def _between(*anchors: str) -> UInt8[np.ndarray, "256 3"]:
    """256 colours, linear between hexadecimal anchors at equal distances."""
    rgb = np.array([list(bytes.fromhex(anchor)) for anchor in anchors])
    at, levels = np.linspace(0, 255, len(anchors)), np.arange(256)
    return np.stack([np.interp(levels, at, part) for part in rgb.T], axis=-1).astype(np.uint8)


# Anchors of the maps of these names by Stefan van der Walt and Nathaniel Smith (CC0).
VIRIDIS = _between("440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "addc30", "fde725")
INFERNO = _between("000004", "210c4a", "57106e", "8a226a", "bc3754", "e45a31", "f98e09", "fcffa4")
MAGMA = _between("000004", "1d1147", "51127c", "832681", "b73779", "e75263", "fc8961", "fcfdbf")


def apply_colormap(
    level: Float[np.ndarray, "height width"], colours: UInt8[np.ndarray, "256 3"]
) -> Image.Image:
    """Values in [0, 1], those outside clipped, as an image with a palette."""
    image = Image.fromarray(np.round(255 * np.clip(level, 0, 1)).astype(np.uint8))
    image.putpalette(colours.tobytes())
    return image


def encode_png(image: Image.Image) -> bytes:
    """The image as a small file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
