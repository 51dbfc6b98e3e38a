"""ImageNet-1k (ILSVRC 2012): images of 1000 kinds of things."""

import pathlib
from collections.abc import Iterator

import numpy as np

from imagebind_jax.data import mat_files, reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
IMAGES = (".jpeg", ".jpg", ".png")
REMEDY = f"get ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from {HOMEPAGE}"
LAYOUTS = ("val", "Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "ILSVRC2012_img_val")
GIVEN = ("val", "ILSVRC2012_img_val")  # the images' own folder, as the download
SOLUTION = "LOC_val_solution.csv"
TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


def listing(download: pathlib.Path) -> DatasetListing:
    """Splits "val" and, where there is a folder train/ beside val/, "train".

    Labels count in the order of the sorted synsets. They come from a table in the download if
    there is one, else from the folders' names.
    """
    synsets = reading.lines(HERE / "synsets.txt")
    labels = {synset: label for label, synset in enumerate(synsets)}
    if reading.seek(download, *LAYOUTS) is None and download.resolve().name in GIVEN:
        folder, download = download, download.resolve().parent
    else:
        folder = reading.find(download, *LAYOUTS, remedy=REMEDY)
    images = {path.stem: (path, synset) for path, synset in _images(folder, labels)}
    truth, origin = _truth(download, folder)
    if not truth:
        truth, origin = {stem: synset for stem, (_, synset) in images.items()}, folder
    if "" in truth.values():
        raise UserError(f"{folder} is not in folders by synset, and no {SOLUTION} says: {REMEDY}")
    if unknown := sorted(set(truth.values()) - set(synsets)):
        raise UserError(f"{origin}: {unknown[0]!r} is not one of ImageNet-1k's synsets")
    splits: dict[str, list[Row]] = {
        "val": [
            {"id": f"val/{stem}", "vision": images[stem][0], "label": labels[synset]}
            for stem, synset in sorted(truth.items())
            if stem in images
        ]
    }
    missing = {"val": len(truth) - len(splits["val"])}
    reading.check_found(splits, missing, f"{folder}/ILSVRC2012_val_00000001.JPEG")
    if (train := folder.resolve().parent / "train").is_dir():
        splits["train"] = [
            {"id": f"train/{path.stem}", "vision": path, "label": labels[synset]}
            for path, synset in _images(train, labels)
            if synset
        ]
    classes = reading.lines(HERE / "classes.txt")
    return DatasetListing(splits, classes, reading.templates(), missing)


def _images(folder: pathlib.Path, labels: dict[str, int]) -> Iterator[tuple[pathlib.Path, str]]:
    """(file, synset) of every image, "" for the synset of those that are in no class's folder."""
    for name in sorted(reading.scan(folder, IMAGES).values()):
        yield folder / name, ""
    for path in reading.folders(folder)[1:]:
        if path.name not in labels:
            raise UserError(f"{path} is not one of ImageNet-1k's synsets")
        for name in sorted(reading.scan(path, IMAGES).values()):
            yield path / name, path.name


def _truth(download: pathlib.Path, val: pathlib.Path) -> tuple[dict[str, str], pathlib.Path]:
    """({image: synset}, whence) from Kaggle's table or from the devkit; empty if neither is there."""
    if path := reading.seek(download, SOLUTION, f"../{SOLUTION}", f"../../../{SOLUTION}"):
        rows = reading.table(path, ("ImageId", "PredictionString"))
        return {row["ImageId"]: row["PredictionString"].split(" ")[0] for row in rows}, path
    if path := reading.seek(download, TRUTH, f"ILSVRC2012_devkit_t12/{TRUTH}"):
        # It numbers classes in an order of its own, which only meta.mat tells.
        entries = np.atleast_1d(mat_files.variable(path.with_name("meta.mat"), "synsets"))
        synsets = {int(entry["ILSVRC2012_ID"]): str(entry["WNID"]) for entry in entries}
        numbers = [reading.integer(line, path) for line in reading.lines(path)]
        names = (synsets.get(number, str(number)) for number in numbers)
        return {f"ILSVRC2012_val_{index:08d}": name for index, name in enumerate(names, 1)}, path
    return {}, val


DATASET = Dataset(
    name="imagenet",
    title="ImageNet-1k (ILSVRC 2012)",
    licence="non-commercial research, by agreement with image-net.org; images remain their owners'",
    homepage=HOMEPAGE,
    modalities=("vision",),
    listing=listing,
)
