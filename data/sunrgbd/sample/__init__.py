"""Eight frames in SUN RGB-D's layout, one of which is listed but missing."""

import io
import pathlib

import numpy as np
from PIL import Image
from scipy import io as matlab

from imagebind_jax.inputs.world import World

# (folder, name of the depth map, scene): in some sequences depth maps have names of their own.
TRAIN = (
    ("kv1/NYUdata/NYU0003", "NYU0003", "office"),
    (
        "kv2/kinect2data/000065_2014-05-16_20-14-38_260595134347_rgbf000121-resize",
        "0000121",
        "dining_room",
    ),
    ("xtion/sun3ddata/hotel/hotel_1/0000110-000003653244", "0000109-000003620080", "idk"),
)
TEST = (
    ("kv1/NYUdata/NYU0001", "NYU0001", "kitchen"),
    ("kv1/b3dodata/img_0406", "img_0406_abs", "bedroom"),
    ("realsense/lg/2014_10_24-09_14_34-1311000073", "0000063", "dining_area"),
    ("kv2/align_kv2/2014-12-19_21-26-18_094959634447_rgbf000050-resize", "0000050", "coffee_room"),
)
MISSING = "kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize"


def write(folder: pathlib.Path) -> None:
    """SUNRGBD/ and SUNRGBDtoolbox/ in `folder`."""
    for index, (place, depth, scene) in enumerate((*TRAIN, *TEST)):
        write_frame(folder / "SUNRGBD" / place, depth, scene, index)
    write_split(folder, [place for place, *_ in TRAIN], [*(place for place, *_ in TEST), MISSING])


def write_frame(place: pathlib.Path, depth: str, scene: str, index: int) -> None:
    """One frame of the procedural world, its depth map rotated left by 3 bits as SUN's are."""
    record = World(0).record("train", index, ("vision", "depth"))
    for name in ("image", "depth", "depth_bfx"):
        (place / name).mkdir(parents=True)
    (place / "image" / f"{depth.removesuffix('_abs')}.jpg").write_bytes(record["vision"][0])
    rotated = rotate(np.asarray(Image.open(io.BytesIO(record["depth"]))).astype(np.uint16))
    for name in ("depth", "depth_bfx"):
        Image.fromarray(rotated).save(place / name / f"{depth}.png")
    fx, center = record["focal_length"], 32.0
    matrix = (fx, 0, center, 0, fx, center, 0, 0, 1)
    (place / "intrinsics.txt").write_text(" ".join(f"{value:.6f}" for value in matrix) + " \n")
    (place / "scene.txt").write_text(scene)


def rotate(millimetres: np.ndarray) -> np.ndarray:
    """uint16, the upper 3 bits moved below the other 13."""
    return (millimetres << np.uint16(3)) | (millimetres >> np.uint16(13))


def write_split(folder: pathlib.Path, train: list[str], test: list[str]) -> None:
    """The toolbox's allsplit.mat, whose paths are those of a disk in Princeton."""
    path = folder / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    path.parent.mkdir(parents=True)
    cells = {}
    for name, places in (("alltrain", train), ("alltest", test)):
        cells[name] = np.empty((1, len(places)), object)
        cells[name][0] = [f"/n/fs/sun3d/data/SUNRGBD/{place}/" for place in places]
    matlab.savemat(path, cells)
