"""Untrusted bytes or paths to an opened medium: bounded, and with one kind of error."""

import contextlib
import io
import os
import stat
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # no EPS: Pillow would start Ghostscript
MAX_PIXELS = 64_000_000

Source = bytes | str | os.PathLike


class MediaError(Exception):
    """A file that cannot be used: `source` says which, `reason` why, `str()` is one line."""

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)  # both in args, so that it survives pickling by a worker
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return " ".join(f"{self.source}: {self.reason}".split())[:500]


@contextlib.contextmanager
def decoding(source: Source) -> Iterator[None]:
    """The one place where whatever a decoder raises becomes a `MediaError` naming `source`."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # Pillow alone raises OSError, SyntaxError, IndexError, ...
        raise MediaError(_name(source), f"{type(error).__name__}: {error}") from error


def _name(source: Source) -> str:
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def open_source(source: Source) -> io.BytesIO | io.BufferedReader:
    """Opens bytes or a regular file for reading; a directory, FIFO or device is a `MediaError`."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    with decoding(source):
        # Without O_NONBLOCK the mere opening of a FIFO hangs.
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise MediaError(_name(source), "not a regular file")
        return os.fdopen(descriptor, "rb")


def open_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes the first frame of an image in one of `FORMATS`, in its own mode.

    EXIF orientation is not applied, as in the reference. The size is checked before any pixel is
    decoded: more than `max_pixels`, like every other defect, is a `MediaError`.
    """
    with decoding(source), open_source(source) as file:
        image = Image.open(file, formats=FORMATS)
        if image.width * image.height > max_pixels:
            reason = f"{image.width} x {image.height} pixels are more than {max_pixels}"
            raise MediaError(_name(source), reason)
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
