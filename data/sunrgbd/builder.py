"""SUN RGB-D: images of indoor scenes with in-filled depth maps of four sensors."""

import pathlib

import numpy as np

from imagebind_jax.data import mat_files, reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms import depth as depth_input

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://rgbd.cs.princeton.edu/"
REMEDY = f"get SUNRGBD.zip and SUNRGBDtoolbox.zip from {HOMEPAGE}"
SPLIT = "traintestSUNRGBD/allsplit.mat"
SENSORS = ("kv1", "kv2", "realsense", "xtion")


def listing(download: pathlib.Path) -> DatasetListing:
    """Splits "train" (all of it: pairs need no label) and "test" (the 19 scenes of the benchmark)."""
    classes = reading.lines(HERE / "classes.txt")
    splits, missing = frames(download, classes)
    labelled = [row for row in splits["test"] if "label" in row]
    other = len(splits["test"]) - len(labelled)
    notes = (
        f"test: {other} frames are left out, whose scene is not one of the {len(classes)}",
        "depth: SUN's own bytes, which are millimetres rotated left by 3 bits; see README.md",
    )
    splits["test"] = labelled
    return DatasetListing(splits, classes, reading.templates(), missing, notes)


def frames(
    download: pathlib.Path, classes: tuple[str, ...], below: str = ""
) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """The rows of each split, and how many frames of it are missing; only those `below` a folder."""
    root = reading.find(download, "SUNRGBD", *SENSORS, remedy=REMEDY)
    root = root.parent if root.name in SENSORS else root
    path = reading.find(download, f"SUNRGBDtoolbox/{SPLIT}", SPLIT, "allsplit.mat", remedy=REMEDY)
    splits: dict[str, list[Row]] = {}
    missing = {}
    for split in ("train", "test"):
        folders = [folder for folder in _listed(path, f"all{split}") if folder.startswith(below)]
        found = (_row(root, folder, split, classes) for folder in folders)
        splits[split] = [row for row in found if row]
        missing[split] = len(folders) - len(splits[split])
    if not any(splits.values()):
        raise UserError(f"none of the frames of {path} is in {root}; {REMEDY}")
    return splits, missing


def _listed(path: pathlib.Path, name: str) -> list[str]:
    """The frames' folders below SUNRGBD/ of a list in allsplit.mat. Raises UserError."""
    folders = []
    for entry in np.atleast_1d(mat_files.variable(path, name)):
        _, mark, folder = str(entry).partition("SUNRGBD/")
        parts = pathlib.PurePosixPath(folder).parts
        if not mark or len(parts) < 3 or parts[0] not in SENSORS or ".." in parts:
            raise UserError(f"{path}: {str(entry)[:200]!r} is not the folder of a frame")
        folders.append("/".join(parts))
    return folders


def _row(root: pathlib.Path, folder: str, split: str, classes: tuple[str, ...]) -> Row | None:
    """The row of a frame, without a label where its scene is no class; None if a file is missing.

    Image and depth map are the only files of their folders: their names need not be alike.
    """
    place, sensor = root / folder, folder.split("/")[0]
    image, depth = _only(place / "image", ".jpg"), _only(place / "depth_bfx", ".png")
    if not image or not depth:
        return None
    try:
        intrinsics, scene = (
            (place / "intrinsics.txt").read_text(),
            (place / "scene.txt").read_text(),
        )
        focal_length = depth_input.focal_length(intrinsics)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, MediaError) as error:
        raise UserError(f"cannot read intrinsics.txt and scene.txt of {place}: {error}") from error
    name = scene.strip().replace("_", " ")
    row = {
        "id": f"{split}/{folder}",
        "vision": image,
        "depth": depth,
        "focal_length": focal_length,
        "baseline": depth_input.BASELINES[sensor],
        "sensor": sensor,
        "scene": scene.strip(),
    }
    return {**row, "label": classes.index(name)} if name in classes else row


def _only(folder: pathlib.Path, suffix: str) -> pathlib.Path | None:
    return next((folder / name for name in reading.scan(folder, (suffix,)).values()), None)


DATASET = Dataset(
    name="sunrgbd",
    title="SUN RGB-D: a scene understanding benchmark suite",
    licence="none stated: ask its authors for more than research (see README.md)",
    homepage=HOMEPAGE,
    modalities=("vision", "depth"),
    listing=listing,
)
