"""Shards of samples in tar files, as WebDataset has them, read at random without unpacking."""

import dataclasses
import glob
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources import tar_index
from imagebind_jax.inputs.sources.record import (
    MAX_LINE_BYTES,
    MEDIA,
    NUMBERS,
    Record,
    check_fields,
    json_object,
    normalize_index,
    parse_number,
    read_ranges,
    validate_record,
)

FIELDS = {
    "vision": ("jpg", "jpeg", "png", "webp", "mp4", "webm", "mkv", "mov", "avi"),
    "audio": ("wav", "flac", "mp3", "ogg", "opus", "m4a"),
    "text": ("txt",),
    "depth": ("depth.png", "depth.exr", "depth.npy"),
    "thermal": ("thermal.png", "thermal.jpg"),
    "imu": ("imu.csv", "imu.npy"),
    "label": ("cls",),
}


@dataclasses.dataclass(frozen=True)
class TarShards:
    """The files of one or many uncompressed tar files, those with the same key as one sample.

    paths: a path, a pattern such as "train-*.tar", or several. A file's key is its path up to the
    first dot of its name, the rest is its ending; fields: the record's field -> the endings that it
    may have, the best one first. The object in a .json file adds its fields to the record. An id is
    a key. Other files are left alone.

    The first opening reads through all headers and keeps an index in the cache folder.
    """

    paths: str | os.PathLike | Sequence[str | os.PathLike]
    fields: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=lambda: dict(FIELDS))

    def __post_init__(self):
        object.__setattr__(self, "paths", _paths(self.paths))
        check_fields(self.fields)
        for field, endings in self.fields.items():
            if isinstance(endings, str) or not endings:
                raise UserError(f"fields[{field!r}] must be a tuple of endings: ({endings!r},)")
            if tar_index.JSON in endings:
                raise UserError(f"fields[{field!r}]: the object in a .json file is always added")

    def open(self) -> "TarRecords":
        """Raises UserError, naming the file, where one is damaged or no tar file."""
        fields = {field: [e.lower() for e in endings] for field, endings in self.fields.items()}
        return TarRecords(tar_index.build_index(_shards(_paths(self.paths)), fields))


def _paths(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> tuple[str, ...]:
    several = (paths,) if isinstance(paths, (str, os.PathLike)) else paths
    return tuple(os.fspath(path) for path in several)


def _shards(paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in paths:
        there = [path] if os.path.exists(path) else sorted(glob.glob(path))
        if not there:
            raise UserError(f"no file {path}")
        found += [os.path.abspath(name) for name in there]
    if len(set(found)) < len(found):
        raise UserError(f"{max(found, key=found.count)} is named twice")
    return found


class TarRecords(Sequence[Record]):
    """The samples of indexed tar files, read from them when they are asked for."""

    def __init__(self, folder: pathlib.Path):
        """folder: of their index."""
        self._folder, self._index = folder, tar_index.load_index(folder)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index):
        sample = self._index.sample(normalize_index(index, len(self)))
        values = read_ranges(sample.path, sample.stamp, list(sample.parts.values()))
        record: dict[str, Any] = {"id": sample.key}
        for field, data in zip(sample.parts, values):
            name = f"{sample.path}, {sample.key}, {field}"
            with media.wrap_decode_errors(name):
                record |= _fields(field, data, name)
        return validate_record(record, f"{sample.path}, {sample.key}")

    def __reduce__(self):
        return TarRecords, (self._folder,)


def _fields(field: str, data: bytes, name: str) -> dict[str, Any]:
    if not data:
        raise media.MediaError(name, "empty: 0 bytes")
    if field in MEDIA or field not in ("text", "label", tar_index.JSON, *NUMBERS):
        return {field: data}
    if len(data) > MAX_LINE_BYTES:
        raise media.MediaError(name, f"{len(data)} bytes are more than {MAX_LINE_BYTES}")
    if field == tar_index.JSON:
        return json_object(data)
    text = data.decode().strip()
    return {field: text if field == "text" else parse_number(field, text, name)}
