"""Ego4D: 5 s of head-worn motion (IMU), and of video where it is there, around each narration."""

import functools
import hashlib
import io
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float
from PIL import Image

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import Dataset, DatasetListing, Row
from imagebind_jax.inputs.decoders import imu_files, media

HOMEPAGE = "https://ego4d-data.org/docs/start-here/"
REMEDY = f"`ego4d --datasets annotations imu --output_directory DIR`, see {HOMEPAGE}"
SECONDS = 5.0  # of a window
FRAMES = 10  # of video in a window, evenly spaced
SHORT_SIDE = 256  # pixels at most: whole frames of all clips would be more than a terabyte
WIDEST_GAP = 1.0  # seconds without a sample that a window may have
MAX_BYTES, BLOCK = 1 << 30, 1 << 24  # of a CSV file, of which an hour has 0.12 GB, and at once
COLUMNS = ("canonical_timestamp_ms", "accl_x", "accl_y", "accl_z", "gyro_x", "gyro_y", "gyro_z")
# A field that has no value, also as the first or last of a line.
ABSENT = re.compile(
    rf"(?m)(?:(?<=,)|^(?=[^\r\n]))(?:{'|'.join(imu_files.MISSING)})(?=[,\r\n]|\Z)".encode()
)
TEST_SHARE = 68_865 / (510_142 + 68_865)  # the paper's clips
VIDEOS = ("full_scale", "video_540ss")


class Video(msgspec.Struct):
    """What is used of a video in ego4d.json."""

    video_uid: str
    duration_sec: float | None = None
    scenarios: list[str] | None = None
    has_imu: bool | None = None


class Metadata(msgspec.Struct):
    videos: list[Video]


class Narration(msgspec.Struct):
    timestamp_sec: float | None = None


class Pass(msgspec.Struct):
    narrations: list[Narration] | None = None


class Narrated(msgspec.Struct):
    """What is used of a video in narration.json."""

    narration_pass_1: Pass | None = None
    narration_pass_2: Pass | None = None


def listing(download: pathlib.Path) -> DatasetListing:
    """Splits "train" and "test", windows of a video together, so that workers read each CSV once.

    Only videos with exactly one scenario, which is the label; each video is in one split, drawn by
    its name and so the same for any part of Ego4D that is there.
    """
    videos = _decode(reading.find(download, "ego4d.json", remedy=REMEDY), Metadata).videos
    told = reading.find(
        download, "annotations/narration.json", "v2/annotations/narration.json", remedy=REMEDY
    )
    narrations = _decode(told, dict[str, Narrated | None])
    imu = reading.find(download, "imu", "v2/imu", remedy=REMEDY)
    sensed = reading.scan(imu, (".csv",))
    seen = {folder: reading.scan(imu.parent / folder, (".mp4",)) for folder in VIDEOS}
    single = sorted((v for v in videos if len(v.scenarios or ()) == 1), key=lambda v: v.video_uid)
    classes = tuple(sorted({scenario(video) for video in single}))
    splits: dict[str, list[Row]] = {"train": [], "test": []}
    missing = {"train": 0, "test": 0}
    for video in single:
        uid = video.video_uid
        split = "test" if share(uid) < TEST_SHARE else "train"
        starts = list(_starts(video, narrations.get(uid) or Narrated()))
        if uid not in sensed:
            missing[split] += len(starts) if video.has_imu else 0
            continue
        row = {"imu_file": imu / sensed[uid], "scenario": scenario(video)}
        row["label"] = classes.index(row["scenario"])
        if folder := next((folder for folder in VIDEOS if uid in seen[folder]), None):
            row["video_file"] = imu.parent / folder / seen[folder][uid]
        for index, start in enumerate(starts):
            splits[split].append({"id": f"{split}/{uid}/{index:05d}", "start": start, **row})
    if not any((*splits.values(), *missing.values())):
        none = f"none of the {len(single)} videos with one scenario has both narrations and IMU"
        raise UserError(f"{none}, by {told} and ego4d.json: {REMEDY}")
    reading.check_found(splits, missing, f"{imu}/VIDEO_UID.csv")
    notes = (f"{len(single)} of {len(videos)} videos have one scenario",)
    return DatasetListing(splits, classes, reading.templates(), missing, notes)


def scenario(video: Video) -> str:
    return " ".join((video.scenarios or [""])[0].split())


