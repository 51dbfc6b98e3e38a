"""ESC-50: 2,000 environmental sounds of 5 s in 50 classes and five folds."""

import pathlib
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://github.com/karolpiczak/ESC-50"
REMEDY = f"download and unpack {HOMEPAGE}/archive/master.zip"
FOLDS = 5


def listing(download: pathlib.Path) -> DatasetListing:
    """The rows of `ESC-50-master/`, one split a fold."""
    table = reading.find(download, "meta/esc50.csv", remedy=REMEDY)
    files = reading.media(download, "audio", suffixes=(".wav",))
    classes = list(reading.lines(HERE / "classes.txt"))
    splits: dict[str, list[dict[str, Any]]] = {f"fold{fold + 1}": [] for fold in range(FOLDS)}
    missing = dict.fromkeys(splits, 0)
    notes = []
    for row in reading.table(table, ("filename", "fold", "target", "category")):
        fold, label = (reading.integer(row[name], table) for name in ("fold", "target"))
        if not (0 <= label < len(classes) and 1 <= fold <= FOLDS):
            raise UserError(f"{table}: {row['filename']} has fold {fold}, target {label}")
        category = row["category"].replace("_", " ")
        if category != classes[label]:
            notes.append(f"{table.name}: class {label} is {category!r}, not {classes[label]!r}")
            classes[label] = category
        stem = pathlib.PurePath(row["filename"]).stem
        if stem in files:
            item = {"id": stem, "audio": files[stem], "label": label, "fold": fold}
            splits[f"fold{fold}"].append(item)
        else:
            missing[f"fold{fold}"] += 1
    reading.check_found(splits, missing, f"audio/*.wav; {REMEDY}")
    return DatasetListing(splits, tuple(classes), reading.templates(), missing, tuple(notes))


DATASET = Dataset(
    name="esc50",
    title="ESC-50: environmental sound classification",
    licence="CC BY-NC 3.0 (each clip by its Freesound author)",
    homepage=HOMEPAGE,
    modalities=("audio",),
    listing=listing,
)
