"""NYU Depth v2, labelled: images of indoor scenes with depth maps of a Kinect."""

import functools
import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from imagebind_jax.data import mat_files, reading
from imagebind_jax.data.sunrgbd import builder as sunrgbd
from imagebind_jax.errors import UserError
from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row
from imagebind_jax.inputs.decoders import images, media
from imagebind_jax.inputs.transforms.depth import NYU_CAMERA

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
LABELED = "nyu_depth_v2_labeled.mat"
REMEDY = f"get {LABELED} and splits.mat from {HOMEPAGE}, or SUNRGBD.zip from {sunrgbd.HOMEPAGE}"
OTHERS = "others"
MAX_CHUNK = 1 << 29  # bytes that HDF5 may unpack at once


def listing(download: pathlib.Path) -> DatasetListing:
    """Splits "train" (795) and "test" (654), from the labelled .mat file or from SUN RGB-D's copy."""
    try:
        path = reading.find(download, LABELED, remedy=REMEDY)
    except UserError:
        return _from_sun(download)
    return _from_labeled(path, download)


def label(scene: str, classes: tuple[str, ...]) -> int:
    """Every scene that is none of the nine classes is one of the others."""
    name = scene.replace("_", " ")
    return classes.index(name if name in classes else OTHERS)


def _from_labeled(path: pathlib.Path, download: pathlib.Path) -> DatasetListing:
    indices = reading.find(download, "splits.mat", remedy=REMEDY)
    try:
        file = _labeled(path)
        with media.wrap_decode_errors(path):
            references = _own(file, "sceneTypes")[0]
            scenes = ["".join(map(chr, np.ravel(_own(file, each)[:40]))) for each in references]
    except media.MediaError as error:
        raise UserError(f"{error}; {REMEDY}") from error
    classes = reading.lines(HERE / "classes.txt")
    splits: dict[str, list[Row]] = {}
    missing = {}
    for split in ("train", "test"):
        numbers = np.ravel(mat_files.variable(indices, f"{split}Ndxs")).astype(int).tolist()
        present = [number for number in numbers if 1 <= number <= len(scenes)]
        missing[split] = len(numbers) - len(present)
        splits[split] = [
            {
                "id": f"{split}/NYU{number:04d}",
                "mat": path,
                "index": number - 1,
                **NYU_CAMERA,
                "scene": scenes[number - 1],
                "label": label(scenes[number - 1], classes),
            }
            for number in present
        ]
    return _listing(splits, missing, classes, f"whole frames, from {path.name}")


def _from_sun(download: pathlib.Path) -> DatasetListing:
    try:
        found, missing = sunrgbd.frames(download, (), below="kv1/NYUdata/")
    except UserError as error:
        raise UserError(
            f"no {LABELED} in {download}, and no SUN RGB-D: {error}; {REMEDY}"
        ) from error
    classes = reading.lines(HERE / "classes.txt")
    splits = {
        split: [
            {
                **row,
                "id": f"{split}/{row['id'].split('/')[-1]}",
                "label": label(row["scene"], classes),
            }
            for row in rows
        ]
        for split, rows in found.items()
    }
    return _listing(splits, missing, classes, "frames as cut and in-filled by SUN RGB-D")


def _listing(splits, missing, classes, origin: str) -> DatasetListing:
    notes = (
        origin,
        "depth: 16-bit PNG in millimetres, not rotated",
    )
    names = reading.names(HERE / "names.txt")
    return DatasetListing(splits, classes, reading.templates(), missing, notes, names)


def record(row: Row) -> Mapping[str, Any]:
    """Lossless PNGs: colour, and depth in millimetres in 16 bits (the sensor's steps are coarser)."""
    if "mat" not in row:
        rotated = np.asarray(images.open_image(row["depth"]))
        with media.wrap_decode_errors(row["depth"]):
            if rotated.dtype != np.uint16:
                raise ValueError(f"{rotated.dtype} is not a 16-bit depth map")
            millimetres = (rotated >> np.uint16(3)) | (rotated << np.uint16(13))
            return datasets.inline_files({**row, "depth": _png(millimetres)})
    file = _labeled(row["mat"])
    with media.wrap_decode_errors(row["mat"]):
        color, depth = _own(file, "images"), _own(file, "depths")
        count, width, height = depth.shape
        if color.shape != (count, 3, width, height) or width * height > images.MAX_PIXELS:
            raise ValueError(f"images {color.shape} and depths {depth.shape} do not fit")
        rgb = np.asarray(color[row["index"]]).transpose(2, 1, 0)  # [height, width, 3]
        metres = np.nan_to_num(np.asarray(depth[row["index"]], np.float64).T)
    millimetres = np.clip(np.round(1000 * metres), 0, 65535).astype(np.uint16)
    rest = {key: value for key, value in row.items() if key not in ("mat", "index")}
    return {**rest, "vision": _png(rgb), "depth": _png(millimetres)}


def _own(file: Any, key: Any) -> Any:
    """A dataset that is in this file: HDF5 could lead us to read any other."""
    import h5py

    found = file[key] if isinstance(key, h5py.Reference) else None
    if isinstance(key, str) and isinstance(file.get(key, getlink=True), h5py.HardLink):
        found = file[key]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise ValueError(f"{key} is not an array of its own")
    if found.chunks and np.prod(found.chunks) * found.dtype.itemsize > MAX_CHUNK:
        raise ValueError(f"{key} is in pieces of more than {MAX_CHUNK} bytes")
    return found


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


@functools.cache
def _labeled(path: pathlib.Path) -> Any:
    """The open .mat file (of version 7.3, which is HDF5), once in a process."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{path} needs h5py: `pip install 'imagebind-jax[nyu]'`; or give SUN RGB-D's copy, "
            f"SUNRGBD.zip and SUNRGBDtoolbox.zip from {sunrgbd.HOMEPAGE}"
        ) from error
    with media.wrap_decode_errors(path):
        return h5py.File(path, "r")


DATASET = Dataset(
    name="nyuv2",
    title="NYU Depth v2, labelled",
    licence="none stated: ask its authors for more than research (see README.md)",
    homepage=HOMEPAGE,
    modalities=("vision", "depth"),
    listing=listing,
    record=record,
)
