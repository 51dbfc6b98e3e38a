"""Six labelled frames in the layouts in which NYU Depth v2 comes, one of them listed but missing."""

import io
import pathlib

import numpy as np
from PIL import Image
from scipy import io as matlab

from imagebind_jax.data.sunrgbd import sample as sunrgbd
from imagebind_jax.inputs.world import World

# (number, the toolbox's scene type, SUN RGB-D's scene)
TRAIN = ((3, "office", "office"), (4, "excercise_room", "gym"))
TEST = ((1, "kitchen", "kitchen"), (2, "dining_room", "dining_room"), (5, "foyer", "lobby"))
MISSING = 9


def write(folder: pathlib.Path) -> None:
    """SUN RGB-D's copy, which needs no further library to read."""
    for number, _, scene in (*TRAIN, *TEST):
        place = folder / "SUNRGBD" / _place(number)
        sunrgbd.write_frame(place, f"NYU{number:04d}", scene, number)
    test = [*(number for number, *_ in TEST), MISSING]
    sunrgbd.write_split(folder, [_place(number) for number, *_ in TRAIN], list(map(_place, test)))


def write_labeled(folder: pathlib.Path) -> None:
    """nyu_depth_v2_labeled.mat and splits.mat; needs h5py."""
    import h5py

    frames = sorted((*TRAIN, *TEST))
    records = [World(0).record("train", number, ("vision", "depth")) for number, *_ in frames]
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        # MATLAB counts the last axis of [height, width, 3, count] first.
        file["images"] = np.stack([_pixels(record["vision"][0]).T for record in records])
        depths = np.stack([_pixels(record["depth"]).T for record in records])
        file["depths"] = (depths / 1000).astype(np.float32)
        scenes = file.create_dataset("sceneTypes", (1, len(frames)), h5py.ref_dtype)
        for index, (_, scene, _) in enumerate(frames):
            letters = np.frombuffer(scene.encode(), np.uint8).astype(np.uint16)[:, None]
            scenes[0, index] = file.create_dataset(f"#refs#/{index}", data=letters).ref
    numbers = {
        "trainNdxs": np.array([[number] for number, *_ in TRAIN], np.uint16),
        "testNdxs": np.array([*([number] for number, *_ in TEST), [MISSING]], np.uint16),
    }
    matlab.savemat(folder / "splits.mat", numbers)


def _place(number: int) -> str:
    return f"kv1/NYUdata/NYU{number:04d}"


def _pixels(media: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(media)))
