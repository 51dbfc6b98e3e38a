"""Four validation and two training images in ImageNet's layouts, and one that is listed but missing."""

import pathlib

import numpy as np
from scipy import io

from imagebind_jax.inputs.world import World

VAL = ("n01751748", "n09193705", "n01440764", "n13133613")  # synsets of images 1, 2, 3, 4
MISSING = "n15075141"  # of image 5
TRAIN = (("n01440764", "n01440764_10026.JPEG"), ("n15075141", "n15075141_999.JPEG"))
IDS = {"n01751748": 490, "n09193705": 361, "n01440764": 449, "n13133613": 636, "n15075141": 999}


def write(folder: pathlib.Path) -> None:
    """As Kaggle has it: a flat val/ and LOC_val_solution.csv."""
    _images(folder / "ILSVRC" / "Data" / "CLS-LOC")
    lines = ["ImageId,PredictionString"]
    for number, synset in enumerate((*VAL, MISSING), 1):
        lines.append(f"{name(number)},{synset} 111 108 431 323 ")
    (folder / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")


def write_devkit(folder: pathlib.Path) -> None:
    """As image-net.org has it: a flat val/ and the development kit."""
    _images(folder)
    kit = folder / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    numbers = [str(IDS[synset]) for synset in (*VAL, MISSING)]
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(numbers) + "\n")
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    synsets = np.empty((len(IDS), 1), fields)
    for row, (synset, number) in enumerate(IDS.items()):
        synsets[row, 0] = (float(number), synset, "words")
    io.savemat(kit / "meta.mat", {"synsets": synsets})


def write_folders(folder: pathlib.Path) -> None:
    """As most people keep it: val/ in folders by synset, and no table."""
    _images(folder)
    for number, synset in enumerate(VAL, 1):
        (folder / "val" / synset).mkdir()
        image = folder / "val" / f"{name(number)}.JPEG"
        image.rename(folder / "val" / synset / image.name)


def name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}"


def _images(folder: pathlib.Path) -> None:
    places = [("val", f"{name(number)}.JPEG") for number in range(1, len(VAL) + 1)]
    places += [(f"train/{synset}", file) for synset, file in TRAIN]
    for index, (place, file) in enumerate(places):
        (folder / place).mkdir(parents=True, exist_ok=True)
        image = World(0).record("train", index, ("vision",))["vision"][0]
        (folder / place / file).write_bytes(image)