def share(uid: str) -> float:
    """A number in [0, 1) that depends on the video's name alone."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:6], "big") / 2**48


def _starts(video: Video, narrated: Narrated) -> Iterator[float]:
    """Of the windows centred on the narrations, moved inwards where they reach beyond the video."""
    last = np.inf if video.duration_sec is None else video.duration_sec - SECONDS
    passes = (narrated.narration_pass_1, narrated.narration_pass_2)
    told = (n.timestamp_sec for each in passes if each for n in each.narrations or ())
    times = sorted(time for time in told if time is not None)
    if last >= 0:
        yield from (float(np.clip(time - SECONDS / 2, 0.0, last)) for time in times)


def _decode(path: pathlib.Path, kind: Any) -> Any:
    """JSON of hundreds of megabytes, of which only the named fields are kept."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        raise UserError(f"cannot read {path}: {error}; {REMEDY}") from error


def record(row: Row) -> Mapping[str, Any]:
    """ "imu": .npy, float32 [n, 7]: seconds from the window's start, acceleration, angular velocity.

    "vision", where the video is there: JPEGs, the short side 256 pixels or less, of 10 moments of
    the window, the middles of its tenths. Raises `MediaError`, also where samples are missing.
    """
    made = {key: row[key] for key in ("id", "label", "scenario")}
    made["imu"] = cut(read_samples(row["imu_file"]), row["start"], row["imu_file"])
    if "video_file" in row:
        made["vision"] = _frames(row["video_file"], row["start"])
    return made


def cut(samples: Float[np.ndarray, "n 7"], start: float, source: pathlib.Path) -> bytes:
    """The rows from the last one before the window to the first one after it, as .npy."""
    times = samples[:, 0]
    first = max(int(np.searchsorted(times, start, "right")) - 1, 0)
    stop = int(np.searchsorted(times, start + SECONDS, "left")) + 1
    part = samples[first:stop].copy()
    part[:, 0] -= start
    edges = np.concatenate([[0.0], np.clip(part[:, 0], 0.0, SECONDS), [SECONDS]])
    if (gap := float(np.diff(edges).max())) > WIDEST_GAP:
        reason = f"no sample for {gap:.1f} s of the {SECONDS:.0f} s from {start:.1f} s on"
        raise media.MediaError(os.fspath(source), reason)
    buffer = io.BytesIO()
    np.save(buffer, part.astype(np.float32))
    return buffer.getvalue()


@functools.lru_cache(maxsize=1)  # the windows of a video follow one another
def read_samples(path: pathlib.Path) -> Float[np.ndarray, "n 7"]:
    """(seconds in the canonical video, acceleration, angular velocity) of a CSV file, by time.

    Rows without a time (which lie outside the video) or without a value are left out: both are
    among the defects that Ego4D documents, and so are rows out of order. Raises `MediaError`.
    """
    with media.open_media(path) as file, media.wrap_decode_errors(path):
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        header = file.readline(4096).decode().strip().split(",")
        if absent := [name for name in COLUMNS if name not in header]:
            raise ValueError(f"no column {absent[0]}")
        columns = [header.index(name) for name in COLUMNS]
        blocks = []
        while lines := file.readlines(BLOCK):
            blocks.append(_numbers(ABSENT.sub(b"nan", b"".join(lines)), columns))
        samples = np.concatenate([np.empty((0, len(COLUMNS))), *blocks])
    samples = samples[np.isfinite(samples).all(axis=-1)]
    samples[:, 0] /= 1000
    return samples[np.argsort(samples[:, 0], kind="stable")]


def _numbers(text: bytes, columns: Sequence[int]) -> Float[np.ndarray, "rows 7"]:
    """Raises ValueError."""
    if b'"' in text and any(line.count(b'"') % 2 for line in text.split(b"\n")):
        raise ValueError("a quotation that does not end in its line")
    options = {"delimiter": ",", "comments": None, "quotechar": '"', "ndmin": 2}
    return np.loadtxt(io.BytesIO(text), usecols=columns, **options)


def _frames(path: pathlib.Path, start: float) -> list[bytes]:
    from imagebind_jax.inputs.decoders import video  # needs PyAV, which the IMU alone does not

    times = start + (np.arange(FRAMES) + 0.5) * (SECONDS / FRAMES)
    return [_jpeg(image) for image in video.frames_at(path, times.tolist())]


def _jpeg(image: Image.Image) -> bytes:
    shrink = min(1.0, SHORT_SIDE / min(image.size))
    size = round(image.width * shrink), round(image.height * shrink)
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


DATASET = Dataset(
    name="ego4d",
    title="Ego4D: head-worn video and IMU",
    licence="Ego4D licence agreement, to be signed; no redistribution",
    homepage=HOMEPAGE,
    modalities=("vision", "imu"),
    listing=listing,
    record=record,
)
