"""Samples of the world as files, such as people have: a folder a modality, and a manifest of all."""

import json
import pathlib

from imagebind_jax.inputs.world.attributes import MATERIALS, SHAPES
from imagebind_jax.inputs.world.world import World

FOLDERS = {
    "vision": "photos",
    "audio": "sounds",
    "depth": "depth",
    "thermal": "heat",
    "imu": "moves",
}
SUFFIXES = {"vision": "jpg", "audio": "flac", "depth": "png", "thermal": "png", "imu": "npy"}


def export_files(
    folder: pathlib.Path, world: World, count: int, split: str = "test"
) -> pathlib.Path:
    """Writes `count` samples; returns the manifest. What is there already is written over.

    A photo is the first frame of a sample's clip. Names say what is in it, such as
    `sounds/007-ring-glass.flac`; captions are in `words/` as well as in the manifest.
    """
    lines = []
    for index in range(count):
        record = world.record(split, index)
        labels = record["labels"]
        name = f"{index:03d}-{SHAPES[labels['shape']]}-{MATERIALS[labels['material']]}"
        media = {m: record[m][0] if m == "vision" else record[m] for m in FOLDERS}
        line = {m: f"{FOLDERS[m]}/{name}.{SUFFIXES[m]}" for m in FOLDERS}
        for modality, data in media.items():
            _put(folder / line[modality], data)
        _put(folder / "words" / f"{name}.txt", record["text"].encode())
        said = {key: record[key] for key in ("focal_length", "baseline", "imu_rate")}
        about = {"shape": SHAPES[labels["shape"]], "material": MATERIALS[labels["material"]]}
        lines.append(json.dumps({**line, "text": record["text"], **said, **about}))
    path = folder / "all.jsonl"
    _put(path, "".join(f"{line}\n" for line in lines).encode())
    return path


def _put(path: pathlib.Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
