"""CREMA-D: 91 actors speak twelve sentences in six emotions, of which four are taken."""

import pathlib
import re
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HERE = pathlib.Path(__file__).parent
HOMEPAGE = "https://github.com/CheyneyComputerScience/CREMA-D"
REMEDY = f"clone {HOMEPAGE} with git lfs, and convert its Flash videos (README.md)"
# Actor, sentence, emotion, level: LO, MD, HI or, where none was asked for, XX (one is said to have X).
NAME = re.compile(
    r"(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>\w{1,2})"
)
EMOTIONS = {"ANG": "angry", "HAP": "happy", "SAD": "sad", "NEU": "neutral"}  # not disgust, fear
# Ours: no official split is known.
SPLITS = {"train": range(1001, 1064), "val": range(1064, 1078), "test": range(1078, 1092)}
VOTES = {"VoiceVote": "voice_vote", "FaceVote": "face_vote", "MultiModalVote": "both_vote"}
PEOPLE = {"Age": "age", "Sex": "sex"}


def listing(download: pathlib.Path) -> DatasetListing:
    """The files of `VideoFlash`, converted, and `AudioWAV`, one split each actor.

    `processedResults/summaryTable.csv` says which there should be and what people heard and saw,
    `VideoDemographics.csv` who speaks; without them less is known.
    """
    classes = reading.lines(HERE / "classes.txt")
    videos = reading.media(download, "VideoFlash", suffixes=reading.VIDEO)
    flash = reading.media(download, "VideoFlash", suffixes=(".flv",)).keys() - videos.keys()
    sounds = reading.media(download, "AudioWAV", suffixes=(".wav",))
    votes = _table(download, "processedResults/summaryTable.csv", "FileName", VOTES)
    people = _table(download, "VideoDemographics.csv", "ActorID", PEOPLE)
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    missing = dict.fromkeys(SPLITS, 0)
    for stem in sorted(videos.keys() | sounds.keys() | votes.keys()):
        parts = NAME.fullmatch(stem)
        if parts is None or parts["emotion"] not in EMOTIONS:
            continue
        actor = int(parts["actor"])
        split = next((name for name, actors in SPLITS.items() if actor in actors), None)
        if split is None:
            raise UserError(f"{stem} in {download} is of no actor from 1001 to 1091")
        if stem not in videos and stem not in sounds:
            missing[split] += 1
            continue
        files = {"vision": videos.get(stem), "audio": sounds.get(stem)}
        splits[split].append(
            {
                "id": stem,
                **{field: path for field, path in files.items() if path},
                "label": classes.index(EMOTIONS[parts["emotion"]]),
                "actor": actor,
                "sentence": parts["sentence"],
                "level": parts["level"],
                **votes.get(stem, {}),
                **people.get(str(actor), {}),
            }
        )
    if not any(splits.values()):
        wanted = "VideoFlash/1001_DFA_ANG_XX.mp4 or AudioWAV/1001_DFA_ANG_XX.wav"
        raise UserError(f"no {wanted} in {download}; {REMEDY}")
    notes = (f"{len(flash)} of the videos are Flash, which is not read: convert them (README.md)",)
    prompts = reading.lines(HERE / "prompts.txt")
    return DatasetListing(splits, classes, prompts, missing, notes if flash else ())


def _table(
    download: pathlib.Path, name: str, key: str, fields: dict[str, str]
) -> dict[str, dict[str, str]]:
    """{row[key]: {the record's field: the column's text}}, or nothing where there is no such table."""
    path = reading.seek(download, name)
    if path is None:
        return {}
    return {
        row[key]: {field: row[column] for column, field in fields.items()}
        for row in reading.table(path, (key, *fields))
    }


DATASET = Dataset(
    name="crema_d",
    title="CREMA-D: emotional speech and its pictures, as people judged them",
    licence="Open Database License 1.0; contents Database Contents License 1.0",
    homepage=HOMEPAGE,
    modalities=("vision", "audio"),
    listing=listing,
)
