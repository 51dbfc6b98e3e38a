"""`ib.load_images`, `load_videos`, `load_audio`, `load_depth`, `load_thermal`, `load_imu`: files to model inputs.

The same transforms as the training pipeline's, in their evaluation form. Each takes one file or
several (paths or bytes), reads them in threads and raises `MediaError`, naming the file, for one
that cannot be used.
"""

import concurrent.futures
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.media import MediaError, Source, source_name

if TYPE_CHECKING:
    from imagebind_jax.inputs.transforms.depth import Disparity

Files = Source | Sequence[Source]


def load_images(files: Files, *, size: int = 224) -> Float[np.ndarray, "b 1 size size 3"]:
    """Images as videos of one frame: upright, short side to `size`, centre crop, CLIP mean and std."""
    from imagebind_jax.inputs.transforms.vision import FramesTransform

    return _load(files, "vision", FramesTransform(size), called="images", check=_check_still)


def load_videos(
    files: Files,
    *,
    clips: int = 5,
    crops: int = 3,
    frames: int = 2,
    seconds: float = 2.0,
    size: int = 224,
) -> Float[np.ndarray, "b views frames size size 3"]:
    """Videos as the reference sees them: `clips` spread over each, `crops` across; 15 views.

    Needs the extra `video`. `ib.embed` averages the embeddings of the views.
    """
    from imagebind_jax.inputs.transforms.vision import EvalViews

    views = EvalViews(clips=clips, crops=crops, size=size, frames=frames, seconds=seconds)
    return _load(files, "vision", views, called="videos", check=_check_moving)


def load_audio(
    files: Files, *, clips: int | None = 3, seconds: float = 2.0
) -> Float[np.ndarray, "b clips 128 204 1"]:
    """Log-mel spectrograms of `clips` spread uniformly over each recording (or a video's sound).

    clips None: as many as cover it, ceil(duration / seconds), as the paper does; the recordings
    must then be equally long. `ib.embed` averages the embeddings of the clips.
    """
    from imagebind_jax.inputs.transforms.audio import LogMelClips

    return _load(files, "audio", LogMelClips(clips, seconds))


def load_depth(
    files: Files, *, focal_length: float, baseline: float, recipe: "Disparity | None" = None
) -> Float[np.ndarray, "b size size 1"]:
    """Depth maps as normalised disparity.

    focal_length: of the depth camera, in pixels of the map. baseline: metres between the lenses
    of the pretended stereo pair, e.g. 0.075 for Kinect (`depth.BASELINES`). recipe: how files are
    read and values normalised, e.g. `depth.Disparity.sun_toolbox()` (default: millimetres in 16-bit
    images, metres in float files, normalised as NYU Depth v2: `Disparity.nyu()`).
    """
    from imagebind_jax.inputs.transforms.depth import Disparity

    camera = {"focal_length": focal_length, "baseline": baseline}
    return _load(files, "depth", recipe or Disparity.nyu(), camera)


def load_thermal(
    files: Files,
    *,
    scale: str | None = None,
    low: float | None = None,
    high: float | None = None,
    size: int = 224,
) -> Float[np.ndarray, "b size size 1"]:
    """Thermal images in [0, 1], not standardised.

    8-bit images need nothing more. For others, scale says what their numbers mean (a name in
    `thermal.SCALES`, e.g. "kelvin*100"), and low and high which degrees Celsius become 0 and 1.
    """
    from imagebind_jax.inputs.transforms.thermal import Thermal

    return _load(files, "thermal", Thermal(size, low, high, scale))


def load_imu(
    files: Files, *, rate: float | None = None, seconds: float = 5.0, steps: int = 2000
) -> Float[np.ndarray, "b steps 6"]:
    """Accelerometer and gyroscope recordings, the centre `seconds` of each in `steps`.

    rate: in Hz, for files without time stamps.
    """
    from imagebind_jax.inputs.transforms.imu import ImuWindow

    fields = {} if rate is None else {"imu_rate": rate}
    return _load(files, "imu", ImuWindow(seconds, steps), fields)


def _load(
    files: Files,
    modality: str,
    transform: Callable,
    fields: dict[str, Any] | None = None,
    called: str = "",
    check: Callable[[Source], None] | None = None,
) -> np.ndarray:
    sources = _sources(files)
    if not sources:
        raise UserError(f"no {called or f'files of {modality}'} to load")

    def load(source: Source) -> np.ndarray:
        if check is not None:
            check(source)
        return transform({**(fields or {}), modality: source}, None)

    threads = min(len(sources), os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        inputs = list(pool.map(load, sources))
    for source, x in zip(sources, inputs):
        if not np.isfinite(x).all():
            raise MediaError(source_name(source), "gives values that are not finite")
        if x.shape != inputs[0].shape:
            raise UserError(
                f"{source_name(source)} gives {x.shape} and {source_name(sources[0])} {inputs[0].shape}: load "
                "them one by one, or choose a number of clips"
            )
    return np.stack(inputs)


def _sources(files: Any) -> list[bytes | pathlib.Path]:
    """One file or several, "~" being the home folder. Raises `UserError` for anything else."""
    single = isinstance(files, (bytes, str, os.PathLike))
    # These can be gone through, too, but give no files.
    single |= isinstance(files, (Mapping, bytearray, memoryview, np.ndarray)) or hasattr(
        files, "read"
    )
    return [_source(x) for x in ([files] if single or not isinstance(files, Iterable) else files)]


def _source(source: Any) -> bytes | pathlib.Path:
    if isinstance(source, bytes):
        return source
    if not isinstance(source, (str, os.PathLike)):
        kind = type(source).__name__
        raise UserError(f"a file to load is a path or its encoded bytes, not of type {kind}")
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        raise UserError(f"{source} is an address, not a path: download it first")
    return pathlib.Path(os.path.expanduser(source))


def _check_still(source: Source) -> None:
    if media.sniff_media_type(source) == "container":
        raise MediaError(source_name(source), "is a video (or M4A), not an image: ib.load_videos")


def _check_moving(source: Source) -> None:
    kind = media.sniff_media_type(source)
    if kind == "image":
        raise MediaError(source_name(source), "is an image, not a video: ib.load_images")
    if kind != "container":
        found = f"{media.MEDIA_TYPE_LABELS[kind]}; not a video of MP4, MOV, Matroska, WebM or AVI"
        raise MediaError(source_name(source), found)
