"""Kinetics-400: 10 s clips of YouTube videos, in each one of 400 human actions."""

import pathlib
from collections.abc import Iterable
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://github.com/cvdfoundation/kinetics-dataset"
SPLITS = ("train", "val")
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
MENDED = "replacement/replacement_for_corrupted_k400"

Clips = dict[str, dict[str, pathlib.Path]]  # split -> YouTube id -> path


def listing(download: pathlib.Path) -> DatasetListing:
    """The rows of `annotations/{train,val}.csv` or, without those, of a folder a class."""
    known = reading.lines(HERE / "classes.txt")
    tables = {split: reading.seek(download, f"annotations/{split}.csv") for split in SPLITS}
    flat = {split: _clips(_places(download, split)) for split in SPLITS}
    sorted_in = {split: _clips(_class_folders(download, split)) for split in SPLITS}
    mended = _clips(folder / MENDED for folder in reading.folders(download))
    named, source, aside = [], pathlib.Path("the folders"), []
    for split, table in tables.items():
        if table is not None:
            named += _from_table(split, table)
            source = table
    if not named:
        named = _from_folders(sorted_in)
        aside = _without_class(flat, sorted_in)
        flat = sorted_in
    if not named:
        wanted = "annotations/val.csv, nor val/{class}/*.mp4"
        raise UserError(f"no {wanted} in {download}; run k400_downloader.sh of {HOMEPAGE}")
    classes, notes = reading.settle(known, {name for _, _, name, _ in named}, source)
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split, _, _, _ in named}
    missing = dict.fromkeys(splits, 0)
    for split, stem, name, video in named:
        files = (mended, flat[split], sorted_in[split])
        if (path := next((found[video] for found in files if video in found), None)) is None:
            missing[split] += 1
        else:
            splits[split].append({"id": stem, "vision": path, "label": labels[name]})
    reading.check_found(splits, missing, "e.g. val/{id}_{start:06d}_{end:06d}.mp4")
    return DatasetListing(
        splits, classes, reading.lines(HERE / "prompts.txt"), missing, (*notes, *aside)
    )


def _places(download: pathlib.Path, split: str) -> list[pathlib.Path]:
    """Where a split's clips may be."""
    return [
        folder / place
        for folder in reading.folders(download)
        for place in (split, f"videos/{split}")
    ]


def _class_folders(download: pathlib.Path, split: str) -> list[pathlib.Path]:
    """The folders in those."""
    places = (place for place in _places(download, split) if place.is_dir())
    return [inner for place in places for inner in reading.folders(place)[1:]]


def _clips(folders: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """{YouTube id: path} of the clips in these folders, the first one winning."""
    found: dict[str, pathlib.Path] = {}
    for folder in folders:
        for stem, name in reading.scan(folder, reading.VIDEO).items():
            found.setdefault(stem[: reading.VIDEO_ID], folder / name)
    return found


def _without_class(flat: Clips, sorted_in: Clips) -> list[str]:
    """Notes of clips that lie in no class's folder, where nothing else says what they are of."""
    counts = {split: len(flat[split].keys() - sorted_in[split].keys()) for split in flat}
    return [
        f"{split}: {count} clips in no class's folder are left out"
        for split, count in counts.items()
        if count
    ]


def _from_table(split: str, table: pathlib.Path) -> list[tuple[str, str, str, str]]:
    """(split, id, class, YouTube id) of each line of an official table."""
    found = []
    for row in reading.table(table, COLUMNS):
        start, end = (reading.integer(row[name], table) for name in ("time_start", "time_end"))
        video = row["youtube_id"]
        found.append((split, f"{video}_{start:06d}_{end:06d}", row["label"], video))
    return found


def _from_folders(sorted_in: Clips) -> list[tuple[str, str, str, str]]:
    """The same of folders named as the classes, with spaces or underscores."""
    return [
        (split, path.stem, path.parent.name.replace("_", " "), video)
        for split, paths in sorted_in.items()
        for video, path in sorted(paths.items(), key=lambda item: str(item[1]))
    ]


DATASET = Dataset(
    name="kinetics400",
    title="Kinetics-400: human actions in YouTube videos",
    licence="annotations CC BY 4.0 (Google); the videos are their authors'",
    homepage=HOMEPAGE,
    modalities=("vision", "audio"),
    listing=listing,
)
