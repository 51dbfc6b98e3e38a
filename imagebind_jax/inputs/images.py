"""Encoded images to Pillow's: opened within limits, brought to a square."""

import numpy as np
from PIL import Image

from imagebind_jax.inputs.media import MediaError, Source, decoding, name, open_source

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # no EPS: Pillow would start Ghostscript
MAX_PIXELS = 64_000_000


def open_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes the first frame of an image in one of `FORMATS`, in its own mode.

    EXIF orientation is not applied, as in the reference. The size is checked before any pixel is
    decoded: more than `max_pixels`, like every other defect, is a `MediaError`.
    """
    with decoding(source), open_source(source) as file:
        image = Image.open(file, formats=FORMATS)
        if image.width * image.height > max_pixels:
            reason = f"{image.width} x {image.height} pixels are more than {max_pixels}"
            raise MediaError(name(source), reason)
        image.load()
        return image


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size` (bicubic, antialiased), then the centre `size` x `size`.

    The arithmetic is torchvision's `Resize` and `CenterCrop` on Pillow images, bit for bit: the
    long side is cut to an integer, the offset rounds half to even. Any Pillow mode, also "F".
    """
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if width == height:
        return image
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def with_channel(image: Image.Image) -> np.ndarray:
    """A one-channel image as float32 [height, width, 1], values as they are."""
    return np.asarray(image, np.float32)[..., None]
