"""Kinetics-400: 10 s clips of YouTube videos, in each one of 400 human actions."""

import pathlib
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, Listing

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://github.com/cvdfoundation/kinetics-dataset"
SPLITS = ("train", "val")
COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def listing(download: pathlib.Path) -> Listing:
    """The rows of `annotations/{train,val}.csv` or, without those, of a folder a class."""
    known = reading.lines(HERE / "classes.txt")
    tables = {split: reading.seek(download, f"annotations/{split}.csv") for split in SPLITS}
    files = {split: _files(download, split) for split in SPLITS}
    named, source = [], pathlib.Path("the folders")
    for split, table in tables.items():
        if table is not None:
            named += _from_table(split, table)
            source = table
    if not named:
        named = _from_folders(files)
    if not named:
        wanted = "annotations/val.csv, nor val/{class}/*.mp4"
        raise UserError(f"no {wanted} in {download}; run k400_downloader.sh of {HOMEPAGE}")
    classes, notes = reading.settle(known, {name for _, _, name, _ in named}, source)
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split, _, _, _ in named}
    missing = dict.fromkeys(splits, 0)
    for split, stem, name, video in named:
        if (path := files[split].get(video)) is None:
            missing[split] += 1
        else:
            splits[split].append({"id": stem, "vision": path, "label": labels[name]})
    reading.check_found(splits, missing, "e.g. val/{id}_{start:06d}_{end:06d}.mp4")
    return Listing(splits, classes, reading.lines(HERE / "prompts.txt"), missing, notes)


def _files(download: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
    """{YouTube id: path} of a split's clips, those that replace corrupted ones first."""
    found: dict[str, pathlib.Path] = {}
    for folder in reading.folders(download):
        flat = [folder / split, folder / "videos" / split]
        deep = [inner for outer in flat if outer.is_dir() for inner in reading.folders(outer)[1:]]
        for place in (folder / "replacement/replacement_for_corrupted_k400", *flat, *deep):
            for stem, name in reading.scan(place, reading.VIDEO).items():
                found.setdefault(stem[: reading.VIDEO_ID], place / name)
    return found


def _from_table(split: str, table: pathlib.Path) -> list[tuple[str, str, str, str]]:
    """(split, id, class, YouTube id) of each line of an official table."""
    found = []
    for row in reading.table(table, COLUMNS):
        start, end = (reading.integer(row[name], table) for name in ("time_start", "time_end"))
        video = row["youtube_id"]
        found.append((split, f"{video}_{start:06d}_{end:06d}", row["label"], video))
    return found


def _from_folders(files: dict[str, dict[str, pathlib.Path]]) -> list[tuple[str, str, str, str]]:
    """The same of folders named as the classes, with spaces or underscores."""
    return [
        (split, path.stem, path.parent.name.replace("_", " "), video)
        for split, paths in files.items()
        for video, path in sorted(paths.items(), key=lambda item: str(item[1]))
        if path.parent.name not in (split, "replacement_for_corrupted_k400")
    ]


DATASET = Dataset(
    name="kinetics400",
    title="Kinetics-400: human actions in YouTube videos",
    licence="annotations CC BY 4.0 (Google); the videos are their authors'",
    homepage=HOMEPAGE,
    modalities=("vision", "audio"),
    listing=listing,
)
