"""Places365-Standard: images of 365 kinds of places."""

import pathlib

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "http://places2.csail.mit.edu/download.html"
FOLDERS = ("val_256", "val_large")
LIST = "places365_val.txt"
REMEDY = f"get val_256.tar and filelist_places365-standard.tar from {HOMEPAGE}"


def listing(download: pathlib.Path) -> DatasetListing:
    """Split "val": the 36,500 validation images, 100 a class."""
    folder = reading.find(download, *FOLDERS, remedy=REMEDY)
    path = reading.find(download, LIST, f"filelist_places365-standard/{LIST}", remedy=REMEDY)
    names = path.with_name("categories_places365.txt")
    if not names.is_file():
        raise UserError(f"no {names.name} in {names.parent}; {REMEDY}")
    table = list(reading.table(names, header=("name", "label"), delimiter=" "))
    if [reading.integer(row["label"], names) for row in table] != list(range(len(table))):
        raise UserError(f"{names} does not count its classes from 0")
    classes = tuple(class_name(row["name"]) for row in table)
    known = classes == reading.lines(HERE / "classes.txt")
    present = reading.scan(folder, (".jpg",))
    rows: list[Row] = []
    missing = 0
    for row in reading.table(path, header=("file", "label"), delimiter=" "):
        label = reading.integer(row["label"], path)
        if not 0 <= label < len(classes):
            raise UserError(f"{path}: class {label} is not one of the {len(classes)}")
        file = present.get(row["file"].removesuffix(".jpg"))
        if file is None:
            missing += 1
        else:
            rows.append({"id": f"val/{file}", "vision": folder / file, "label": label})
    reading.check_found({"val": rows}, {"val": missing}, f"{folder}/Places365_val_00000001.jpg")
    return DatasetListing(
        splits={"val": rows},
        classes=classes,
        prompts=reading.templates(),
        missing={"val": missing},
        notes=() if known else (f"{names.name} is not the usual list of 365",),
    )


def class_name(category: str) -> str:
    """/a/apartment_building/outdoor -> outdoor apartment building: the qualifier comes first."""
    _, _, place, *kind = category.split("/")
    return " ".join([*kind, place]).replace("_", " ")


DATASET = Dataset(
    name="places365",
    title="Places365-Standard, validation",
    licence="the images' copyright is their owners' (see README.md)",
    homepage=HOMEPAGE,
    modalities=("vision",),
    listing=listing,
)
