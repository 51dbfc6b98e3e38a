"""VGGSound: 200,000 clips of 10 s whose sound's source, one of 309 classes, is in the picture."""

import pathlib
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"
REMEDY = f"get vggsound.csv from {HOMEPAGE}"
COLUMNS = ("video", "start", "label", "split")
WHOLE = ("vggsound.csv", "data/vggsound.csv")  # the latter in the authors' repository
SPLITS = ("train", "test")
UNPACKED = "scratch/shared/beegfs/hchen/train_data/VGGSound_final/video"  # the authors' archives
FOLDERS = ("video", "videos", UNPACKED, "audio")


def listing(download: pathlib.Path) -> DatasetListing:
    """The rows of `vggsound.csv`, or of the authors' `test.csv` where only that is there."""
    table = reading.seek(download, *WHOLE) or reading.find(
        download, *WHOLE, "data/test.csv", "test.csv", remedy=REMEDY
    )
    names = _from_all(table) if table.name == "vggsound.csv" else _from_test(table)
    files = reading.media(download, *FOLDERS, suffixes=(*reading.VIDEO, *reading.AUDIO))
    known = reading.lines(HERE / "classes.txt")
    classes, notes = reading.settle(known, (label for _, label, _ in names), table)
    if table.name != "vggsound.csv":
        notes += (f"{table.name} has the test split alone; vggsound.csv has train too",)
    labels = {name: label for label, name in enumerate(classes)}
    used = [split for split in SPLITS if any(split == name[2] for name in names)]
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in used}
    missing = dict.fromkeys(used, 0)
    for stem, name, split in names:
        if (path := files.get(stem)) is None:
            missing[split] += 1
        else:
            row = {"id": stem, reading.medium(path): path, "label": labels[name]}
            splits[split].append(row)
    reading.check_found(splits, missing, "e.g. video/{id}_{start:06d}.mp4 or audio/...wav")
    return DatasetListing(splits, classes, reading.templates(), missing, notes)


def _from_all(table: pathlib.Path) -> list[tuple[str, str, str]]:
    """(stem, class, split) of each line of vggsound.csv, which begins with no header."""
    found = []
    for number, row in enumerate(reading.table(table, header=COLUMNS, comment="#")):
        if number == 0 and row["split"].strip() not in SPLITS:
            continue  # a header that somebody added
        if row["split"] not in SPLITS:
            raise UserError(f"{table}: {row['video']} is in {row['split']!r}, not train or test")
        stem = f"{row['video']}_{reading.integer(row['start'], table):06d}"
        found.append((stem, row["label"], row["split"]))
    return found


def _from_test(table: pathlib.Path) -> list[tuple[str, str, str]]:
    """The same of the authors' list of the videos that they tested with."""
    rows = reading.table(table, header=("file", "label"))
    return [(pathlib.PurePath(row["file"]).stem, row["label"], "test") for row in rows]


DATASET = Dataset(
    name="vggsound",
    title="VGGSound: audio-visual correspondence in YouTube videos",
    licence="table CC BY 4.0 (University of Oxford); the videos are their authors'",
    homepage=HOMEPAGE,
    modalities=("vision", "audio"),
    listing=listing,
)
