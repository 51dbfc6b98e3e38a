"""RAVDESS: 24 actors speak two sentences in eight emotions, of which four are taken."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://zenodo.org/records/1188976"
REMEDY = f"unpack the Video_Speech_Actor_*.zip of {HOMEPAGE}"
# Modality, vocal channel, emotion, intensity, statement, repetition, actor: two digits each.
NAME = re.compile(r"-".join(rf"(?P<{name}>\d\d)" for name in (
    "modality", "channel", "emotion", "intensity", "statement", "repetition", "actor")))  # fmt: skip
EMOTIONS = {"05": "angry", "03": "happy", "04": "sad", "01": "neutral"}  # calm, 02, is left out
SPEECH = "01"  # of the vocal channels; 02 is song
# Ours, odd numbers men and even ones women: no official split is known.
SPLITS = {"train": range(1, 17), "val": range(17, 21), "test": range(21, 25)}
OF_EACH = 28  # recordings of the four emotions by an actor: 3 x 8, and 4 neutral ones
DEEPEST = 3  # folders down to Actor_01


def listing(download: pathlib.Path) -> DatasetListing:
    """The files of the folders `Actor_01` ... `Actor_24`, one split each actor."""
    classes = reading.lines(HERE / "classes.txt")
    rows: dict[str, dict[str, Any]] = {}
    for folder in sorted(_folders(download, DEEPEST)):
        for stem, name in sorted(reading.scan(folder, (".mp4", ".wav")).items()):
            # Both of one stem there cannot be: the modality is a part of it.
            parts = NAME.fullmatch(stem)
            if parts and parts["channel"] == SPEECH and parts["emotion"] in EMOTIONS:
                row = rows.setdefault(stem[3:], _row(parts, stem[3:], classes))
                _add(row, parts["modality"], folder / name)
    splits: dict[str, list[dict[str, Any]]] = {
        split: [rows[each] for each in sorted(rows) if rows[each]["actor"] in actors]
        for split, actors in SPLITS.items()
    }
    if not any(splits.values()):
        wanted = "Actor_01/01-01-05-01-01-01-01.mp4 or Actor_01/03-01-05-01-01-01-01.wav"
        raise UserError(f"no {wanted} in {download}; {REMEDY}")
    found, whole = sum(map(len, splits.values())), OF_EACH * 24
    notes = (f"{found} of the {whole} recordings in speech of four emotions are there",)
    return DatasetListing(
        splits, classes, reading.lines(HERE / "prompts.txt"), {}, notes if found < whole else ()
    )


def _folders(folder: pathlib.Path, depth: int) -> Iterator[pathlib.Path]:
    """The actors' folders, however the archives were unpacked."""
    for inner in reading.folders(folder)[1:]:
        if re.fullmatch(r"Actor_\d\d", inner.name):
            yield inner
        elif depth > 1:
            yield from _folders(inner, depth - 1)


def _row(parts: re.Match[str], name: str, classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "id": name,
        "label": classes.index(EMOTIONS[parts["emotion"]]),
        **{key: int(parts[key]) for key in ("actor", "intensity", "statement", "repetition")},
    }


def _add(row: dict[str, Any], modality: str, path: pathlib.Path) -> None:
    """01 has pictures and sound, 02 pictures alone and is taken where there is no other, 03 sound."""
    if modality == "03":
        row["audio"] = path
    elif modality == "01" or (modality == "02" and "vision" not in row):
        row["vision"] = path


DATASET = Dataset(
    name="ravdess",
    title="RAVDESS: emotional speech and its pictures",
    licence="CC BY-NC-SA 4.0",
    homepage=HOMEPAGE,
    modalities=("vision", "audio"),
    listing=listing,
)
