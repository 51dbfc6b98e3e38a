"""Encoded images to Pillow's: opened within limits, upright, of 8-bit colour, brought to a square."""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Callable

import numpy as np
from PIL import Image

from imagebind_jax.inputs.decoders.media import (
    MEDIA_TYPE_LABELS,
    MediaError,
    Source,
    open_media,
    sniff_media_type,
    source_name,
    wrap_decode_errors,
)

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # no EPS: Pillow would start Ghostscript
MAX_PIXELS = 64_000_000
MAX_FILE = 512 << 20  # bytes; 64 megapixels of 16-bit RGBA have 512 MB, and WebP is read at once
MAX_SCANNED = 16 * MAX_PIXELS  # pixels times scans of a JPEG: about a second and a half
MAX_JPEG = 256 << 20  # bytes; 64 megapixels of noise at quality 100 have 200 MB
MAX_RATIO = 256  # of an image's sides where it is resized: 1 x 60,000,000 would become 10^10 pixels
ORIENTATION = 0x0112  # EXIF's tag: how the stored picture has to be turned to be upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's warnings are of damaged or odd metadata and name no file: pixels are good or an error.
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(
    source: Source,
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
    shrink: int | Callable[[int, int], int] = 1,
) -> Image.Image:
    """Decodes the first frame of an image in one of `FORMATS`, in its own mode.

    It is turned upright as its EXIF orientation says; the reference ignores that and sees phones'
    pictures on their side, as `upright=False` does (save for TIFF, which Pillow itself turns). A
    JPEG may come out at 1/2, 1/4 or 1/8 of its size, but no less than 1/`shrink`: much faster, with
    slightly other pixels, so for training only; a function says how much by the upright image's
    width and height. The size is checked before any pixel is decoded. A truncated file, like every
    other defect, is a `MediaError`.
    """
    with wrap_decode_errors(source), open_media(source) as file:
        image = _opened(source, file)
        pixels = image.width * image.height
        if pixels > max_pixels:
            reason = f"{image.width} x {image.height} pixels are more than {max_pixels}"
            raise MediaError(source_name(source), reason)
        check_aspect_ratio(*image.size)
        if image.format in ("JPEG", "MPO"):
            _check_scans(file, pixels)
            if callable(shrink):
                shrink = shrink(*_upright_size(image))
            if shrink > 1:
                image.draft(None, (image.width // shrink, image.height // shrink))
        image.load()
        turn = TURNS.get(_orientation(image))
        if not upright or turn is None:
            return image
        turned = image.transpose(turn)
        turned.format = image.format
        return turned


def image_size(source: Source) -> tuple[int, int]:
    """Width and height in pixels of the upright image, without decoding it. Raises `MediaError`.

    Of a PNG whose EXIF comes after its pixels, which is rare: as it is stored.
    """
    with wrap_decode_errors(source), open_media(source) as file:
        return _upright_size(_opened(source, file))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.format != "TIFF" and _orientation(image) >= 5  # Pillow turns TIFF's already
    return image.size[::-1] if turned else image.size


def _opened(source: Source, file: io.BytesIO | io.BufferedReader) -> Image.Image:
    """The header of an image; no pixel is decoded yet."""
    if file.seek(0, os.SEEK_END) > MAX_FILE:
        raise ValueError(f"more than {MAX_FILE} bytes")
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:  # which says no more than where `file` is in memory
        what = sniff_media_type(source)
        found = f"{MEDIA_TYPE_LABELS[what]}, " if what not in ("", "image") else ""
        raise ValueError(f"cannot identify it: {found}none of {', '.join(FORMATS)}") from None


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # damaged EXIF says nothing, and the pixels are fine
        # PNG's own method would decode the picture, as its EXIF may come last.
        return int(Image.Image.getexif(image).get(ORIENTATION, 1))
    return 1


def _check_scans(file: io.BytesIO | io.BufferedReader, pixels: int) -> None:
    """Refuses progressive JPEGs of thousands of scans: 30 bytes each, but a pass over all pixels."""
    place = file.tell()
    file.seek(0)
    data = file.read(MAX_JPEG + 1)
    file.seek(place)
    if len(data) > MAX_JPEG:
        raise ValueError(f"more than {MAX_JPEG} bytes for {pixels} pixels")
    # Counting bytes is quick and never too low; what they are is only looked at if it matters.
    if data.count(b"\xff\xda") * pixels > MAX_SCANNED and _scans(data) * pixels > MAX_SCANNED:
        raise ValueError(f"{_scans(data)} scans of {pixels} pixels: no encoder writes so many")


def _scans(data: bytes) -> int:
    """The scans of a JPEG up to its end; films and thumbnails inside or after it do not count."""
    at, scans = 2, 0
    marker = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not stuffing, not a restart
    while found := marker.search(data, at):
        if data[found.start() + 1] == 0xD9:
            break
        scans += data[found.start() + 1] == 0xDA
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return scans


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB; the same image where it is that already. Errors are ValueErrors.

    8 bits and less, as in the reference, are Pillow's `convert("RGB")` to the bit: grey is repeated,
    a palette looked up, alpha (also a palette's transparency) dropped and not blended, CMYK inverted
    without a colour profile. More bits are scaled, where Pillow would clip all but the darkest to
    white: 16 bits lose their low 8, as Pillow reads 16-bit colour; floats are taken to be in
    [0, 1], and anything beyond is an error, as are integers beyond 16 bits, and those of 32 bits
    that would fit into 8: whether 255 is white or nearly black the file does not say.
    """
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image)
        low, high, most = levels.min(), levels.max(), 1 if image.mode == "F" else 65535
        if not (low >= 0 and high <= most):  # so that NaN fails, too
            raise ValueError(f"levels {low} to {high} of mode {image.mode} are not in [0, {most}]")
        # Not PNGs: they have 16 bits, which older Pillows open as 32.
        if image.mode == "I" and image.format != "PNG" and 0 < high < 256:
            raise ValueError(f"levels {low} to {high} in 32 bits: save it with 8 bits, or 16")
        if image.mode == "F":
            levels = levels * np.float32(255)
            levels = np.rint(levels, out=levels)
        else:
            levels = levels >> 8
        image = Image.fromarray(levels.astype(np.uint8))
    elif image.mode == "LAB":
        raise ValueError("mode LAB has no colours without a profile: save it as RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size` (bicubic, antialiased), then the centre `size` x `size`.

    The arithmetic is torchvision's `Resize` and `CenterCrop` on Pillow images, bit for bit: the
    long side is cut to an integer, the offset rounds half to even. Any Pillow mode, also "F".
    Raises ValueError for an image more than `MAX_RATIO` times as long as it is wide.
    """
    short = check_aspect_ratio(*image.size)
    width, height = (int(size * side / short) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if width == height:
        return image
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return image.crop((left, top, left + size, top + size))


def check_aspect_ratio(width: int, height: int) -> int:
    """The short side. Raises ValueError if the long one is more than `MAX_RATIO` times it."""
    short, long = sorted((width, height))
    if long > MAX_RATIO * short:
        raise ValueError(f"{width} x {height} pixels: more than {MAX_RATIO} times as long as wide")
    return short


def to_float_channel(image: Image.Image) -> np.ndarray:
    """A one-channel image as float32 [height, width, 1], values as they are."""
    return np.asarray(image, np.float32)[..., None]
