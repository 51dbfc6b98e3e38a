"""Files of depth maps to metres: 16-bit PNG and TIFF, float TIFF, .npy and OpenEXR."""

import numpy as np
from jaxtyping import Float, Num

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.exr import read_exr
from imagebind_jax.inputs.decoders.images import open_image
from imagebind_jax.inputs.decoders.npy import read_npy

MAX_PIXELS = 32_000_000  # of a map
MAX_MEDIAN_M = 100.0  # of floats whose unit nobody said: beyond it they are millimetres
SUN_RAW_RANGE = (0.01, 50.0)  # metres: facebookresearch/omnivore, issue 12
FILE_ENCODINGS = ("auto", "millimetres", "metres", "sun_shifted", "sun_raw")


def read_depth(source: media.Source, reading: str = "auto") -> Float[np.ndarray, "height width"]:
    """Depth in metres, float32, and 0 where the file has none: 0, negative, NaN or infinite.

    What the file's numbers mean, `reading`, is one of

    * "auto": integers of 16 bits or more are millimetres, floats are metres, whatever the format;
      if the median of floats is beyond `MAX_MEDIAN_M`, somebody has to say what they are.
    * "millimetres", "metres": of any number format.
    * "sun_shifted": a PNG of SUN RGB-D, whose 16 bits are millimetres rotated left by three, as its
      toolbox reads it: (raw >> 3 | raw << 13), in millimetres.
    * "sun_raw": the same file without undoing the rotation, raw / 1000 brought into [0.01, 50]. So
      omnivore read it for the statistics of its normalisation; true metres are an eighth of this.

    No file tells whether it is one of SUN's, and the range of its values does not: "auto" never
    assumes it. An array may have one axis of length 1 before or behind. Raises `MediaError`;
    UserError for another `reading`.
    """
    if reading not in FILE_ENCODINGS:
        raise UserError(f"reading {reading!r} is none of {', '.join(FILE_ENCODINGS)}")
    levels = _levels(source)
    with media.wrap_decode_errors(source), np.errstate(over="ignore", invalid="ignore"):
        unsaid = reading == "auto" and levels.dtype.kind == "f"
        if reading == "auto":
            reading = "metres" if unsaid else "millimetres"
        if reading.startswith("sun"):
            levels = _sixteen_bits(levels)
        if reading == "sun_shifted":
            levels = (levels >> np.uint16(3)) | (levels << np.uint16(13))
        depth_m = levels.astype(np.float32)
        if reading != "metres":
            depth_m /= np.float32(1000)
        known = np.isfinite(depth_m) & (depth_m > 0)
        depth_m[~known] = 0
        if unsaid and known.any():
            some = depth_m[known]
            median = np.median(some[:: max(some.size // 10_000, 1)])
            if median > MAX_MEDIAN_M:
                raise ValueError(
                    f"floats are metres, but {median:.0f} looks like millimetres: say "
                    "reading='millimetres', or 'metres' if they are"
                )
        if reading == "sun_raw":
            np.clip(depth_m, *SUN_RAW_RANGE, out=depth_m, where=depth_m > 0)
        return depth_m


def _sixteen_bits(levels: Num[np.ndarray, "height width"]) -> Num[np.ndarray, "height width"]:
    # Older Pillows open 16-bit PNGs as 32-bit integers.
    if levels.dtype.kind not in "iu" or levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"{levels.dtype} is no 16-bit PNG of SUN RGB-D")
    return levels.astype(np.uint16)


def _levels(source: media.Source) -> Num[np.ndarray, "height width"]:
    """The numbers in the file, of 16 bits or more."""
    kind = media.sniff_media_type(source)
    if kind == "exr":
        levels = read_exr(source)
    elif kind == "array":
        levels = read_npy(source, max_bytes=MAX_PIXELS * 8)
        if levels.ndim == 3 and 1 in (levels.shape[0], levels.shape[2]):
            levels = levels.squeeze(0 if levels.shape[0] == 1 else 2)
    else:
        image = open_image(source, MAX_PIXELS)
        if not image.mode.startswith(("I", "F")):
            wrong = (
                f"mode {image.mode} is a picture: depth maps have 16 bits (millimetres) or floats"
            )
            raise media.MediaError(media.source_name(source), wrong)
        with media.wrap_decode_errors(source):
            levels = np.asarray(image)
    if levels.ndim != 2 or not 0 < levels.size <= MAX_PIXELS or levels.itemsize < 2:
        wrong = f"{levels.dtype} of shape {levels.shape} is no depth map [height, width]"
        raise media.MediaError(media.source_name(source), wrong)
    return levels
