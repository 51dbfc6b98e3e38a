"""AudioCaps: captions of 10 s segments of AudioSet."""

import pathlib
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HOMEPAGE = "https://github.com/cdjkim/audiocaps"
SUBSET = "https://www.robots.ox.ac.uk/~vgg/research/audio-retrieval/"
SPLITS = ("train", "val", "test")
COLUMNS = ("youtube_id", "start_time", "caption")
FOLDERS = ("{}", "audio/{}", "video/{}", "audio", "video")


def listing(download: pathlib.Path) -> DatasetListing:
    """The rows of the tables that are there; Oxford's subset, which the paper uses, goes first."""
    splits: dict[str, list[dict[str, Any]]] = {}
    missing, notes = {}, []
    for split in SPLITS:
        subset = reading.seek(
            download, f"AudioCaps_retrieval_dataset/retrieval_{split}.csv", f"retrieval_{split}.csv"
        )
        table = subset or reading.seek(download, f"dataset/{split}.csv", f"{split}.csv")
        if table is not None:
            splits[split], missing[split] = _rows(download, split, table)
            notes += [f"{split}: the paper's subset, {table.name}"] if subset else []
    if not splits:
        raise UserError(f"no dataset/test.csv in {download}; clone {HOMEPAGE} there")
    reading.check_found(splits, missing, "e.g. test/YTID.wav, YTID_30.flac, YTID_30000_40000.flac")
    if "test" in splits and not any(note.startswith("test:") for note in notes):
        notes.append(f"test: the whole split, not the paper's 796 clips: see {SUBSET}")
    return DatasetListing(splits, missing=missing, notes=tuple(notes))


def _rows(
    download: pathlib.Path, split: str, table: pathlib.Path
) -> tuple[list[dict[str, Any]], int]:
    """The split's rows whose file is there, with all captions of a segment, and how many are not."""
    captions: dict[tuple[str, float], list[str]] = {}
    for row in reading.table(table, COLUMNS):
        segment = row["youtube_id"], reading.seconds(row["start_time"], table)
        captions.setdefault(segment, []).append(row["caption"])
    folders = [folder.format(split) for folder in FOLDERS]
    stems = reading.media(download, *folders, suffixes=(*reading.VIDEO, *reading.AUDIO))
    files: dict[str, pathlib.Path] = {}
    for stem, path in stems.items():
        for video in reading.video_ids(stem):
            files.setdefault(video, path)
    rows: list[dict[str, Any]] = []
    for (video, start), texts in captions.items():
        if (path := files.get(video)) is not None:
            rows.append({"id": f"{video}_{start:g}", reading.medium(path): path, "text": texts})
    return rows, len(captions) - len(rows)


DATASET = Dataset(
    name="audiocaps",
    title="AudioCaps: captions of AudioSet's sounds",
    licence="captions MIT, for academic use; the videos are their authors'",
    homepage=HOMEPAGE,
    modalities=("vision", "audio", "text"),
    listing=listing,
)
