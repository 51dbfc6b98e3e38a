"""Small pictures of model inputs, for people who look for something: what the encoder was shown."""

import io

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image, ImageDraw

from imagebind_jax.inputs.colormaps import INFERNO, MAGMA, VIRIDIS, apply_colormap, encode_png
from imagebind_jax.inputs.transforms.vision import MEAN, STD

SIDE = 160  # pixels of the longer side
AXES = ("#c0392b", "#27ae60", "#2980b9")  # x, y, z


def thumbnail(modality: str, x: Num[np.ndarray, "..."]) -> bytes:
    """A JPEG or PNG of one input, or of its first view; empty of what has no picture, as text.

    Vision: the first frame. Audio: the spectrograms of all clips side by side, low notes below.
    Depth: near is yellow. Thermal: warm is pale. IMU: force above, turning below.
    """
    draw = {"vision": _vision, "audio": _audio, "depth": _depth, "thermal": _thermal, "imu": _imu}
    if modality not in draw:
        return b""
    try:
        return draw[modality](x)
    except (ValueError, IndexError):  # a modality of that name with other inputs
        return b""


def _vision(x: np.ndarray) -> bytes:
    frame = x.reshape(-1, *x.shape[-3:])[0]
    levels = frame * (255 * STD) + (255 * MEAN + np.float32(0.5))
    return _jpeg(np.clip(levels, 0, 255, out=levels).astype(np.uint8))


def _audio(x: np.ndarray) -> bytes:
    clips = x.reshape(-1, *x.shape[-3:])[:3, :, :, 0]
    level = np.concatenate(clips, axis=-1)[::-1]
    image = apply_colormap(_stretched(level, 2.0, 99.8), MAGMA)
    return encode_png(image.resize((SIDE, SIDE // 2), Image.Resampling.NEAREST))


def _depth(x: np.ndarray) -> bytes:
    return _map(x, VIRIDIS)


def _thermal(x: np.ndarray) -> bytes:
    return _map(x, INFERNO)


def _map(x: np.ndarray, colours: UInt8[np.ndarray, "256 3"]) -> bytes:
    level = x.reshape(-1, *x.shape[-3:])[0, :, :, 0]
    image = apply_colormap(_stretched(level, 0.0, 100.0), colours)
    image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    return encode_png(image)


def _imu(x: np.ndarray) -> bytes:
    readings = x.reshape(-1, *x.shape[-2:])[0, :, :6]
    readings = readings - readings.mean(axis=0)  # without gravity, which would dwarf all else
    image = Image.new("RGB", (SIDE, SIDE // 2), "white")
    pen = ImageDraw.Draw(image)
    across = np.linspace(0, SIDE - 1, len(readings))
    for middle, columns in ((SIDE // 8, slice(0, 3)), (3 * SIDE // 8, slice(3, 6))):
        scale = (SIDE // 8 - 2) / max(float(np.abs(readings[:, columns]).max()), 1e-3)
        for colour, trace in zip(AXES, readings[:, columns].T):
            points = np.stack([across, middle - scale * trace], axis=-1)
            pen.line([tuple(point) for point in points.tolist()], fill=colour)
    return encode_png(image.quantize(16))


def _stretched(level: np.ndarray, low: float, high: float) -> Float[np.ndarray, "h w"]:
    """The values between these percentiles to [0, 1]."""
    bottom, top = np.percentile(level, (low, high))
    return ((level - bottom) / max(top - bottom, 1e-6)).astype(np.float32)


def _jpeg(levels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    image = Image.fromarray(levels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=1.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
