"""OpenEXR depth maps: a header that is read and bounded here, pixels that the library decodes."""

import dataclasses
import io
import math
import struct
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.images import check_aspect_ratio
from imagebind_jax.inputs.decoders.media import Source, open_media, wrap_decode_errors

MAX_SAMPLES = 64_000_000  # of all channels of all parts, which are decoded together
# The library's time is quadratic in the number of channels: 100,000 of them took 12 s.
MAX_HEADER, MAX_NAMES = 1 << 20, 1000  # bytes; channels and attributes of all parts
DEEP, MULTIPART = 0x800, 0x1000  # flags of the version
HALF, FLOAT = 1, 2  # types of pixels


def read_exr(source: Source) -> Float[np.ndarray, "height width"]:
    """The depth channel, half or float.

    That is Z, or the only channel named after depth (as Blender's "ViewLayer.Depth.Z"), or Y, or R
    if there is no other colour beside it, or the only channel. Raises `MediaError`; UserError where
    the library is missing.
    """
    try:
        import OpenEXR
    except ImportError:
        remedy = "pip install 'imagebind-jax[exr]'"
        raise UserError(f"EXR files need the library OpenEXR, which is missing: {remedy}") from None
    # A stream and not a path: what was checked is what is read, and nothing else is opened.
    with wrap_decode_errors(source), open_media(source) as file:
        parts = read_header(file.read(MAX_HEADER))
        samples = sum(part.samples for part in parts)
        if samples > MAX_SAMPLES:
            raise ValueError(f"{samples} samples of all channels are more than {MAX_SAMPLES}")
        index, wanted = _choose(parts)
        part = parts[index]
        if part.channels[wanted] not in ((HALF, 1, 1), (FLOAT, 1, 1)):
            raise ValueError(f"channel {wanted} is not of half or float pixels, one for each place")
        file.seek(0)
        pixels = OpenEXR.File(file, separate_channels=True, num_threads=0).parts
        if len(pixels) != len(parts):  # the library prints why, and leaves the part out
            raise ValueError("its pixels are damaged")
        channels = {key: channel.pixels for key, channel in pixels[index].channels.items()}
        depth = channels[wanted]
        if depth.shape != (part.height, part.width):
            raise ValueError(f"{depth.shape} pixels, {(part.height, part.width)} in the header")
        if wanted == "R" and any((channels[c] != depth).any() for c in "GB" if c in channels):
            raise ValueError("a picture in colour: a depth map has one channel, Z")
        return depth


@dataclasses.dataclass(frozen=True)
class ExrPart:
    """One image of the file."""

    width: int
    height: int
    channels: dict[str, tuple[int, int, int]]  # name -> type, sampling of x and y
    samples: int  # of the channels together, or of a tile of them if that is larger


def read_header(head: bytes) -> list[ExrPart]:
    """The parts that the beginning of a file announces. Raises ValueError, struct.error."""
    version = int.from_bytes(head[4:8], "little")
    parts: list[ExrPart] = []
    if head[:4] != b"v/1\x01" or version & 0xFF != 2:
        raise ValueError(f"version {version & 0xFF} of OpenEXR is not known")
    if version & DEEP:
        raise ValueError("deep pixels, which have any number of depths each: flatten them first")
    file, left = io.BytesIO(head[8:]), MAX_NAMES
    while not parts or version & MULTIPART:
        attributes = dict(_named(file, left, value=True))
        if parts and not attributes:
            break
        channels = dict(_named(io.BytesIO(attributes["channels"]), left, value=False))
        left -= len(attributes) + len(channels)
        window = struct.unpack("<4i", attributes["dataWindow"])
        if window != struct.unpack("<4i", attributes["displayWindow"]):
            raise ValueError(f"data window {window} is not the display window: crop it to the data")
        width, height = window[2] - window[0] + 1, window[3] - window[1] + 1
        if min(width, height) < 1:
            raise ValueError(f"a window of {width} x {height} pixels")
        check_aspect_ratio(width, height)
        tile = struct.unpack("<IIx", attributes.get("tiles", bytes(9)))
        samples = max(width * height, math.prod(tile)) * len(channels)
        kinds = {key: struct.unpack("<i4xii", value) for key, value in channels.items()}
        parts.append(ExrPart(width, height, kinds, samples))
    return parts


def _named(file: io.BytesIO, most: int, value: bool) -> Iterator[tuple[str, bytes]]:
    """Entries up to an empty name: an attribute's `value` says its length, a channel has 16 bytes."""
    for _ in range(most):
        if not (key := _text(file)):
            return
        if value:
            _text(file)  # its type
        size = struct.unpack("<i", file.read(4))[0] if value else 16
        data = file.read(max(size, 0))
        if len(data) != size:
            raise ValueError(f"{key} has {size} bytes, but the file or the first {MAX_HEADER} end")
        yield key, data
    raise ValueError(f"more than {MAX_NAMES} attributes and channels")


def _text(file: io.BytesIO) -> str:
    place = file.tell()
    text, end, _ = file.read(256).partition(b"\0")
    if not end:
        raise ValueError("a name in the header does not end")
    file.seek(place + len(text) + 1)
    if not text.decode().isprintable():
        raise ValueError(f"the name {text!r:.99} in the header is not text")
    return text.decode()


def _choose(parts: Sequence[ExrPart]) -> tuple[int, str]:
    """Which part and channel is the depth."""
    names = [(index, key) for index, part in enumerate(parts) for key in part.channels]
    after_depth = [found for found in names if "depth" in found[1].lower()]
    for found in (
        [found for found in names if found[1] == "Z"],
        after_depth if len(after_depth) == 1 else [],
        [found for found in names if found[1] == "Y"],
        [found for found in names if found[1] == "R"],
        names if len(names) == 1 else [],
    ):
        if found:
            return found[0]
    raise ValueError(
        f"no depth channel among {', '.join(key for _, key in names)[:200]}: name it Z"
    )
