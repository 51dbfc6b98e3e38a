"""MSR-VTT in the 1k-A split: a thousand test videos with one sentence each, 9,000 to train on."""

import json
import pathlib
from typing import Any

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing

HOMEPAGE = "https://github.com/ArrowLuo/CLIP4Clip"
REMEDY = f"unpack msrvtt_data.zip of {HOMEPAGE}'s releases"
VIDEOS = "unpack MSRVTT.zip of https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/"
# CLIP4Clip's, Frozen in Time's, the original archives'.
FOLDERS = ("videos", "videos/all", "MSRVTT/videos/all", "TrainValVideo", "TestVideo")


def listing(download: pathlib.Path) -> DatasetListing:
    """The rows of the JSFUSION test table and, where it is there, of the training table."""
    test = reading.find(
        download, "MSRVTT_JSFUSION_test.csv", "msrvtt_data/MSRVTT_JSFUSION_test.csv", remedy=REMEDY
    )
    sentences = {
        row["video_id"]: [row["sentence"]] for row in reading.table(test, ("video_id", "sentence"))
    }
    captions = {"test": sentences}
    train = test.with_name("MSRVTT_train.9k.csv")
    if train.exists():
        captions["train"] = _training(train, test.with_name("MSRVTT_data.json"))
    files = reading.media(download, *FOLDERS, suffixes=reading.VIDEO)
    splits: dict[str, list[dict[str, Any]]] = {}
    missing = {}
    for split, texts in captions.items():
        splits[split] = [
            {"id": video, "vision": files[video], "text": text}
            for video, text in texts.items()
            if video in files
        ]
        missing[split] = len(texts) - len(splits[split])
    reading.check_found(splits, missing, f"e.g. videos/video7020.mp4; {VIDEOS}")
    return DatasetListing(splits, missing=missing)


def _training(table: pathlib.Path, path: pathlib.Path) -> dict[str, list[str]]:
    """{video: its captions} of the videos in the training table."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        pairs = [(item["video_id"], item["caption"]) for item in told["sentences"]]
    except OSError as error:
        raise UserError(f"no {path}, which has the captions of {table.name}; {REMEDY}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not MSR-VTT's: {type(error).__name__} {error}") from error
    captions: dict[str, list[str]] = {
        row["video_id"]: [] for row in reading.table(table, ("video_id",))
    }
    for video, caption in pairs:
        if video in captions:
            captions[video].append(caption)
    if bare := [video for video, texts in captions.items() if not texts]:
        raise UserError(f"{path} has no caption of {bare[0]}, which {table.name} lists")
    return captions


DATASET = Dataset(
    name="msrvtt",
    title="MSR-VTT 1k-A: sentences about videos",
    licence="Microsoft Research, for research; the videos are their authors'",
    homepage=HOMEPAGE,
    modalities=("vision", "audio", "text"),
    listing=listing,
)
