"""AudioSet: two million 10 s segments of YouTube videos, each with several of 527 sound classes."""

import pathlib
from collections.abc import Sequence

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://research.google.com/audioset/download.html"
TABLES = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
SPLITS = ("balanced_train", "unbalanced_train", "eval")
COLUMNS = ("YTID", "start_seconds", "end_seconds", "positive_labels")
# Where the segments of a split may be; the first folder that has one wins.
FOLDERS = (
    *("{}_segments", "{}", "audio/{}_segments", "audio/{}", "audio"),
    *("video/{}_segments", "video/{}", "video"),
)


class Segments(Sequence[Row]):
    """The rows of a split, each made when asked for: two million `dict`s would take gigabytes."""

    def __init__(self, folders: list[pathlib.Path], lines: list[str]):
        """Each line: video, start in seconds, labels, which folder, file name, between tabs."""
        self._folders, self._lines = folders, lines

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Segments(self._folders, self._lines[index])
        video, start, labels, where, name = self._lines[index].split("\t", 4)
        path = self._folders[int(where)] / name
        label = [int(text) for text in labels.split(",")]
        return {"id": f"{video}_{start}", reading.medium(path): path, "label": label}


def listing(download: pathlib.Path) -> DatasetListing:
    """The rows of the segment tables that are there, one split each."""
    found = {split: reading.seek(download, f"{split}_segments.csv") for split in SPLITS}
    tables = {split: path for split, path in found.items() if path is not None}
    if not tables:
        wanted = " or ".join(f"{split}_segments.csv" for split in SPLITS)
        raise UserError(f"no {wanted} in {download}; get them from {TABLES}/")
    classes, mids, notes = _classes(download)
    splits, missing = {}, {}
    for split, table in tables.items():
        splits[split], missing[split] = _segments(download, split, table, mids)
    reading.check_found(splits, missing, "e.g. eval_segments/YTID.wav, YTID_30.flac, YYTID.mp4")
    return DatasetListing(splits, classes, reading.templates(), missing, notes)


def _classes(download: pathlib.Path) -> tuple[tuple[str, ...], dict[str, int], tuple[str, ...]]:
    """Names, {machine id: label}, notes: the download's table's, or the known ones."""
    known = reading.lines(HERE / "classes.txt")
    path = reading.seek(download, "class_labels_indices.csv")
    if path is None:
        mids = reading.lines(HERE / "mids.txt")
        return known, {mid: label for label, mid in enumerate(mids)}, ()
    rows = list(reading.table(path, ("index", "mid", "display_name")))
    if [row["index"] for row in rows] != [str(label) for label in range(len(rows))]:
        raise UserError(
            f"{path}: the column index does not count 0, 1, 2 ...; get it from {TABLES}/"
        )
    names = tuple(row["display_name"] for row in rows)
    differ = f"{path.name}: its {len(names)} classes are not the {len(known)} known ones"
    labels = {row["mid"]: label for label, row in enumerate(rows)}
    return names, labels, () if names == known else (differ,)


def _segments(
    download: pathlib.Path, split: str, table: pathlib.Path, mids: dict[str, int]
) -> tuple[Segments, int]:
    """The split's rows whose file is there, and how many are not."""
    folders = [
        folder / pattern.format(split)
        for folder in reading.folders(download)
        for pattern in FOLDERS
    ]
    files: dict[str, str] = {}  # video -> which folder, file name
    for where, folder in enumerate(folders):
        for stem, name in reading.scan(folder, (*reading.VIDEO, *reading.AUDIO)).items():
            for video in reading.video_ids(stem):
                files.setdefault(video, f"{where}\t{name}")
    lines, missing = [], 0
    for row in reading.table(table, header=COLUMNS, comment="#"):
        if (file := files.get(row["YTID"])) is None:
            missing += 1
            continue
        try:
            labels = ",".join(str(mids[mid]) for mid in row["positive_labels"].split(","))
        except KeyError as error:
            raise UserError(f"{table}: {row['YTID']} has the unknown label {error}") from error
        start = reading.seconds(row["start_seconds"], table)
        lines.append(f"{row['YTID']}\t{start:g}\t{labels}\t{file}")
    return Segments(folders, lines), missing


DATASET = Dataset(
    name="audioset",
    title="AudioSet: sound events in YouTube videos",
    licence="tables CC BY 4.0 (Google); the videos are their authors', and are not distributed",
    homepage=HOMEPAGE,
    modalities=("vision", "audio"),
    listing=listing,
)
