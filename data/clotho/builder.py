"""Clotho: recordings of 15 to 30 s from Freesound, with five captions each."""

import pathlib
import re
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HOMEPAGE = "https://zenodo.org/records/4783391"
SPLITS = ("development", "validation", "evaluation")
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def listing(download: pathlib.Path) -> DatasetListing:
    """The rows of the caption tables that are there, one split each."""
    splits: dict[str, list[dict[str, Any]]] = {}
    missing = {}
    for split in SPLITS:
        name = f"clotho_captions_{split}.csv"
        table = reading.seek(download, name, f"clotho_csv_files/{name}")
        if table is not None:
            splits[split], missing[split] = _rows(download, split, table)
    if not splits:
        raise UserError(f"no clotho_captions_evaluation.csv in {download}; get it from {HOMEPAGE}")
    reading.check_found(splits, missing, f"evaluation/*.wav; unpack {HOMEPAGE}'s .7z")
    return DatasetListing(splits, missing=missing)


def _rows(
    download: pathlib.Path, split: str, table: pathlib.Path
) -> tuple[list[dict[str, Any]], int]:
    """The split's rows whose file is there, and how many are not."""
    folders = (split, f"clotho_audio_{split}", f"clotho_audio_files/{split}")
    files = reading.media(download, *folders, suffixes=(".wav", ".flac"))
    rows, missing = [], 0
    for row in reading.table(table, ("file_name", *CAPTIONS)):
        stem = row["file_name"].removesuffix(".wav")
        # Some unpackers cannot write the colons of names like "w: Dripping".
        path = files.get(stem) or files.get(re.sub(r"\s*:\s*", "_", stem))
        if path is None:
            missing += 1
        else:
            captions = [row[caption] for caption in CAPTIONS]
            rows.append({"id": f"{split}/{stem}", "audio": path, "text": captions})
    return rows, missing


DATASET = Dataset(
    name="clotho",
    title="Clotho: audio captioning",
    licence="captions: Tampere University licence, non-commercial; each recording its author's CC",
    homepage=HOMEPAGE,
    modalities=("audio", "text"),
    listing=listing,
)
